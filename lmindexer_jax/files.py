"""Writing files so that a kill at any moment leaves the old content or the new, never a half."""

import contextlib
import io
import os
import pathlib
from collections.abc import Iterator

import numpy as np


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Give a path to write to, beside `path`; it takes the place of `path` when the block ends without an error."""
    temporary = path.with_name(f"tmp-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # half a file would keep a full disk full


def save_array(path: pathlib.Path, array: np.ndarray) -> None:
    """Replace a .npy file. Written as bytes, since numpy's own writing hides from its error that the disk is full."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
