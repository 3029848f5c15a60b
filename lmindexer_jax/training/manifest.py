"""The manifest of a folder on disk: what belongs to it, and proof that it is still what was written.

It is written last and in one rename, so a folder without one is an unfinished save, and one whose files disagree with
it is damaged. It also answers what a folder holds without opening the data.
"""

import json
import os
import pathlib
import zlib

from lmindexer_jax.errors import UserError

NAME = "manifest.json"
FORMAT = 1


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be read: cut short, changed since it was written, or not one of ours."""


def write(folder: pathlib.Path, content: dict, *, data: str) -> None:
    """Makes `folder/data` the content of `folder`, replacing what it held.

    Args:
      folder: where the manifest goes.
      content: what to keep beside the files; JSON.
      data: the name of the sub-folder whose files are summed up.

    Raises:
      OSError: it could not be written; the former manifest is intact.
    """
    files = {
        str(path.relative_to(folder)): [path.stat().st_size, _checksum(path)]
        for path in sorted((folder / data).rglob("*"))
        if path.is_file()
    }
    content = {**content, "format": FORMAT, "data": data, "files": files}
    fresh = folder / f"{NAME}.new"
    with open(fresh, "w") as file:
        json.dump({"checksum": _checksum_of(content), "content": content}, file)
        file.flush()
        os.fsync(file.fileno())  # the rename must not reach the disk before the text does
    os.replace(fresh, folder / NAME)


def read(folder: pathlib.Path) -> dict:
    """The content that `write` was given, with `data` and `files`.

    Raises:
      DamagedCheckpoint: there is none, or it is not what was written.
      UserError: it was written by another version of this library.
    """
    path = folder / NAME
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{folder}: no checkpoint here ({NAME} is missing)") from None
    except ValueError:
        raise DamagedCheckpoint(f"{path}: the checkpoint is damaged (its manifest is no JSON)") from None
    if not isinstance(document, dict) or document.keys() != {"checksum", "content"}:
        raise DamagedCheckpoint(f"{path}: not a checkpoint of this library")
    content = document["content"]
    if _checksum_of(content) != document["checksum"]:
        raise DamagedCheckpoint(f"{path}: the checkpoint is damaged (its manifest has changed)")
    if content["format"] != FORMAT:
        raise UserError(f"{path}: checkpoint format {content['format']}, but this version reads format {FORMAT}")
    return content


def check_files(folder: pathlib.Path, content: dict) -> None:
    """Compares every file with the manifest's sizes and checksums.

    Raises:
      DamagedCheckpoint: the first file that is missing, of another length or changed.
    """
    for name, (size, checksum) in content["files"].items():
        path = folder / name
        if not path.is_file():
            raise DamagedCheckpoint(f"{folder}: the checkpoint is damaged ({name} is missing)")
        found = path.stat().st_size
        if found != size:
            raise DamagedCheckpoint(f"{folder}: the checkpoint is damaged ({name}: {found} bytes instead of {size})")
        if _checksum(path) != checksum:
            raise DamagedCheckpoint(f"{folder}: the checkpoint is damaged ({name} has changed since it was written)")


def _checksum(path: pathlib.Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def _checksum_of(content: dict) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
