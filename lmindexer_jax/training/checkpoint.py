"""Trees of arrays on disk, saved so that a kill at any moment leaves the previous save whole.

One folder holds one tree:

    manifest.json   written last: shapes, the caller's meta, size and checksum of every file below
    data-N/         what Orbax wrote

A save writes a new data folder, then replaces the manifest in one rename, then removes what the manifest no longer
names. Reading checks every file against the manifest first, so damage is found before a number of it is used.
Of several processes each writes and reads what its devices hold, the first alone the manifest, and all call together.
The only file that imports orbax; it does so when the first tree is written or read.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import json
import math
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lmindexer_jax.errors import UserError
from lmindexer_jax.training import hosts, manifest
from lmindexer_jax.training.manifest import DamagedCheckpoint
from lmindexer_jax.training.optim import nest, paths

SHOWN_DIFFERENCES = 3
SHOWN_REASON = 200  # characters of another library's message
ARRAYS = (jax.Array, np.ndarray, jax.ShapeDtypeStruct)


class UnwrittenCheckpoint(UserError, OSError):
    """A checkpoint that could not be written, on a full disk for example. Earlier ones are intact."""


class Checkpoints:
    """The checkpoints of one run: a folder for each step, of which the newest few are kept.

    Saving goes on in the background while training continues; `save`, `wait` and `close` raise what went wrong there.

        with Checkpoints("runs/mine/checkpoints") as checkpoints:
            checkpoints.save(step, state, meta={"stage": "warm-up", "fingerprint": f})
            step, state, meta = checkpoints.newest(lambda meta: state, fingerprint=f, warn=print)
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
        complete = self.directory.glob(f"*/{manifest.NAME}")
        return sorted(int(path.parent.name) for path in complete if path.parent.name.isdigit())

    def save(self, step: int, state: Any, *, meta: dict) -> None:
        """Saves a state; returns once it is copied, so that its buffers may be donated to the next step.

        Args:
          step: names the checkpoint; one that exists is replaced when the new one is complete.
          state: a tree of arrays. Randomness belongs to (seed, name, step) and Python values to `meta`.
          meta: whatever JSON can hold: stage, step within the stage, data iterator, fingerprint of the config.

        Raises:
          UnwrittenCheckpoint: this save or the one before failed, for example on a full disk; earlier ones are intact.
        """
        self.wait()
        finish = _begin_save(self._folder(step), state, meta)

        def finish_and_prune():
            finish()
            if hosts.first():
                self._prune(step)

        self._pending = self._writer.submit(finish_and_prune)

    def wait(self) -> None:
        """Returns when the last `save` is on disk.

        Raises:
          UnwrittenCheckpoint: that save failed.
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
        return manifest.read(self._folder(step))["meta"]

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
        return _read_like(folder, like), manifest.read(folder)["meta"]

    def newest(
        self, like: Callable[[dict], Any], *, fingerprint: str, warn: Callable[[str], None]
    ) -> tuple[int, Any, dict] | None:
        """Step, state and meta of the newest checkpoint that can be read whole; None where none was saved.

        Args:
          like: gives, from a checkpoint's meta, the tree wanted of it, as `restore` takes it.
          fingerprint: what the meta must hold under this name: settings and data of the run.
          warn: is told of each damaged checkpoint.

        Raises:
          UserError: a checkpoint of another run, or none that can be read.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                meta = self._meta_of(step, fingerprint)
                return step, self.restore(step, like(meta))[0], meta
            except DamagedCheckpoint as damage:
                warn(f"{damage}; trying the checkpoint before it")
        if steps:
            raise UserError(f"{self.directory}: no checkpoint can be read; move this folder away to train afresh")
        return None

    def refuse_others(self, fingerprint: str) -> None:
        """Refuse what `newest` would, without reading arrays: for whoever has long work to do before he restores.

        Raises:
          UserError: a checkpoint of another run.
        """
        for step in reversed(self.steps()):
            with contextlib.suppress(DamagedCheckpoint):  # of which `newest` tells
                self._meta_of(step, fingerprint)
                return

    def _meta_of(self, step: int, fingerprint: str) -> dict:
        meta = self.meta(step)
        if meta["fingerprint"] != fingerprint:
            raise UserError(
                f"{self.directory}: these checkpoints are of other settings or data; use another --workdir, "
                "or remove this folder to train afresh"
            )
        return meta

    def _folder(self, step: int) -> pathlib.Path:
        return self.directory / f"{step:08d}"

    def _prune(self, saved: int) -> None:
        """Removes all but the newest checkpoints and the one just saved, and what killed saves left behind."""
        kept = {saved, *self.steps()[-self.keep :]}
        for folder in self.directory.iterdir():
            if folder.name.isdigit() and int(folder.name) not in kept:
                (folder / manifest.NAME).unlink(missing_ok=True)  # first, so that a half-removed folder is no checkpoint
                shutil.rmtree(folder)


def save_tree(directory: str | os.PathLike, tree: Any) -> None:
    """Saves one tree of arrays, replacing in one rename the tree that `directory` held.

    Raises:
      UnwrittenCheckpoint: it could not be written; the tree that was there still is.
    """
    if hosts.several():  # each has the whole tree on its own devices; as host arrays the first writes it
        tree = jax.tree.map(np.asarray, tree)
    _begin_save(pathlib.Path(directory).absolute(), tree, {})()
    hosts.barrier()


