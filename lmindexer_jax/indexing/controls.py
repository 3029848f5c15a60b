"""IDs without meaning, as controls: what good codes must beat."""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int


def random_codes(ids: Sequence[str], sizes: Sequence[int], *, seed: int) -> Int[np.ndarray, "N T"]:
    """Even and independent codes, drawn by hashing (seed, document id): a document has the same whenever it comes."""
    codes = np.empty((len(ids), len(sizes)), np.int32)
    for row, name in enumerate(ids):
        number = int.from_bytes(hashlib.blake2b(f"{seed} {name}".encode(), digest_size=32).digest())
        for position, size in enumerate(sizes):
            number, codes[row, position] = divmod(number, size)
    return codes


def atomic_codes(documents: int) -> Int[np.ndarray, "N 1"]:
    """Every document its own code (DSI's atomic identifiers, Tay et al. 2022): T = 1, K = N."""
    return np.arange(documents, dtype=np.int32)[:, None]
