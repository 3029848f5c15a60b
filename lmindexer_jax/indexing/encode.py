"""The states of a frozen encoder, computed once and kept on disk.

A frozen encoder gives the same states in every epoch, so they are worth their disk space: half precision, end to end
in corpus order, memory-mapped. A killed pass goes on where it stopped, with any number of processes.
"""

import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from lmindexer_jax.console import Console, Progress
from lmindexer_jax.data.cache import locked
from lmindexer_jax.data.pipeline import inference_batches, length_buckets
from lmindexer_jax.data.tokens import TokenStore
from lmindexer_jax.files import replacing
from lmindexer_jax.models.indexer import IndexerFunctions, Params, pool
from lmindexer_jax.training import hosts
from lmindexer_jax.training.sharding import here, put_here

FORMAT = 3  # raised when the files below change their meaning
BATCH = 32
FLUSH_EVERY = 50  # batches between two notes of progress
PART = 2**14  # documents
PROGRESS = "done.json"


class Encoded(NamedTuple):
    """Encoder states of all tokens end to end, and per document their unit mean and that of its word vectors."""

    states: "Joined"
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

    The corpus is cut in parts, each a folder that one process writes, so that several processes share the work.

    Args:
      functions: the indexer.
      params: its parameters; the encoder's alone are used.
      store: tokens of N documents.
      directory: where caches live, seen by all processes; one folder per (encoder, tokens).
      console: shows progress.
    """
    name = f"{FORMAT}-{encoder_hash(params)}-{store.hash[:16]}-{np.dtype(functions.module.dtype).name}"
    width = jax.eval_shape(
        functions.encode, params, np.zeros((1, 8), np.int32), np.ones((1, 8), bool)
    ).shape[-1]
    firsts = range(0, len(store), PART)
    parts = [(directory / name / str(first), store.part(first, min(first + PART, len(store)))) for first in firsts]
    mine = hosts.deal(parts)[jax.process_index()]
    left = {home: (part, done) for home, part in mine if (done := _done(home, part, width)) < _batches(part)}
    if left:
        encode, params = make_encode(functions), here(params)
        todo = sum(_batches(part) for part, _ in left.values())
        done = sum(done for _, done in left.values())
        with console.progress("encode corpus", total=todo, unit="batches", start=done) as progress:
            for home, (part, done) in left.items():
                with locked(home):  # another run may have the same documents and encoder
                    if (found := _done(home, part, width)) > done:
                        progress.advance(found - done)
                    _encode_part(lambda batch: encode(params, *batch), part, home, width=width, done=found, progress=progress)
    hosts.barrier()
    columns = zip(*(_read(home, part, width=width) for home, part in parts), strict=True)
    states, *means = columns
    return Encoded(Joined(states), *(part[0] if len(part) == 1 else np.concatenate(part) for part in means))


class Joined:
    """Arrays end to end, read as one by slices that do not cross from one to the next."""

    def __init__(self, parts: Sequence[np.ndarray]):
        self.parts = parts
        self.starts = np.cumsum([0, *(len(part) for part in parts)])
        self.shape, self.dtype = (int(self.starts[-1]), *parts[0].shape[1:]), parts[0].dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        part = int(np.searchsorted(self.starts, rows.start, side="right")) - 1
        return self.parts[part][rows.start - self.starts[part] : rows.stop - self.starts[part]]


def padded(
    states: Joined, offsets: Int[np.ndarray, " N+1"], indices: Int[np.ndarray, " B"], mask: Bool[np.ndarray, "B L"]
) -> Float[np.ndarray, "B L D"]:
    """States of some documents, zero where there is no token; document i's are those from `offsets[i]` on."""
    out = np.zeros((*mask.shape, states.shape[1]), states.dtype)
    for row, (index, count) in enumerate(zip(indices, mask.sum(1), strict=True)):
        out[row, :count] = states[offsets[index] : offsets[index] + count]
    return out


def _rows() -> int:
    return BATCH * jax.local_device_count()


def _batches(part: TokenStore) -> int:
    buckets = length_buckets(part.max_length)
    return sum(1 for _ in inference_batches(part.lengths, batch_size=_rows(), buckets=buckets))


def _done(home: pathlib.Path, part: TokenStore, width: int) -> int:
    """Batches of this size that an earlier call has left."""
    sizes = {home / name: int(np.prod(shape)) * np.dtype(dtype).itemsize for name, shape, dtype in _files(part, width)}
    if not (home / PROGRESS).exists() or any(not file.exists() or file.stat().st_size != size for file, size in sizes.items()):
        return 0
    known = json.loads((home / PROGRESS).read_text())
    if known["complete"]:
        return _batches(part)
    return known["batches"] if known["rows"] == _rows() else 0


def _encode_part(
    encode: Callable, part: TokenStore, home: pathlib.Path, *, width: int, done: int, progress: Progress
) -> None:
    """Encode the documents of one part, but the first `done` batches."""
    home.mkdir(parents=True, exist_ok=True)
    offsets = np.r_[0, np.cumsum(part.lengths, dtype=np.int64)]
    states, *means = (_open(home / name, shape, dtype, home / PROGRESS) for name, shape, dtype in _files(part, width))
    total = _batches(part)
    batches = inference_batches(part.lengths, batch_size=_rows(), buckets=length_buckets(part.max_length), start=done)
    for number, (indices, real, length) in enumerate(batches, start=done + 1):
        out_states, *out_means = (np.asarray(x) for x in encode(put_here(part.batch(indices, length=length))))
        for row in np.flatnonzero(real):
            first, last = offsets[indices[row]], offsets[indices[row] + 1]
            states[first:last] = out_states[row, : last - first]
        for mean, out in zip(means, out_means, strict=True):
            mean[indices[real]] = out[real]
        if number % FLUSH_EVERY == 0 or number == total:
            for array in (states, *means):
                array.flush()
            with replacing(home / PROGRESS) as path:
                path.write_text(json.dumps({"batches": number, "rows": _rows(), "complete": number == total}))
        progress.advance(1)


def _files(part: TokenStore, width: int) -> list[tuple[str, tuple[int, int], type]]:
    """Name, shape and type of a part's files."""
    means = [(name, (len(part), width), np.float32) for name in ("pooled.f32", "lexical.f32")]
    return [("states.f16", (int(part.lengths.sum(dtype=np.int64)), width), np.float16), *means]


def _open(path: pathlib.Path, shape: tuple[int, ...], dtype: type, progress_file: pathlib.Path) -> np.memmap:
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


def _read(home: pathlib.Path, part: TokenStore, *, width: int) -> list[np.memmap]:
    return [np.memmap(home / name, dtype, "r", shape=shape) for name, shape, dtype in _files(part, width)]
