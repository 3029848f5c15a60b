"""The ID table: counters, lookups, appending, and a file that refuses to be wrong."""

import collections
import dataclasses
import json
import pathlib
import subprocess
import sys
import textwrap
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing import id_table
from lmindexer_jax.indexing.id_table import Manifest, build, load


def manifest(*sizes: int) -> Manifest:
    return Manifest(config={"seed": 1}, corpus_hash="corpus-a", model_hash="model-a", codebook_sizes=sizes)


def names(count: int, first: int = 0) -> list[str]:
    return [f"doc {number}" for number in range(first, first + count)]


@pytest.fixture
def table():
    codes = np.array([[1, 2, 0], [0, 1, 1], [1, 2, 0], [1, 0, 0], [1, 2, 0]])
    return build(names(5), codes, manifest(2, 3, 2))


codes_of_any_size = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(st.integers(0, 2), min_size=width, max_size=width), min_size=1, max_size=40)
)


@given(codes_of_any_size)
@settings(deadline=None)
def test_full_ids_are_distinct_and_counters_have_no_gaps(codes):
    made = build(names(len(codes)), np.array(codes), manifest(*[3] * len(codes[0])))
    assert len(np.unique(made.full_ids, axis=0)) == len(codes)
    seen = collections.Counter()
    for row, counter in zip(map(tuple, codes), made.counter, strict=True):
        assert counter == seen[row]
        seen[row] += 1
    texts = made.texts.to_pylist()
    assert len(set(texts)) == len(codes)
    for row, text in enumerate(texts):
        assert made.id_of(f"doc {row}") == text
        np.testing.assert_array_equal(made.documents_of((*made.parse(text), 0)[: len(codes[0]) + 1]), [row])


@given(codes_of_any_size, st.data())
@settings(deadline=None)
def test_appending_changes_no_old_id(codes, data):
    old = data.draw(st.integers(0, len(codes)))
    codes, about = np.array(codes), manifest(*[3] * len(codes[0]))
    grown = build(names(old), codes[:old], about).append(names(len(codes) - old, old), codes[old:])
    np.testing.assert_array_equal(grown.full_ids[:old], build(names(old), codes[:old], about).full_ids)
    np.testing.assert_array_equal(grown.full_ids, build(names(len(codes)), codes, about).full_ids)
    assert grown.manifest.documents == len(codes)


def test_lookups(table):
    assert table.texts.to_pylist() == ["1-2-0", "0-1-1", "1-2-0-1", "1-0-0", "1-2-0-2"]
    assert table.row("doc 3") == 3
    np.testing.assert_array_equal(table.documents_of(table.parse("1-2")), [0, 2, 4])
    np.testing.assert_array_equal(table.documents_of(table.parse("1-2-0-1")), [2])
    np.testing.assert_array_equal(table.documents_of(()), range(5))
    assert len(table.documents_of((0, 0))) == 0
    with pytest.raises(UserError, match="'doc 9' is not in the ID table"):
        table.id_of("doc 9")


@pytest.mark.parametrize("text", ["", "1-", "1-x", "-1", "1-2-0-1-0", "2", "1-3", "١"])
def test_parse_refuses(table, text):
    with pytest.raises(UserError, match="is no ID"):
        table.parse(text)


def test_build_refuses():
    about = manifest(2, 2)
    with pytest.raises(UserError, match="'a' is there twice"):
        build(["a", "b", "a"], np.zeros((3, 2)), about)
    with pytest.raises(UserError, match="2 documents but codes for 3"):
        build(["a", "b"], np.zeros((3, 2)), about)
    with pytest.raises(UserError, match="row 1 has code 2 at position 2"):
        build(["a", "b"], np.array([[0, 0], [0, 2]]), about)
    with pytest.raises(UserError, match="2 codebooks"):
        build(["a"], np.zeros((1, 3)), about)
    with pytest.raises(UserError, match="'a' is there twice"):
        build(["a"], np.zeros((1, 2)), about).append(["a"], np.ones((1, 2)))


def test_round_trip(table, tmp_path):
    table.save(tmp_path)
    found = load(tmp_path, corpus_hash="corpus-a", model_hash="model-a")
    assert found.ids.equals(table.ids) and found.manifest == table.manifest
    np.testing.assert_array_equal(found.full_ids, table.full_ids)
    assert found.codes.dtype == found.counter.dtype == np.int32
    (parquet,) = tmp_path.glob("*.parquet")
    columns = pq.read_table(parquet)
    assert columns.schema.field("codes").type == pa.list_(pa.int32(), 3)
    assert columns["full_id"].to_pylist() == table.texts.to_pylist()
    before = parquet.read_bytes()
    found.save(tmp_path)
    assert parquet.read_bytes() == before  # the same table is the same file, bit for bit
    found.append(["new"], np.array([[0, 0, 0]])).save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 and len(load(tmp_path)) == 6


