"""What a command writes at its end by -o: refused before the work where it could not be written after it."""

import json
import os
import pathlib

from lmindexer_jax.errors import UserError
from lmindexer_jax.files import replacing


def check(path: pathlib.Path | None) -> None:
    """Refuse a file that cannot be written, as far as one can know; folders on the way to it may be missing.

    Raises:
      UserError: it is a folder, or lies in what is none or is closed to us.
    """
    if path is None:
        return
    if path.is_dir():
        raise UserError(f"{path}: a folder; give a file by -o")
    there = next(folder for folder in path.absolute().parents if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"{path}: {there} is no folder to write to; give another file by -o")


def write(path: pathlib.Path, content: dict) -> None:
    """Write a JSON file, and make the folders on the way to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1))
