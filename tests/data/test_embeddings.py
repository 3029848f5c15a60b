"""The user's own vectors: put in the documents' order, or refused in one line that says which document and why."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmindexer_jax.data.embeddings import content_hash, read_embeddings
from lmindexer_jax.errors import UserError

IDS = ["a", "b", "c"]


def parquet(path, ids, vectors, kind=None):
    pq.write_table(pa.table({"id": ids, "vector": pa.array(vectors, kind)}), path)
    return path


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.list_(pa.float32(), 2), pa.large_list(pa.float16())])
def test_parquet_is_aligned_by_id(tmp_path, kind):
    vectors = [[np.float16(v) for v in pair] for pair in ([7, 8], [3, 4], [5, 6], [1, 2])]
    path = parquet(tmp_path / "v.parquet", ["z", "b", "c", "a"], vectors, kind)
    found = read_embeddings(path, IDS)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[1, 2], [3, 4], [5, 6]])


def test_rows_without_an_id_are_further_rows(tmp_path):
    path = parquet(tmp_path / "v.parquet", [None, "b", "c", "a"], [[7.0], [2.0], [3.0], [1.0]])
    np.testing.assert_array_equal(read_embeddings(path, IDS), [[1.0], [2.0], [3.0]])


def test_ids_may_be_whole_numbers(tmp_path):
    path = parquet(tmp_path / "v.parquet", [2, 1], [[1.0], [2.0]])
    np.testing.assert_array_equal(read_embeddings(path, ["1", "2"]), [[2.0], [1.0]])


def test_npy_has_one_row_per_document_in_order(tmp_path):
    path = tmp_path / "v.npy"
    np.save(path, np.arange(6).reshape(3, 2))
    np.testing.assert_array_equal(read_embeddings(path, IDS), [[0, 1], [2, 3], [4, 5]])
    np.save(path, np.arange(6, dtype=np.float32).reshape(3, 2))
    assert isinstance(read_embeddings(path, IDS), np.memmap), "large files stay on disk"


@pytest.mark.parametrize(
    "ids, vectors, message",
    [
        (["a", "c"], [[1.0], [2.0]], r"no vector for document 'b' \(1 such of 3\)"),
        (["a", "b", "c", "b"], [[1.0]] * 4, "'b' has two vectors"),
        (["a", "b", "c"], [[1.0], [float("nan")], [2.0]], "'b' holds NaN"),
        (["a", "b", "c"], [[1.0], [2.0], [float("inf")]], "'c' holds NaN or infinity"),
        (["a", "b", "c"], [[1.0], [None], [2.0]], "'b' holds NaN"),
        (["a", "b", "c"], [[1.0, 2.0], [1.0, 2.0], [1.0]], "'c' has 1 numbers, others have 2"),
        (["a", "b", "c"], [[1.0], None, [2.0]], "'b' has 0 numbers"),
        (["a", "b", "c"], [["x"], ["y"], ["z"]], "lists of string"),
        (["a", "b", "c"], [1.0, 2.0, 3.0], "must hold lists"),
    ],
)
def test_unfit_parquet_is_one_line(tmp_path, ids, vectors, message):
    path = parquet(tmp_path / "v.parquet", ids, vectors)
    with pytest.raises(UserError, match=message) as error:
        read_embeddings(path, IDS)
    assert "\n" not in str(error.value) and "v.parquet" in str(error.value)


def test_other_unfit_files_are_one_line(tmp_path):
    objects = tmp_path / "objects.npy"
    np.save(objects, np.array([[{}], [{}], [{}]], object), allow_pickle=True)
    short, flat, words, nan = (tmp_path / f"{name}.npy" for name in ("short", "flat", "words", "nan"))
    np.save(short, np.zeros((2, 4)))
    np.save(flat, np.zeros(3))
    np.save(words, np.array([["x"]] * 3))
    np.save(nan, np.array([[0.0], [np.nan], [0.0]]))
    columns, damaged, text = tmp_path / "columns.parquet", tmp_path / "damaged.parquet", tmp_path / "v.csv"
    pq.write_table(pa.table({"id": IDS, "embedding": [[1.0]] * 3}), columns)
    damaged.write_bytes(b"PAR1 no")
    text.write_text("id,vector\n")
    for path, message in (
        (objects, "not an array of numbers"),
        (short, "2 rows for 3 documents"),
        (flat, "one row of numbers per document"),
        (words, "one row of numbers per document"),
        (nan, "'b' holds NaN"),
        (columns, "no column 'vector'"),
        (damaged, "not a readable Parquet file"),
        (text, "unknown file type"),
        (tmp_path / "absent.npy", "no such file"),
    ):
        with pytest.raises(UserError, match=message) as error:
            read_embeddings(path, IDS)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no such file"):
        content_hash(tmp_path / "absent.npy")
