"""Trees of arrays on disk, saved so that a kill at any moment leaves the previous save whole.

One folder holds one tree:

    manifest.json   written last: shapes, the caller's meta, size and checksum of every file below
    data-N/         what Orbax wrote

A save writes a new data folder, then replaces the manifest in one rename, then removes what the manifest no longer
names. Reading checks every file against the manifest first, so damage is found before a number of it is used.
The only file that imports orbax; it does so when the first tree is written or read.
"""

from __future__ import annotations

import concurrent.futures
import json
import math
import os
import pathlib
import re
import shutil
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lmindexer_jax.errors import UserError

MANIFEST = "manifest.json"
FORMAT = 1
SHOWN_DIFFERENCES = 3


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be read: cut short, changed since it was written, or not one of ours."""


class Checkpoints:
    """The checkpoints of one run: a folder for each step, of which the newest few are kept.

    Saving goes on in the background while training continues; `save`, `wait` and `close` raise what went wrong there.

        with Checkpoints("runs/mine/checkpoints") as checkpoints:
            found = checkpoints.restore_latest(state)
            checkpoints.save(step, state, meta={"stage": "warm-up"})
    """

    def __init__(self, directory: str | os.PathLike, *, keep: int = 2):
        """Opens the sequence in `directory` (made by the first save) and keeps the newest `keep` checkpoints."""
        self.directory = pathlib.Path(directory).absolute()
        self.keep = keep
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._pending: concurrent.futures.Future | None = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def steps(self) -> list[int]:
        """The steps with a complete checkpoint, ascending."""
        manifests = self.directory.glob(f"*/{MANIFEST}")
        return sorted(int(path.parent.name) for path in manifests if path.parent.name.isdigit())

    def latest(self) -> int | None:
        """The newest complete step, or None."""
        return max(self.steps(), default=None)

    def save(self, step: int, state: Any, *, meta: dict) -> None:
        """Saves a state; returns once it is copied, so that its buffers may be donated to the next step.

        Args:
          step: names the checkpoint; one that exists is replaced when the new one is complete.
          state: a tree of arrays. Randomness belongs to (seed, name, step) and Python values to `meta`.
          meta: whatever JSON can hold: stage, step within the stage, data iterator, fingerprint of the config.

        Raises:
          OSError: this save or the one before failed, for example on a full disk. Earlier checkpoints are intact.
        """
        self.wait()
        finish = _begin_save(self._folder(step), state, meta)

        def finish_and_prune():
            finish()
            if jax.process_index() == 0:
                self._prune(step)

        self._pending = self._writer.submit(finish_and_prune)

    def wait(self) -> None:
        """Returns when the last `save` is on disk.

        Raises:
          OSError: that save failed.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Waits for the last save and ends the background thread."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def meta(self, step: int) -> dict:
        """The `meta` saved with a step, without reading its arrays."""
        return _read_manifest(self._folder(step))["meta"]

    def restore(self, step: int, like: Any) -> tuple[Any, dict]:
        """The state and meta of one step.

        Args:
          step: one of `steps()`.
          like: the wanted tree: arrays or ShapeDtypeStructs. A leaf with a sharding is placed so, whatever number of
            devices wrote it; a leaf without one becomes a host array.

        Raises:
          DamagedCheckpoint: the files are not what was written.
          UserError: the saved tree has other paths, shapes or types than `like`.
        """
        folder = self._folder(step)
        return _read_like(folder, like), _read_manifest(folder)["meta"]

    def restore_latest(
        self, like: Any, *, warn: Callable[[str], Any] = warnings.warn
    ) -> tuple[int, Any, dict] | None:
        """Step, state and meta of the newest checkpoint that is whole, or None where there is none at all.

        A damaged checkpoint is told through `warn`, left where it is, and the one before it is taken.

        Raises:
          UserError: every checkpoint is damaged, or one does not fit `like`: never a silent start from nothing.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return step, *self.restore(step, like)
            except DamagedCheckpoint as damage:
                warn(f"{damage}; trying the checkpoint before it")
        if steps:
            raise UserError(f"{self.directory}: no checkpoint can be read; move this folder away to start afresh")
        return None

    def _folder(self, step: int) -> pathlib.Path:
        return self.directory / f"{step:08d}"

    def _prune(self, saved: int) -> None:
        """Removes all but the newest checkpoints and the one just saved, and what killed saves left behind."""
        kept = {saved, *self.steps()[-self.keep :]}
        for folder in self.directory.iterdir():
            if folder.name.isdigit() and int(folder.name) not in kept:
                (folder / MANIFEST).unlink(missing_ok=True)  # first, so that a half-removed folder is no checkpoint
                shutil.rmtree(folder)


def save_tree(directory: str | os.PathLike, tree: Any) -> None:
    """Saves one tree of arrays, replacing in one rename the tree that `directory` held.

    Raises:
      OSError: it could not be written; the tree that was there still is.
    """
    _begin_save(pathlib.Path(directory).absolute(), tree, {})()


def load_tree(directory: str | os.PathLike, like: Any = None, *, paths: str = ".*") -> Any:
    """Loads a tree written by `save_tree`, or the arrays of one checkpoint.

    Args:
      directory: the folder with the manifest.
      like: the wanted tree, as in `Checkpoints.restore`; without it, nested dictionaries of host arrays.
      paths: with no `like`, only the leaves whose path "a/b/c" this regular expression matches in full are read.

    Raises:
      DamagedCheckpoint: nothing there, or the files are not what was written.
      UserError: the saved tree has other paths, shapes or types than `like`.
    """
    folder = pathlib.Path(directory).absolute()
    if like is not None:
        return _read_like(folder, like)
    manifest = _read_manifest(folder)
    wanted = {
        path: jax.ShapeDtypeStruct(leaf["shape"], leaf["dtype"])
        for path, leaf in manifest["tree"].items()
        if re.fullmatch(paths, path)
    }
    return _nest(_read_leaves(folder, manifest, wanted))


def _begin_save(folder: pathlib.Path, tree: Any, meta: dict) -> Callable[[], None]:
    """Copies the arrays and starts writing; the returned function ends it and makes it the folder's content."""
    from orbax.checkpoint import v1 as ocp

    leaves = _leaves(tree)
    content = {
        "format": FORMAT,
        "meta": json.loads(json.dumps(meta)),  # a copy: the caller may go on changing his
        "tree": {path: {"shape": list(leaf.shape), "dtype": str(leaf.dtype)} for path, leaf in leaves.items()},
    }
    data = folder / f"data-{1 + _data_number(folder)}"
    folder.mkdir(parents=True, exist_ok=True)
    writing = ocp.save_async(data, leaves, overwrite=True)

    def finish() -> None:
        try:
            writing.result()
            if jax.process_index() == 0:
                content["data"] = data.name
                content["files"] = {
                    str(path.relative_to(folder)): [path.stat().st_size, _checksum(path)]
                    for path in sorted(data.rglob("*"))
                    if path.is_file()
                }
                _write_manifest(folder, content)
        finally:
            if jax.process_index() == 0:
                _sweep(folder)

    return finish


