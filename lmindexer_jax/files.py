"""Writing files so that a kill at any moment leaves the old content or the new, never a half; and what is read back from them."""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

# What numpy raises on damaged files: it parses a header as Python source, takes sizes and types from it, and opens archives,
# whose members have flags for compression and encryption.
_DAMAGE = (
    EOFError, KeyError, MemoryError, NotImplementedError, OverflowError, RuntimeError, SyntaxError, TypeError, ValueError,
    struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


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


def load_array(path: pathlib.Path, *, mapped: bool = False) -> np.ndarray:
    """Read a .npy file, or map it.

    Raises:
      ValueError: one line; it is damaged, or holds objects, which would be a pickle.
      OSError: it cannot be opened.
    """
    with _damage_told():
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("an archive of arrays")
        return array


def load_arrays(path: pathlib.Path, names: Sequence[str]) -> list[np.ndarray]:
    """Arrays of a .npz file by their names; raises what `load_array` does."""
    with _damage_told(), open(path, "rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as arrays:
        return [arrays[name] for name in names]


def sealed(content: dict) -> dict:
    """A JSON object with a checksum of all else in it."""
    return content | {"seal": _seal(content)}


def unsealed(content: dict) -> dict:
    """What was sealed; an object that never was is taken as it is.

    Raises:
      ValueError: it has changed since.
    """
    content = dict(content)
    if content.pop("seal", seal := _seal(content)) != seal:
        raise ValueError("changed since it was written")
    return content


def _seal(content: dict) -> str:
    kept = {name: value for name, value in content.items() if name != "seal"}
    return hashlib.blake2b(json.dumps(kept, sort_keys=True).encode(), digest_size=16).hexdigest()


@contextlib.contextmanager
def _damage_told() -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None
