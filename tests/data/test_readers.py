"""Every kind of file is read record by record, and what cannot be read is named with its line."""

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmindexer_jax.data.documents import CorpusConfig, Document, read_documents
from lmindexer_jax.data.readers import read_rows, stamp
from lmindexer_jax.data.records import Dropped, Reason, Row
from lmindexer_jax.errors import UserError

COLUMNS = frozenset({"id", "text", "path"})
RECORDS = [{"id": "a", "text": "one"}, {"id": "b", "text": 'two "quoted",\nlines'}, {"id": "c", "text": "drei – 三"}]


def rows(path):
    return list(read_rows(path, columns=COLUMNS))


def fields(path):
    return [dict(row.fields) for row in rows(path)]


def test_jsonl_plain_and_gzipped(tmp_path):
    content = "\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS).encode()
    (tmp_path / "x.jsonl").write_bytes(b"\xef\xbb\xbf" + content + b"\r\n\n")
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(content))
    assert fields(tmp_path / "x.jsonl") == RECORDS == fields(tmp_path / "x.jsonl.gz")
    assert [row.where for row in rows(tmp_path / "x.jsonl")] == [f"{tmp_path}/x.jsonl:{n}" for n in (1, 2, 3)]


def test_jsonl_names_each_bad_line(tmp_path):
    path = tmp_path / "bad.jsonl"
    lines = [b'{"id": "a"}', b'{"id": ', b"[1]", b'{"id": "\xff"}', b"", b"[" * 100_000, b"9" * 5000, b'{"id": "z"}']
    path.write_bytes(b"\n".join(lines))
    found = rows(path)
    assert [(row.where.rpartition(":")[2], getattr(row, "reason", None)) for row in found] == [
        ("1", None),
        ("2", Reason.INVALID_JSON),
        ("3", Reason.WRONG_TYPE),
        ("4", Reason.BAD_UTF8),
        ("6", Reason.INVALID_JSON),
        ("7", Reason.INVALID_JSON),
        ("8", None),
    ]
    assert "byte 9" in str(found[3])


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t"), (".csv.gz", ",")])
def test_csv_and_tsv(tmp_path, suffix, delimiter):
    path = tmp_path / f"x{suffix}"
    opened = gzip.open(path, "wt", newline="") if suffix.endswith(".gz") else open(path, "w", newline="")
    with opened as file:
        writer = csv.DictWriter(file, ["id", "text"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(RECORDS)
    assert fields(path) == RECORDS
    assert [row.where.rpartition(":")[2] for row in rows(path)] == ["2", "3", "5"]  # b's text goes over two lines


def test_csv_names_each_bad_line(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_bytes(b'id,text\na,one\nb\nc,"x"y\nd,\xff\n\ne,last\n')
    assert [(row.where.rpartition(":")[2], getattr(row, "reason", None)) for row in rows(path)] == [
        ("2", None),
        ("3", Reason.INVALID_CSV),
        ("4", Reason.INVALID_CSV),
        ("5", None),  # the undecodable byte is seen when the fields are put together
        ("7", None),
    ]
    documents = list(read_documents(CorpusConfig(path=str(path))))
    assert [item.id if isinstance(item, Document) else item.reason for item in documents] == [
        "a",
        Reason.INVALID_CSV,
        Reason.INVALID_CSV,
        Reason.BAD_UTF8,
        "e",
    ]


@pytest.mark.parametrize("header", ["", "id,id\na,b\n", '"id\na,b\n'])
def test_csv_without_a_header_is_refused(tmp_path, header):
    (tmp_path / "x.csv").write_text(header)
    with pytest.raises(UserError, match="x.csv:1: the header"):
        rows(tmp_path / "x.csv")


def test_parquet(tmp_path):
    path = tmp_path / "x.parquet"
    table = {"id": [1, 2], "text": ["one", None], "path": [["a", "b"], []], "unused": [0.5, 1.5]}
    pq.write_table(pa.table(table), path)
    assert fields(path) == [{"id": 1, "text": "one", "path": ["a", "b"]}, {"id": 2, "text": None, "path": []}]
    assert rows(path)[1].where.endswith("x.parquet:2")


def test_parquet_with_bad_utf8_loses_only_that_row(tmp_path):
    bad = pa.array([b"fine", b"\xff", b"too"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"id": ["a", "b", "c"], "text": bad}), tmp_path / "x.parquet")
    found = rows(tmp_path / "x.parquet")
    assert [type(row) for row in found] == [Row, Dropped, Row]
    assert found[1].reason == Reason.BAD_UTF8 and found[1].where.endswith(":2")


def test_folder_of_texts(tmp_path):
    for name, content in {"b.txt": b"B", "sub/deep/a.md": b"A", "sub/z.txt": b"\xff", ".git/x": b"no", ".h": b"no"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    items = list(read_documents(CorpusConfig(path=str(tmp_path))))
    documents = [item for item in items if isinstance(item, Document)]
    assert documents == [Document("b.txt", "B"), Document("sub/deep/a.md", "A", ("sub", "deep"))]
    assert [item.reason for item in items if isinstance(item, Dropped)] == [Reason.BAD_UTF8]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.pdf", b"", "unknown file type"),
        ("gz", b"", "unknown file type"),
        ("x.parquet", b"PAR1 nothing", "not a readable Parquet file"),
        ("x.jsonl.gz", gzip.compress(b'{"id": 1}\n' * 9999)[:-20], "damaged gzip"),
        ("x.csv.gz", b"plain", "1: damaged gzip"),
    ],
)
def test_unreadable_files_are_refused_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        rows(tmp_path / name)
    assert "\n" not in str(error.value) and name in str(error.value)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        rows(tmp_path / "nothing.jsonl")


def test_stamp_follows_size_and_names(tmp_path):
    (tmp_path / "a").write_text("x")
    first = stamp(tmp_path)
    assert stamp(tmp_path) == first
    (tmp_path / "a").write_text("xy")
    second = stamp(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, stamp(tmp_path)}) == 3


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from([".jsonl", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".csv.gz"]))
def test_any_bytes_give_documents_drops_or_a_user_error(tmp_path_factory, data, suffix):
    mutilated = st.builds(
        lambda content, at, junk: content[:at] + junk + content[at + len(junk) :],
        st.just(b'id,text\n{"id": "a", "text": "b", "path": ["x", 1]}\n{"id": 7, "text": [[1, "c"]]}\n'),
        st.integers(0, 80),
        st.binary(max_size=12),
    )
    path = tmp_path_factory.mktemp("fuzz") / f"x{suffix}"
    path.write_bytes(data.draw(st.binary() | mutilated))
    try:
        items = list(read_documents(CorpusConfig(path=str(path))))
    except UserError as error:
        assert "\n" not in str(error)
    else:
        for item in items:
            assert isinstance(item, (Document, Dropped))
            str(item).encode()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.fixed_dictionaries({"id": json_values, "text": json_values, "path": json_values}), max_size=6))
def test_any_json_values_give_valid_documents_or_drops(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("fuzz") / "x.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    items = list(read_documents(CorpusConfig(path=str(path))))
    assert len(items) == len(records)
    documents = [item for item in items if isinstance(item, Document)]
    assert len({document.id for document in documents}) == len(documents)
    for document in documents:
        assert document.text.strip() and document.text.encode() and document.id
        assert all(part.strip() == part and part for part in document.path)


def test_links_to_folders_are_followed_and_loops_named(tmp_path):
    (tmp_path / "texts" / "in").mkdir(parents=True)
    (tmp_path / "texts" / "into").mkdir()  # a name that begins like another one
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("a")
    (tmp_path / "texts" / "in" / "link").symlink_to(tmp_path / "other")
    (tmp_path / "texts" / "into" / "same").symlink_to(tmp_path / "texts" / "in")
    names = [item.fields["id"] for item in read_rows(tmp_path / "texts", columns=frozenset())]
    assert names == ["in/link/a.txt", "into/same/link/a.txt"]
    (tmp_path / "texts" / "in" / "up").symlink_to(tmp_path / "texts")
    with pytest.raises(UserError, match="in/up: a link to a folder that it stands in"):
        list(read_rows(tmp_path / "texts", columns=frozenset()))
