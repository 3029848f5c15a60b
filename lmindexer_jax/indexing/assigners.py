"""The models as they were when each position was assigned.

Training goes on after a position has its codes, so the final model would give some documents other codes. New
documents are therefore coded by these snapshots: the same text gets the same code whenever it arrives.
"""

import hashlib
import json
import pathlib

import jax
import numpy as np
from jaxtyping import Int

from lmindexer_jax.errors import UserError
from lmindexer_jax.files import load_array, load_arrays, replacing, save_array, sealed, unsealed
from lmindexer_jax.indexing.centres import Centres
from lmindexer_jax.models.indexer import Params
from lmindexer_jax.training import hosts
from lmindexer_jax.training.checkpoint import load_tree, save_tree

LANGUAGE_MODEL = ("encoder", "shared")


class Assigners:
    """Snapshots under one directory: `<position>/` parameters, `centres-<position>.npz`, `codes-<position>.npy`."""

    def __init__(self, directory: pathlib.Path):
        """Nothing is read or made yet."""
        self.directory = directory

    def save(self, position: int, params: Params, *, codes: Int[np.ndarray, " N"]) -> None:
        """Keep what assigned `position`: all parameters but the reconstructor; the encoder once if it did not move.

        `codes` are the codes as learned, before any reassignment for distinctness.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        kept = {name: leaf for name, leaf in params.items() if name != "reconstructor"}
        digest = content_hash({name: kept[name] for name in LANGUAGE_MODEL if name in kept})
        if position > 0 and self.meta(0)["language_model"] == digest:
            kept = {name: leaf for name, leaf in kept.items() if name not in LANGUAGE_MODEL}
        save_tree(self.directory / str(position), kept)
        if hosts.first():
            codes = np.asarray(codes, np.int32)
            save_array(self.directory / f"codes-{position}.npy", codes)
            meta = {"language_model": digest, "model": content_hash(kept), "codes": content_hash({"codes": codes})}
            with replacing(self.directory / f"meta-{position}.json") as path:
                path.write_text(json.dumps(sealed(meta)))
        hosts.barrier()

    def meta(self, position: int) -> dict:
        """Hashes of one snapshot."""
        path = self.directory / f"meta-{position}.json"
        if not path.exists():
            raise UserError(f"{path}: missing, position {position + 1} has not been assigned yet; finish the run first")
        try:
            meta = unsealed(json.loads(path.read_text()))
            return {name: meta[name] for name in ("language_model", "model")} | {"codes": meta.get("codes")}
        except (ValueError, TypeError, KeyError, AttributeError):
            raise _damaged(path) from None

    def load(self, position: int) -> Params:
        """Parameters (without the reconstructor) that assign `position`."""
        meta = self.meta(position)
        params = load_tree(self.directory / str(position))
        if content_hash(params) != meta["model"]:
            raise UserError(f"{self.directory / str(position)}: content differs from what was saved; restore it or retrain")
        if not any(name in params for name in LANGUAGE_MODEL):
            base = load_tree(self.directory / "0")
            params |= {name: base[name] for name in LANGUAGE_MODEL if name in base}
        if "output" in params and params["output"].ndim == 2:  # from before every position had its own
            books = sum(name.startswith("codebook_") for name in params)
            params["output"] = np.broadcast_to(params["output"], (books, *params["output"].shape))
        return params

    def learned_codes(self, position: int) -> Int[np.ndarray, " N"]:
        """Codes of the corpus as learned."""
        path = self.directory / f"codes-{position}.npy"
        wanted = self.meta(position)["codes"]
        try:
            codes = load_array(path)
        except (ValueError, OSError):
            raise _damaged(path) from None
        known = wanted in (None, content_hash({"codes": codes}))  # None: saved before codes had a hash
        if not known or codes.dtype != np.int32 or codes.ndim != 1:  # the hash is of the bits alone
            raise _damaged(path)
        return codes

    def save_centres(self, position: int, centres: Centres) -> None:
        """Keep the prefix centres that `position` is taken relative to."""
        if hosts.first():
            self.directory.mkdir(parents=True, exist_ok=True)
            with replacing(self.directory / f"centres-{position}.npz") as path:
                np.savez(path, prefixes=centres.prefixes, means=centres.means)
        hosts.barrier()

    def has_centres(self, position: int) -> bool:
        """Whether `save_centres` was called for this position."""
        return (self.directory / f"centres-{position}.npz").exists()

    def load_centres(self, position: int) -> Centres:
        """What `save_centres` kept."""
        path = self.directory / f"centres-{position}.npz"
        try:
            return Centres(*load_arrays(path, ("prefixes", "means")))
        except (ValueError, OSError):
            raise _damaged(path) from None

    def same_language_model(self, positions: int) -> bool:
        """Whether all snapshots share one encoder, so that its states serve every position."""
        return len({self.meta(p)["language_model"] for p in range(positions)}) == 1

    def model_hash(self, positions: int) -> str:
        """One hash for all snapshots: what an ID table is bound to."""
        return hashlib.sha256("".join(self.meta(p)["model"] for p in range(positions)).encode()).hexdigest()[:32]


def _damaged(path: pathlib.Path) -> UserError:
    return UserError(f"{path}: damaged or missing; restore it or learn again in another --workdir")


def content_hash(tree: Params) -> str:
    """Hash of a parameter tree's paths and bits."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        digest.update(jax.tree_util.keystr(path, simple=True, separator="/").encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
