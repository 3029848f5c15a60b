"""The catalogue as arrays: IDs, the tree of valid prefixes as bit masks, text embeddings."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt32

from lmindexer_jax.data.groups import group_by_prefix
from lmindexer_jax.indexing.id_table import IdTable
from lmindexer_jax.models.recommender import WORD, Catalogue


def make_catalogue(
    codes: Int[np.ndarray, "N T"], sizes: tuple[int, ...], text: Float[np.ndarray, "N E"] | None
) -> Catalogue:
    """Arrays for `models.recommender` from full IDs, of which no two are alike.

    A prefix costs K / 8 bytes, an item 8 T bytes; nothing is of the size of prefixes x codes.
    """
    groups = [group_by_prefix(codes[:, :level]) for level in range(codes.shape[1] + 1)]
    nodes = np.stack([group.group for group in groups[:-1]], axis=1).astype(np.int32)
    words = []
    for level, size in enumerate(sizes):
        children = groups[level + 1]
        parent = groups[level].group[children.members[children.offsets[:-1]]]
        words.append(_bits(parent, children.prefixes[:, -1], prefixes=len(groups[level].sizes), size=size))
    return Catalogue(
        codes=jnp.asarray(codes, jnp.int32),
        nodes=jnp.asarray(nodes),
        words=tuple(map(jnp.asarray, words)),
        text=None if text is None else jnp.asarray(text, jnp.float16),
    )


def _bits(
    parent: Int[np.ndarray, " C"], code: Int[np.ndarray, " C"], *, prefixes: int, size: int
) -> UInt32[np.ndarray, "P W"]:
    """One bit per child, the lowest bit of a word first."""
    words = np.zeros((prefixes, -(-size // WORD)), np.uint32)
    np.bitwise_or.at(words, (parent, code // WORD), np.uint32(1) << (code % WORD).astype(np.uint32))
    return words


def full_codes(table: IdTable) -> tuple[Int[np.ndarray, "N T"], tuple[int, ...]]:
    """Codes by which no two documents are alike, and the sizes of their levels: the counter is one of them only where
    documents share all codes."""
    sizes, most = tuple(table.manifest.codebook_sizes), int(table.counter.max(initial=0))
    return (table.full_ids, (*sizes, most + 1)) if most else (table.codes, sizes)
