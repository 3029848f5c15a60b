"""The states of a frozen encoder, computed once and kept on disk.

A frozen encoder gives the same states in every epoch, so they are worth their disk space: half precision, end to end
in corpus order, memory-mapped. A killed pass goes on where it stopped.
"""

import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from lmindexer_jax.console import Console
from lmindexer_jax.data.pipeline import inference_batches, length_buckets
from lmindexer_jax.data.tokens import TokenStore
from lmindexer_jax.files import replacing
from lmindexer_jax.models.indexer import IndexerFunctions, Params, pool

FORMAT = 2  # raised when the files below change their meaning
BATCH = 32
FLUSH_EVERY = 50  # batches between two notes of progress


class Encoded(NamedTuple):
    """Encoder states of all tokens end to end, and per document their unit mean and that of its word vectors."""

    states: Float[np.ndarray, "M D"]
    pooled: Float[np.ndarray, "N D"]
    lexical: Float[np.ndarray, "N D"]


def encoder_hash(params: Params) -> str:
    """Content hash of the encoder's parameters."""
    digest = hashlib.sha256()
    parts = {name: params[name] for name in ("encoder", "shared") if name in params}
    for path, leaf in jax.tree_util.tree_flatten_with_path(parts)[0]:
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


@functools.cache
def make_encode(functions: IndexerFunctions) -> Callable:
    """Compiled `(params, tokens, mask) -> states (B, L, D) in half precision, pooled (B, D), word vectors (B, D)`.

    The pooled vector is made of the states as they are stored, so that a document encoded later agrees bit by bit.
    """

    @jax.jit
    def encode(params: Params, tokens: np.ndarray, mask: np.ndarray):
        states = functions.encode(params, tokens, mask).astype(np.float16)
        return states, pool(states, mask), functions.word_vectors(params, tokens, mask)

    return encode


def encode_corpus(
    functions: IndexerFunctions, params: Params, store: TokenStore, *, directory: pathlib.Path, console: Console
) -> Encoded:
    """Encode every document once; later calls, and calls after a kill, use what is there.

    Args:
      functions: the indexer.
      params: its parameters; the encoder's alone are used.
      store: tokens of N documents.
      directory: where caches live; one folder per (encoder, tokens).
      console: shows progress.
    """
    name = f"{FORMAT}-{encoder_hash(params)}-{store.hash[:16]}-{np.dtype(functions.module.dtype).name}"
    home = directory / name
    home.mkdir(parents=True, exist_ok=True)
    width = jax.eval_shape(
        functions.encode, params, np.zeros((1, 8), np.int32), np.ones((1, 8), bool)
    ).shape[-1]
    offsets = np.r_[0, np.cumsum(store.lengths, dtype=np.int64)]
    progress_file = home / "done.json"
    states = _open(home / "states.f16", (int(offsets[-1]), width), np.float16, progress_file=progress_file)
    means = [
        _open(home / name, (len(store), width), np.float32, progress_file=progress_file)
        for name in ("pooled.f32", "lexical.f32")
    ]
    done = json.loads(progress_file.read_text())["batches"] if progress_file.exists() else 0
    buckets = length_buckets(store.max_length)
    total = sum(1 for _ in inference_batches(store.lengths, batch_size=BATCH, buckets=buckets))
    if done < total:
        encode = make_encode(functions)
        with console.progress("encode corpus", total=total, unit="batches", start=done) as progress:
            batches = inference_batches(store.lengths, batch_size=BATCH, buckets=buckets, start=done)
            for number, (indices, real, length) in enumerate(batches, start=done + 1):
                tokens, mask = store.batch(indices, length=length)
                out_states, *out_means = (np.asarray(x) for x in encode(params, tokens, mask))
                for row in np.flatnonzero(real):
                    first, last = offsets[indices[row]], offsets[indices[row] + 1]
                    states[first:last] = out_states[row, : last - first]
                for mean, out in zip(means, out_means, strict=True):
                    mean[indices[real]] = out[real]
                if number % FLUSH_EVERY == 0 or number == total:
                    for array in (states, *means):
                        array.flush()
                    with replacing(progress_file) as path:
                        path.write_text(json.dumps({"batches": number}))
                progress.advance(1)
    return Encoded(*map(_read, (states, *means)))


def _open(path: pathlib.Path, shape: tuple[int, ...], dtype: type, *, progress_file: pathlib.Path) -> np.memmap:
    """Open a raw array for reading and writing; where it has to be made, what the progress file says is void.

    Its space is taken at once: writing into a hole of a mapped file on a full disk ends the process by a signal.
    """
    wanted = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not path.exists() or path.stat().st_size != wanted:
        progress_file.unlink(missing_ok=True)
        with replacing(path) as fresh, open(fresh, "wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, wanted)
            else:  # macOS
                file.truncate(wanted)
    return np.memmap(path, dtype, "r+", shape=shape)


def _read(array: np.memmap) -> np.memmap:
    return np.memmap(array.filename, array.dtype, "r", shape=array.shape)
