"""IDs as lines: what is written is read, and what is no file of IDs is one line with its number."""

import json

import numpy as np
import pytest

from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing import id_lines, id_table

CODES = np.array([[1, 0], [0, 2], [1, 0]], np.int32)


def test_what_is_written_is_read_in_any_order(tmp_path):
    manifest = id_table.Manifest(config={}, corpus_hash="c", model_hash="m", codebook_sizes=(2, 3))
    table = id_table.build(["a", "ö b", "c"], CODES, manifest)
    id_lines.write(tmp_path / "ids.jsonl", table, ["c", "a", "ö b"])
    np.testing.assert_array_equal(id_lines.read(tmp_path / "ids.jsonl", ["ö b", "c"]), CODES[[1, 2]])
    rows = [json.loads(line) for line in (tmp_path / "ids.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["full_id"] for row in rows] == ["1-0-1", "1-0", "0-2"]


@pytest.mark.parametrize(
    "line, wrong",
    [
        ("{", "2: not JSON"),
        ("[1]", "2: a line is"),
        ('{"id": "b"}', "2: a line is"),
        ('{"id": 5, "codes": [1, 2]}', "2: a line is"),
        ('{"id": "b", "codes": []}', "2: a line is"),
        ('{"id": "b", "codes": [1, -1]}', "2: a line is"),
        ('{"id": "b", "codes": [1, true]}', "2: a line is"),
        ('{"id": "b", "codes": [1, 1e9]}', "2: a line is"),
        ('{"id": "b", "codes": [1, 16777217]}', "2: a code above 16,777,216"),
        ('{"id": "b", "codes": [1, 2147483647]}', "2: a code above 16,777,216"),
        (f'{{"id": "b", "codes": [1, {10**4000}]}}', "2: a code above 16,777,216"),
        ('{"id": "b", "codes": [1, ' + "9" * 5000 + "]}", "2: a number too long"),
        ("[" * 100_000, "2: a number too long, or lists in lists too deep"),
        ('{"id": "b", "codes": [1, 2, 3]}', "2: 3 codes, where the lines before have 2"),
        ('{"id": "a", "codes": [1, 2]}', "2: 'a' has a line already"),
        ('{"id": "c", "codes": [1, 2]}', "no line for 'b'"),
    ],
)
def test_what_is_no_file_of_ids_is_one_line(tmp_path, line, wrong):
    path = tmp_path / "ids.jsonl"
    path.write_text('{"id": "a", "codes": [1, 2]}\n' + line + "\n")
    with pytest.raises(UserError, match=wrong) as error:
        id_lines.read(path, ["a", "b"])
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    with pytest.raises(UserError, match="cannot be read"):
        id_lines.read(tmp_path / "nothing.jsonl", ["a"])


def test_the_highest_code_is_read(tmp_path):
    (tmp_path / "ids.jsonl").write_text('{"id": "a", "codes": [0, 16777216]}\n')
    assert id_lines.read(tmp_path / "ids.jsonl", ["a"]).tolist() == [[0, id_lines.MOST]]
