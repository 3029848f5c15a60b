"""Whatever a file holds, it is read with true counts, or refused in one line that names it."""

import csv
import datetime
import decimal
import functools
import gzip
import json
import os
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmindexer_jax.data import readers
from lmindexer_jax.data.corpus import open_corpus
from lmindexer_jax.data.documents import CorpusConfig, Document, OnBad, read_documents
from lmindexer_jax.data.embeddings import read_embeddings
from lmindexer_jax.data.interactions import read_interactions
from lmindexer_jax.data.records import Dropped, Reason
from lmindexer_jax.data.relevance import RelevanceConfig, open_task
from lmindexer_jax.data.trec import read_qrels, read_run
from lmindexer_jax.errors import UserError

LONGEST = 2000  # characters of an error line


def outcome(read):
    """What a reader makes of a file: its result, or the line by which it refuses."""
    try:
        return read()
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < LONGEST
        return error


def items(path, **changes):
    """Everything that a corpus file gives, as pairs of line number and id or reason."""
    found = list(read_documents(CorpusConfig(path=str(path), **changes)))
    for item in found:
        assert len(str(item)) < LONGEST or isinstance(item, Document)
        assert "\n" not in str(item) and str(item).encode()
    return found


texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(str.strip)


def line(reason: Reason | None, **fields) -> tuple[bytes, Reason | None]:
    return json.dumps(fields).encode(), reason


LINES = st.one_of(
    texts.map(lambda text: line(None, id=text, text=text)),
    st.just(line(None, id="huge", text="x" * 300_000)),
    st.integers().map(lambda number: line(None, id=number, text="a\0b", path="a > b")),
    st.tuples(texts, st.integers(1, 12)).map(lambda drawn: (line(None, id=1, text=drawn[0])[0][: drawn[1]], Reason.INVALID_JSON)),
    st.sampled_from([400, 3000, 100_000]).map(lambda depth: (b'{"id": 1, "text": ' + b"[" * depth, Reason.INVALID_JSON)),
    st.integers(2, 400).map(lambda depth: line(Reason.BAD_PATH, id="x", text="x", path=[json.loads("[" * depth + "]" * depth)])),
    st.just(line(Reason.BAD_PATH, id="x", text="x", path=["y" * 100_000, ["y" * 100_000]])),
    st.just((b'{"id": "x", "text": "\xff"}', Reason.BAD_UTF8)),
    st.just((b'{"id": "\\ud800", "text": "x"}', Reason.BAD_UTF8)),
    st.sampled_from([b"[1]", b"null", b'"id"', b"7"]).map(lambda raw: (raw, Reason.WRONG_TYPE)),
    st.sampled_from([1.5, True, [], {}]).map(lambda value: line(Reason.WRONG_TYPE, id=value, text="x")),
    st.sampled_from([{}, [[["x"]]], [{}], True]).map(lambda value: line(Reason.WRONG_TYPE, id="x", text=value)),
    st.sampled_from([{"text": "x"}, {"id": None, "text": "x"}, {"id": "", "text": "x"}]).map(lambda row: line(Reason.MISSING_ID, **row)),
    st.sampled_from(["", " \t", None, [], ["", None]]).map(lambda value: line(Reason.EMPTY_TEXT, id="x", text=value)),
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.lists(LINES, min_size=1, max_size=12), st.sampled_from([b"\n", b"\r\n", b"\n\n"]), st.booleans(), st.booleans())
def test_a_corpus_of_good_and_bad_lines_is_counted_truly(tmp_path_factory, lines, newline, marked, ended):
    folder = tmp_path_factory.mktemp("fuzz")
    path = folder / "x.jsonl"
    content = newline.join(raw for raw, _ in lines) + newline * ended
    path.write_bytes(b"\xef\xbb\xbf" * marked + content)
    seen, wanted, first = set(), [], None
    for number, (raw, reason) in enumerate(lines):
        name = str(json.loads(raw)["id"]) if reason is None else None
        reason = Reason.DUPLICATE_ID if name in seen else reason
        seen.update({name} - {None})
        wanted.append(name if reason is None else reason)
        if reason and first is None:
            first = f"{path}:{number * newline.count(b'\n') + 1}: {reason} ("
    assert [item.id if isinstance(item, Document) else item.reason for item in items(path)] == wanted
    config = CorpusConfig(path=str(path), cache_dir=str(folder))
    corpus = outcome(lambda: open_corpus(config))
    dropped = {reason: wanted.count(reason) for reason in Reason if reason in wanted}
    if isinstance(corpus, UserError):
        assert len(dropped) and sum(dropped.values()) == len(wanted)
        return
    assert len(corpus) + sum(dropped.values()) == len(wanted) and corpus.dropped == dropped
    if first:
        config.on_bad = OnBad.FAIL
        assert str(outcome(lambda: open_corpus(config))).startswith(first), "the first of them is named"
        assert first in "\n".join(corpus.examples.values())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(texts, st.text(st.characters(codec="utf-8"), max_size=20)), min_size=1, max_size=8), st.data())