def load_tree(directory: str | os.PathLike) -> dict:
    """The tree that `save_tree` wrote, as nested dictionaries of host arrays.

    Raises:
      DamagedCheckpoint: nothing there, or the files are not what was written.
    """
    folder = pathlib.Path(directory).absolute()
    content = manifest.read(folder)
    wanted = {path: jax.ShapeDtypeStruct(leaf["shape"], leaf["dtype"]) for path, leaf in content["tree"].items()}
    return nest(_read_leaves(folder, content, wanted))


def _begin_save(folder: pathlib.Path, tree: Any, meta: dict) -> Callable[[], None]:
    """Copies the arrays and starts writing; the returned function ends it and makes it the folder's content."""
    ocp = _orbax()
    leaves = _leaves(tree)
    # Through JSON, so that the caller may go on changing his dictionary.
    content = {"tree": _shapes(leaves), "meta": json.loads(json.dumps(meta))}
    used = [int(path.name[5:]) for path in folder.glob("data-*") if path.name[5:].isdigit()]
    # As the first process sees it: what another sees may be what the first has just begun to write.
    data = hosts.said_by_first(f"data-{1 + max(used, default=0)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writing = ocp.save_async(folder / data, leaves)
    except (OSError, ValueError) as failure:
        _remove_data(folder, lambda name: name == data)
        raise _unwritten(folder, failure) from failure

    def finish() -> None:
        try:
            writing.result()
            if hosts.first():
                manifest.write(folder, content, data=data)
        except (OSError, ValueError) as failure:
            _remove_data(folder, lambda name: name == data)
            raise _unwritten(folder, failure) from failure
        _remove_data(folder, lambda name: name != data)

    return finish


def _unwritten(folder: pathlib.Path, failure: Exception) -> UnwrittenCheckpoint:
    """What to tell of a failed save. TensorStore tells of a full disk by a ValueError that names its own source files."""
    full = "No space left" in str(failure) or getattr(failure, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    reason = "the disk is full" if full else " ".join(str(failure).split())[:SHOWN_REASON]
    return UnwrittenCheckpoint(f"{folder}: the checkpoint could not be written: {reason}; make room and run the same command again")


def _remove_data(folder: pathlib.Path, chosen: Callable[[str], bool]) -> None:
    """Removes the chosen data folders, with the temporary ones that Orbax names after them."""
    if hosts.first():
        for path in folder.glob("data-*"):
            if chosen(path.name.partition(".")[0]):
                shutil.rmtree(path)


def _orbax() -> Any:
    """Orbax, imported at its first use, and quiet: what it logs by the page it also raises."""
    from absl import logging
    from orbax.checkpoint import v1

    logging.set_verbosity(logging.FATAL)
    return v1


def _read_like(folder: pathlib.Path, like: Any) -> Any:
    content = manifest.read(folder)
    wanted = _leaves(like)
    _check_same(folder, content["tree"], _shapes(wanted))
    read = _read_leaves(folder, content, wanted)
    return jax.tree.unflatten(jax.tree.structure(like), [read[path] for path in wanted])


def _read_leaves(folder: pathlib.Path, content: dict, wanted: dict[str, Any]) -> dict[str, Any]:
    """Checks every file, then reads the arrays."""
    ocp = _orbax()
    damage = ""
    if hosts.first():
        try:
            manifest.check_files(folder, content)
        except DamagedCheckpoint as found:
            damage = str(found)
    if damage := hosts.said_by_first(damage):
        raise DamagedCheckpoint(damage)
    return ocp.load(folder / content["data"], {path: _abstract(leaf) for path, leaf in wanted.items()})


def _abstract(leaf: Any) -> Any:
    """What Orbax is asked for: a device array with its sharding, or a host array where none is given."""
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _leaves(tree: Any) -> dict[str, Any]:
    """The leaves by their path "a/b/c".

    Raises:
      ValueError: a leaf that cannot be saved, or that its path does not name.
    """
    leaves = paths(tree)
    if len(leaves) != len(jax.tree.leaves(tree)):
        raise ValueError("two leaves of the tree have the same path")
    for path, leaf in leaves.items():
        if not isinstance(leaf, ARRAYS) or math.prod(leaf.shape) == 0:
            raise ValueError(f"{path}: a checkpoint holds arrays of at least one element, not {leaf!r}")
    return leaves


def _shapes(leaves: dict[str, Any]) -> dict[str, dict]:
    return {path: {"shape": list(leaf.shape), "dtype": str(leaf.dtype)} for path, leaf in leaves.items()}


def _check_same(folder: pathlib.Path, saved: dict[str, dict], wanted: dict[str, dict]) -> None:
    """Raises UserError with the first few differences between the saved tree and the wanted one."""

    def show(leaf):
        return f"{leaf['dtype']}{leaf['shape']}" if leaf else "nothing"

    differences = [
        f"{path}: saved {show(saved.get(path))}, wanted {show(wanted.get(path))}"
        for path in dict.fromkeys([*wanted, *saved])
        if saved.get(path) != wanted.get(path)
    ]
    if differences:
        more = len(differences) - SHOWN_DIFFERENCES
        text = "; ".join(differences[:SHOWN_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")
        raise UserError(
            f"{folder}: the checkpoint does not fit ({text}); use the config it was made with, or another workdir"
        )
