"""What is read back of metrics.jsonl: a line that a kill has cut short is left out, a damaged one is told."""

import json

import pytest

from lmindexer_jax.errors import UserError
from lmindexer_jax.training.journal import Journal, read

ROWS = [{"number": number, "loss": 1.5} for number in range(3)]


def write(path, *lines):
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in ROWS) + b"".join(lines))
    return path


def test_a_line_cut_short_is_left_out_and_taken_back(tmp_path):
    path = write(tmp_path / "metrics.jsonl", b'{"number": 3, "lo')
    assert list(read(path)) == ROWS
    Journal(tmp_path, resume_at=1).close()
    assert list(read(path)) == ROWS[:2] and path.read_text().count("\n") == 2
    assert list(read(tmp_path / "none")) == []


@pytest.mark.parametrize("line", [b'{"number": 3, "lo', b"\0" * 20, b'{"number": "\xff"}', b"7", b"", b"9" * 5000])
def test_a_damaged_line_is_named(tmp_path, line):
    path = write(tmp_path / "metrics.jsonl", line, b'\n{"number": 4}\n')
    for reading in (lambda: list(read(path)), lambda: Journal(tmp_path, resume_at=9)):
        with pytest.raises(UserError, match=r"metrics.jsonl:4: damaged; take this line out") as error:
            reading()
        assert "\n" not in str(error.value)
    assert path.read_bytes().endswith(line + b'\n{"number": 4}\n'), "as it was"