def test_a_csv_is_what_was_written_but_for_the_lines_that_were_hurt(tmp_path_factory, rows, data):
    """Quotes, delimiters, newlines and NULs in any field; some records with a field too many, and some not in UTF-8."""
    path = tmp_path_factory.mktemp("fuzz") / "x.csv"
    hurt = data.draw(st.lists(st.sampled_from(["", "", "field", "byte"]), min_size=len(rows), max_size=len(rows)))
    wanted, at, seen = [], 2, set()
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow(["id", "text"])
        for (name, text), harm in zip(rows, hurt, strict=True):
            fields = [name, text + "\udcff" * (harm == "byte"), *(["more"] * (harm == "field"))]
            writer.writerow(fields)
            expected = Reason.INVALID_CSV if harm == "field" else Reason.BAD_UTF8 if harm else None
            expected = expected or (Reason.EMPTY_TEXT if not text.strip() else Reason.DUPLICATE_ID if name in seen else name)
            seen.update({name} if expected == name else ())
            wanted.append((at, expected))
            at += 1 + sum(field.count("\n") for field in fields)
    found = items(path)
    assert [item.id if isinstance(item, Document) else item.reason for item in found] == [what for _, what in wanted]
    for item, (place, _) in zip(found, wanted, strict=True):
        assert isinstance(item, Document) or item.where == f"{path}:{place}"


def test_what_an_open_quote_takes_with_it_is_said(tmp_path):
    (tmp_path / "x.csv").write_text('id,text\na,one\nb,"two\n' + "c,three\n" * 500)
    _, lost = items(tmp_path / "x.csv")
    assert lost.where.endswith(":3") and "501 lines are lost" in lost.detail.replace("502", "501")


def test_a_header_in_another_encoding_is_one_line(tmp_path):
    (tmp_path / "x.csv").write_bytes("id,text\na,b".encode("utf-16"))
    assert "x.csv:1: the header is not UTF-8" in str(outcome(lambda: items(tmp_path / "x.csv")))


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.jsonl.gz"])
def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch, name):
    monkeypatch.setattr(readers, "_LONGEST_LINE", 1 << 20)
    content = b"id,text\n" * name.endswith(".csv") + b" " * (3 << 20)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    number = 2 if name.endswith(".csv") else 1
    assert f"{name}:{number}: a line of 1 MB or more" in str(outcome(lambda: items(tmp_path / name)))


def test_many_long_names_make_no_long_error(tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps({f"{number}-{'k' * 1000}": 1 for number in range(1000)}))
    (tmp_path / "x.csv").write_text(",".join(["c" * 1000] * 1000))
    for name in ("x.jsonl", "x.csv"):
        assert isinstance(outcome(lambda: items(tmp_path / name)), UserError)