def test_load_refuses(table, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path)
    table.save(tmp_path)
    with pytest.raises(UserError, match="made for corpus corpus-a, not for corpus corpus-b"):
        load(tmp_path, corpus_hash="corpus-b")
    with pytest.raises(UserError, match="made for model model-a, not for model model-b"):
        load(tmp_path, corpus_hash="corpus-a", model_hash="model-b")

    (parquet,), path = tmp_path.glob("*.parquet"), tmp_path / "manifest.json"
    whole, stored = parquet.read_bytes(), path.read_text()
    parquet.write_bytes(whole[:-7])
    with pytest.raises(UserError, match="cut short"):
        load(tmp_path)
    parquet.write_bytes(whole[:90] + bytes([whole[90] ^ 1]) + whole[91:])
    with pytest.raises(UserError, match="damaged"):
        load(tmp_path)
    parquet.unlink()
    with pytest.raises(UserError, match="missing"):
        load(tmp_path)
    parquet.write_bytes(whole)

    path.write_text(json.dumps(json.loads(stored) | {"schema_version": 2}))
    with pytest.raises(UserError, match="schema 2"):
        load(tmp_path)
    without = {name: value for name, value in json.loads(stored).items() if name != "model_hash"}
    for cut in (stored[:40], "", "[]", "{}", json.dumps(without)):
        path.write_text(cut)
        with pytest.raises(UserError, match="not a whole manifest"):
            load(tmp_path)


def test_a_full_disk_or_a_kill_leaves_the_old_table(table, tmp_path):
    table.save(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    program = """
        import resource, sys
        import numpy as np
        from lmindexer_jax.indexing import id_table
        table = id_table.load(sys.argv[1])
        rng = np.random.default_rng(0)
        table = table.append([str(number) for number in range(5000)], rng.integers(0, 2, (5000, 3)))
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        table.save(sys.argv[1])
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "OSError: [Errno 27]" in ended.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    np.testing.assert_array_equal(load(tmp_path).full_ids, table.full_ids)


@pytest.mark.skipif(not pathlib.Path("/proc/self/task").is_dir(), reason="threads are counted where Linux lists them")
def test_loading_leaves_no_thread_behind(table, tmp_path):
    """One that still holds what was read when the interpreter ends aborts it: SIGABRT in place of the exit code."""
    table.save(tmp_path)
    program = """
        import os, sys
        from lmindexer_jax.indexing import id_table
        before = len(os.listdir("/proc/self/task"))
        id_table.load(sys.argv[1])
        sys.exit(len(os.listdir("/proc/self/task")) - before)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]).returncode == 0


def test_killed_between_the_two_files(table, tmp_path, monkeypatch):
    table.save(tmp_path)
    write = id_table._write

    def die_at_the_manifest(path, content):
        if path.name == "manifest.json":
            raise KeyboardInterrupt
        write(path, content)

    grown = table.append(["new"], np.array([[0, 0, 0]]))
    monkeypatch.setattr(id_table, "_write", die_at_the_manifest)
    with pytest.raises(KeyboardInterrupt):
        grown.save(tmp_path)
    assert len(load(tmp_path)) == 5
    monkeypatch.undo()
    grown.save(tmp_path)
    assert len(load(tmp_path)) == 6 and len(list(tmp_path.iterdir())) == 2


def test_a_million_documents(tmp_path):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 64, (1_000_000, 3)).astype(np.int32)
    started = time.perf_counter()
    made = build(pa.array(np.arange(1_000_000)).cast(pa.string()), codes, manifest(64, 64, 64))
    made.save(tmp_path)
    found = load(tmp_path)
    assert found.id_of("999999") == made.texts[999_999].as_py()
    rows = found.documents_of((5, 7))
    np.testing.assert_array_equal(rows, np.flatnonzero((codes[:, 0] == 5) & (codes[:, 1] == 7)))
    assert time.perf_counter() - started < 20.0


def test_manifest_holds_plain_json(table, tmp_path):
    about = dataclasses.replace(table.manifest, extra={"note": "ü"})
    dataclasses.replace(table, manifest=about).save(tmp_path)
    assert load(tmp_path).manifest.extra == {"note": "ü"}


def test_a_table_that_is_replaced_while_it_is_read_is_read_again(table, tmp_path, monkeypatch):
    table.save(tmp_path)
    longer, left, unsealed = table.append(["new"], np.array([[0, 0, 0]])), [1], id_table.unsealed

    def replaced(stored):
        if left:
            left.pop()
            longer.save(tmp_path)  # by another process, between this one's reading of the manifest and of the table
        return unsealed(stored)

    monkeypatch.setattr(id_table, "unsealed", replaced)
    assert len(load(tmp_path)) == len(longer) and not left
