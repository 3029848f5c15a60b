"""The token store: every document's tokens in one memory-mapped array, built once per corpus, tokenizer and length."""

import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Int

from lmindexer_jax.data.cache import build_once
from lmindexer_jax.data.tokenizer import Tokenizer
from lmindexer_jax.errors import UserError
from lmindexer_jax.files import load_array, save_array

_FORMAT = 1  # raised when the files below change their meaning
_ROWS = 1024  # documents tokenized together


class Texts(Protocol):
    """N texts in order, such as a corpus; their hash stands for all of them."""

    hash: str

    def __len__(self) -> int:
        """N."""
        ...

    def batches(self) -> Iterator[list[str]]:
        """All texts, some at a time."""
        ...


class TokenStore:
    """Tokens of N documents on disk.

    Attributes:
        lengths: int32 (N,), tokens per document, at most `max_length`.
        pad_id, eos_id: of the tokenizer.
        max_length: to which documents were cut, special tokens included.
        vocab_size: V.
        hash: of corpus, tokenizer and `max_length`.
    """

    def __init__(self, directory: Path):
        """Opens a built store.

        Raises:
            UserError: the files are damaged.
        """
        self._directory = Path(directory)
        try:
            meta = json.loads((self._directory / "tokens.json").read_text())
            self._offsets = load_array(self._directory / "offsets.npy")
            # A plain array over the map: numpy's memmap class makes each of the many small reads slower.
            self._tokens = np.asarray(np.memmap(self._directory / "tokens.bin", np.dtype(meta["dtype"]), mode="r"))
            self._counts = load_array(self._directory / "counts.npy")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{directory}: damaged token store ({str(error).splitlines()[0]}); delete the folder") from error
        if len(self._tokens) != self._offsets[-1]:
            raise UserError(f"{directory}: damaged token store (tokens are missing); delete the folder")
        self.lengths: Int[np.ndarray, " N"] = np.diff(self._offsets).astype(np.int32)
        self.pad_id: int = meta["pad_id"]
        self.eos_id: int = meta["eos_id"]
        self.max_length: int = meta["max_length"]
        self.vocab_size: int = meta["vocab_size"]
        self.hash: str = meta["hash"]

    def __reduce__(self):
        # A worker process opens the same files instead of receiving a copy of them.
        return TokenStore, (self._directory,)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def flat(self) -> Int[np.ndarray, " M"]:
        """The tokens of all documents end to end, in the stored type."""
        return self._tokens[self._offsets[0] : self._offsets[-1]]

    def part(self, first: int, last: int) -> "TokenStore":
        """The documents `first`..`last` (exclusive) as a store of their own, over the same files."""
        view = copy.copy(self)
        view._offsets = self._offsets[first : last + 1]
        view.lengths = self.lengths[first:last]
        view.hash = f"{self.hash}-{first}-{last}"
        return view

    def row(self, index: int) -> Int[np.ndarray, " L"]:
        """All tokens (int32) of one document."""
        return self._tokens[self._offsets[index] : self._offsets[index + 1]].astype(np.int32)

    def batch(
        self, indices: Int[np.ndarray, " B"], *, length: int
    ) -> tuple[Int[np.ndarray, "B {length}"], Bool[np.ndarray, "B {length}"]]:
        """Tokens (int32) of some documents, padded with `pad_id` or cut to `length`, and the mask of real ones.

        A document that is cut still ends in `eos_id`, just as if it had been tokenized to this length.
        """
        indices = np.asarray(indices)
        columns = np.arange(length)
        mask = columns < self.lengths[indices, None]
        # Padding reads the first token of the store, which is always there, and is then overwritten.
        places = np.where(mask, self._offsets[indices, None] + columns, 0)
        tokens = np.where(mask, self._tokens[places], self.pad_id).astype(np.int32)
        tokens[self.lengths[indices] > length, length - 1] = self.eos_id
        return tokens, mask

    def counts(self) -> Int[np.ndarray, " V"]:
        """How often each token occurs in the store (int64)."""
        return self._counts


def open_tokens(
    corpus: Texts,
    tokenizer: Tokenizer,
    *,
    max_length: int,
    cache_dir: Path,
    progress: Callable[[int], None] | None = None,
) -> TokenStore:
    """Returns the tokens of a corpus, or of other texts; tokenizes it the first time only, in memory that does not grow with it.

    Args:
        corpus: of N documents.
        tokenizer: whose ids are stored, as 16-bit numbers where they fit.
        max_length: tokens kept of each document, special tokens included.
        cache_dir: the store is a folder in its `tokens` folder, named by the hash of the above.
        progress: called with the number of documents done since the last call.
    """
    key = json.dumps([_FORMAT, corpus.hash, tokenizer.hash, max_length]).encode()
    digest = hashlib.blake2b(key, digest_size=16).hexdigest()
    directory = Path(cache_dir) / "tokens" / digest

    def build(partial: Path) -> None:
        dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
        offsets = np.zeros(len(corpus) + 1, np.int64)
        counts = np.zeros(tokenizer.vocab_size, np.int64)
        done = 0
        with open(partial / "tokens.bin", "wb") as file:
            for texts in _chunks(corpus):
                rows = tokenizer.encode(texts, max_length)
                flat = np.concatenate(rows)
                file.write(flat.astype(dtype).tobytes())
                counts += np.bincount(flat, minlength=len(counts))
                offsets[done + 1 : done + 1 + len(rows)] = [len(row) for row in rows]
                done += len(rows)
                if progress:
                    progress(len(rows))
        save_array(partial / "offsets.npy", np.cumsum(offsets))
        save_array(partial / "counts.npy", counts)
        meta = {"dtype": np.dtype(dtype).name, "hash": digest, "max_length": max_length}
        meta |= {"pad_id": tokenizer.pad_id, "eos_id": tokenizer.eos_id, "vocab_size": tokenizer.vocab_size}
        (partial / "tokens.json").write_text(json.dumps(meta, indent=1))

    return TokenStore(build_once(directory, build))


def _chunks(corpus: Texts) -> Iterator[list[str]]:
    for texts in corpus.batches():
        for first in range(0, len(texts), _ROWS):
            yield texts[first : first + _ROWS]