def test_a_folder_of_anything(tmp_path):
    """A link that leads nowhere is named, a pipe is no text, and a name may hold any byte."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("A")
    os.symlink("nowhere", folder / "b.txt")
    os.mkfifo(folder / "c.txt")
    pathlib.Path(os.fsdecode(os.fsencode(folder) + b"/\xff\n.txt")).write_text("D")
    found = items(folder)
    assert found[0] == Document("a.txt", "A")
    assert [item.reason for item in found[1:]] == [Reason.UNREADABLE, Reason.BAD_UTF8]
    corpus = open_corpus(CorpusConfig(path=str(folder), cache_dir=str(tmp_path / "cache")))
    assert corpus.dropped == {"unreadable file": 1, "bad UTF-8": 1}


def test_what_is_no_file_is_one_line(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path, message in ((tmp_path / "pipe.jsonl", "neither a file nor a folder"), ("x" * 300 + ".jsonl", "no such file")):
        with pytest.raises(UserError, match=message):
            open_corpus(CorpusConfig(path=str(path), cache_dir=str(tmp_path)))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_one_line(tmp_path):
    (tmp_path / "x.jsonl").touch(0o000)
    assert "cannot be read (Permission denied)" in str(outcome(lambda: items(tmp_path / "x.jsonl")))


COLUMNS = {
    "strings": pa.array(["a", None]),
    "large strings": pa.array(["a", "b"], pa.large_string()),
    "categories": pa.array(["a", "b"]).dictionary_encode(),
    "lists": pa.array([["a"], None]),
    "fixed lists": pa.array([["a", "b"], ["c", "d"]], pa.list_(pa.string(), 2)),
    "bytes": pa.array([b"\xff", b"a"]),
    "bools": pa.array([True, None]),
    "large numbers": pa.array([2**64 - 1, 3], pa.uint64()),
    "floats": pa.array([float("nan"), float("-inf")]),
    "decimals": pa.array([decimal.Decimal("1.5"), None]),
    "structures": pa.array([{"a": 1}, None]),
    "maps": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())),
    "nulls": pa.nulls(2),
    "nanoseconds": pa.array([1, 2], pa.timestamp("ns")),
    "a zone that does not exist": pa.array([1, 2], pa.timestamp("us", "Mars/Olympus")),
    "dates after the last": pa.array([2**30, 2], pa.date32()),
    "dates": pa.array([datetime.date(2024, 1, 1), None]),
    "durations": pa.array([1, 2], pa.duration("ns")),
    "times of day": pa.array([1001, 2], pa.time64("ns")),
}


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("field", ["id", "text", "path"])
def test_parquet_of_any_type_gives_one_item_a_row(tmp_path, field, kind):
    columns = {"id": pa.array(["a", "b"]), "text": pa.array(["x", "y"])} | {field: COLUMNS[kind]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    found = items(tmp_path / "x.parquet")
    assert len(found) == 2
    assert all(item.where.endswith(f"x.parquet:{n}") for n, item in enumerate(found, 1) if isinstance(item, Dropped))


def test_parquet_with_two_columns_of_a_name_is_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"])] * 3, names=["id", "text", "text"])
    pq.write_table(table, tmp_path / "x.parquet")
    assert "'text' is the name of two columns" in str(outcome(lambda: items(tmp_path / "x.parquet")))


DOCUMENTS = [f"d{number}" for number in range(20)]


@functools.cache
def sound_files(folder: pathlib.Path) -> dict:
    """A sound file of every kind by name, and what reads it."""
    names = {"id": DOCUMENTS, "text": [f"text {number} é" for number in range(20)], "path": [["a", "b"][: n % 3] for n in range(20)]}
    for compression in ("none", "zstd"):
        pq.write_table(pa.table(names), folder / f"{compression}.parquet", compression=compression)
    pq.write_table(pa.table({"id": DOCUMENTS, "vector": [[1.0, 2.0]] * 20}), folder / "vectors.parquet")
    np.save(folder / "vectors.npy", np.ones((20, 2), np.float32))
    (folder / "users.txt").write_text("".join(f"u{n}\td{n} d{(n + 1) % 20}\n" for n in range(20)))
    (folder / "qrels.trec").write_text("q1 0 d1 1\nq1 0 d2 0\nq2 0 d3 2\n")
    (folder / "run.trec").write_text("q1 Q0 d1 1 0.5 x\nq1 Q0 d2 2 0.25 x\nq2 Q0 d3 1 1e3 x\n")
    for name in ("queries.jsonl", "qrels.tsv"):
        (folder / "task").mkdir(exist_ok=True)
        (folder / "task" / name).touch()
    (folder / "task" / "queries.jsonl").write_text('{"_id": "q1", "text": "one"}\n{"_id": 2, "text": "two"}\n')
    (folder / "task" / "qrels.tsv").write_text("split\tquery_id\tdoc_id\trelevance\ntrain\tq1\td1\t1\ntest\t2\td2\t1\n")
    judged = {"queries": ["q1", "q2"], "documents": DOCUMENTS}
    task = RelevanceConfig(path=str(folder / "task"))
    return {
        "none.parquet": items,
        "zstd.parquet": items,
        "vectors.parquet": lambda path: read_embeddings(path, DOCUMENTS),
        "vectors.npy": lambda path: read_embeddings(path, DOCUMENTS),
        "users.txt": lambda path: read_interactions(path, DOCUMENTS),
        "qrels.trec": lambda path: read_qrels(path, **judged),
        "run.trec": lambda path: read_run(path, **judged),
        "task/queries.jsonl": lambda path: open_task(task, DOCUMENTS),
        "task/qrels.tsv": lambda path: open_task(task, DOCUMENTS),
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("sound")


@pytest.mark.parametrize("kind", ["parquet", "vectors", "users", "trec", "task"])
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_sound_file_with_any_bytes_changed_is_read_or_refused(home, kind, data):
    readers_of = sound_files(home)
    name = data.draw(st.sampled_from([name for name in readers_of if kind in name]))
    path, read = home / name, readers_of[name]
    whole = path.read_bytes()
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        at, cut = data.draw(st.integers(0, len(content))), data.draw(st.integers(0, 6))
        content[at : at + cut] = data.draw(st.binary(max_size=6))
    try:
        path.write_bytes(content)
        found = outcome(lambda: read(path))
        assert not isinstance(found, UserError) or str(home) in str(found)
    finally:
        path.write_bytes(whole)