def _read_like(folder: pathlib.Path, like: Any) -> Any:
    manifest = _read_manifest(folder)
    wanted = _leaves(like)
    _check_same(folder, manifest["tree"], wanted)
    read = _read_leaves(folder, manifest, wanted)
    return jax.tree.unflatten(jax.tree.structure(like), [read[path] for path in wanted])


def _read_leaves(folder: pathlib.Path, manifest: dict, wanted: dict[str, Any]) -> dict[str, Any]:
    """Checks the files, then reads the wanted leaves; the others are not touched."""
    from orbax.checkpoint import v1 as ocp

    for name, (size, checksum) in manifest["files"].items():
        _check_file(folder, name, size, checksum)
    if not wanted:
        return {}
    abstract = {path: _abstract(wanted[path]) if path in wanted else ocp.PLACEHOLDER for path in manifest["tree"]}
    read = ocp.load(folder / manifest["data"], abstract)
    return {path: read[path] for path in wanted}


def _abstract(leaf: Any) -> Any:
    """What Orbax is asked for: a device array with its sharding, or a host array where none is given."""
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _leaves(tree: Any) -> dict[str, Any]:
    """The leaves by their path "a/b/c"; what a path cannot name twice, a dictionary cannot lose."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    leaves = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}
    if len(leaves) != len(flat):
        raise ValueError("two leaves of the tree have the same path")
    for path, leaf in leaves.items():
        if not hasattr(leaf, "dtype") or math.prod(leaf.shape) == 0:
            raise ValueError(f"{path}: a checkpoint holds arrays of at least one element, not {leaf!r}")
    return leaves


def _nest(leaves: dict[str, Any]) -> dict:
    tree: dict = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def _check_same(folder: pathlib.Path, saved: dict[str, dict], wanted: dict[str, Any]) -> None:
    """Raises UserError with the first few differences between the saved tree and the wanted one."""

    def show(leaf):
        return f"{leaf['dtype']}{leaf['shape']}" if leaf else "nothing"

    want = {path: {"shape": list(leaf.shape), "dtype": str(leaf.dtype)} for path, leaf in wanted.items()}
    differences = [
        f"{path}: saved {show(saved.get(path))}, wanted {show(want.get(path))}"
        for path in dict.fromkeys([*want, *saved])
        if saved.get(path) != want.get(path)
    ]
    if differences:
        more = len(differences) - SHOWN_DIFFERENCES
        text = "; ".join(differences[:SHOWN_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")
        raise UserError(
            f"{folder}: the checkpoint does not fit this config ({text}); use the config it was made with, or another workdir"
        )


def _write_manifest(folder: pathlib.Path, content: dict) -> None:
    fresh = folder / f"{MANIFEST}.new"
    with open(fresh, "w") as file:
        json.dump({"checksum": _checksum_of(content), "content": content}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, folder / MANIFEST)


def _read_manifest(folder: pathlib.Path) -> dict:
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{folder}: no checkpoint here ({MANIFEST} is missing)") from None
    except ValueError:
        raise DamagedCheckpoint(f"{path}: the checkpoint is damaged (its manifest is no JSON)") from None
    if not isinstance(document, dict) or document.keys() != {"checksum", "content"}:
        raise DamagedCheckpoint(f"{path}: not a checkpoint of this library")
    content = document["content"]
    if _checksum_of(content) != document["checksum"]:
        raise DamagedCheckpoint(f"{path}: the checkpoint is damaged (its manifest has changed)")
    if content["format"] != FORMAT:
        raise UserError(f"{path}: checkpoint format {content['format']}, this version reads format {FORMAT}")
    return content


def _check_file(folder: pathlib.Path, name: str, size: int, checksum: int) -> None:
    path = folder / name
    if not path.is_file():
        raise DamagedCheckpoint(f"{folder}: the checkpoint is damaged ({name} is missing)")
    if path.stat().st_size != size:
        raise DamagedCheckpoint(
            f"{folder}: the checkpoint is damaged ({name} has {path.stat().st_size} bytes instead of {size})"
        )
    if _checksum(path) != checksum:
        raise DamagedCheckpoint(f"{folder}: the checkpoint is damaged ({name} has changed since it was written)")


def _data_number(folder: pathlib.Path) -> int:
    """The number of the data folder in use, 0 where there is none that the manifest can name."""
    if not (folder / MANIFEST).exists():
        return 0
    try:
        return int(_read_manifest(folder)["data"].removeprefix("data-"))
    except DamagedCheckpoint:
        return max((int(path.name[5:]) for path in folder.glob("data-*") if path.name[5:].isdigit()), default=0)


def _sweep(folder: pathlib.Path) -> None:
    """Removes what the manifest does not name: older data, or what a failed or killed save left."""
    named = {MANIFEST}
    if (folder / MANIFEST).exists():
        named.add(_read_manifest(folder)["data"])
    for path in folder.iterdir():
        if path.name not in named:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _checksum(path: pathlib.Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def _checksum_of(content: dict) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
