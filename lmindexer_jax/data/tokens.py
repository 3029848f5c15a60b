"""Tokens of a whole corpus in one memory-mapped file, built once.

Ids end to end in 16 or 32 bits with an offset per document: a million short documents take some tens of megabytes,
and none of them sits in a Python list.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from lmindexer_jax.data.cache import build_once
from lmindexer_jax.data.corpus import Corpus
from lmindexer_jax.data.tokenizer import Tokenizer

CHUNK = 4096  # documents tokenized at a time


class TokenStore:
    """Token ids of N documents, memory-mapped."""

    def __init__(self, directory: Path):
        """Open a store that `open_tokens` built."""
        manifest = json.loads((directory / "manifest.json").read_text())
        self.directory = directory
        self.hash: str = manifest["hash"]
        self.pad_id: int = manifest["pad_id"]
        self.vocab_size: int = manifest["vocab_size"]
        self.max_length: int = manifest["max_length"]
        self.offsets = np.load(directory / "offsets.npy", mmap_mode="r")
        self.lengths: Int[np.ndarray, " N"] = np.diff(self.offsets).astype(np.int32)
        self._flat = np.memmap(directory / "tokens.bin", manifest["dtype"], "r")

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def flat(self) -> Int[np.ndarray, " M"]:
        """All ids end to end; document i is `flat[offsets[i]:offsets[i + 1]]`."""
        return self._flat

    def row(self, index: int) -> Int[np.ndarray, " L"]:
        """Ids of one document."""
        return np.asarray(self._flat[self.offsets[index] : self.offsets[index + 1]], np.int32)

    def batch(self, indices: Int[np.ndarray, " B"], *, length: int) -> tuple[Int[np.ndarray, "B L"], Bool[np.ndarray, "B L"]]:
        """Ids of several documents padded to `length`, and which of them are real."""
        starts, counts = self.offsets[indices], self.lengths[indices]
        place = np.arange(length)
        mask = place[None, :] < counts[:, None]
        at = np.where(mask, starts[:, None] + place[None, :], 0)
        return np.where(mask, self._flat[at], self.pad_id).astype(np.int32), mask

    def counts(self) -> Int[np.ndarray, " V"]:
        """How often each id occurs in the corpus."""
        return np.load(self.directory / "counts.npy")


def open_tokens(
    corpus: Corpus,
    tokenizer: Tokenizer,
    *,
    max_length: int,
    cache_dir: Path,
    progress: Callable[[int], None] | None = None,
) -> TokenStore:
    """The corpus' tokens, from the cache or built now in chunks.

    Args:
      corpus: the documents.
      tokenizer: makes the ids.
      max_length: most tokens per document, special tokens included.
      cache_dir: where stores live; the key is the content of corpus and tokenizer and the length.
      progress: called with the number of documents done.
    """
    key = hashlib.sha256(f"{corpus.hash} {tokenizer.hash} {max_length}".encode()).hexdigest()[:32]

    def build(directory: Path) -> None:
        dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
        lengths = np.zeros(len(corpus), np.int64)
        counts = np.zeros(tokenizer.vocab_size, np.int64)
        with open(directory / "tokens.bin", "wb") as file:
            for first in range(0, len(corpus), CHUNK):
                last = min(first + CHUNK, len(corpus))
                rows = tokenizer.encode(corpus.texts(range(first, last)), max_length=max_length)
                lengths[first:last] = [len(row) for row in rows]
                flat = np.concatenate(rows)
                counts += np.bincount(flat, minlength=tokenizer.vocab_size)
                file.write(flat.astype(dtype).tobytes())
                if progress is not None:
                    progress(last)
        np.save(directory / "offsets.npy", np.r_[0, np.cumsum(lengths)])
        np.save(directory / "counts.npy", counts)
        manifest = {
            "hash": key,
            "pad_id": tokenizer.pad_id,
            "vocab_size": tokenizer.vocab_size,
            "max_length": max_length,
            "dtype": np.dtype(dtype).name,
        }
        (directory / "manifest.json").write_text(json.dumps(manifest))

    return TokenStore(build_once(Path(cache_dir) / "tokens" / key, build))
