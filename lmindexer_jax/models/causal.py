"""A causal transformer over sequences laid end to end in rows: all places at once, or continuations a place at a time.

A step gives what the whole gives at its last place, without reading the sequence again: its keys and values are kept
once per sequence, those of the continuations per continuation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lmindexer_jax.models.decoding import Pair, attend_own, reorder
from lmindexer_jax.models.layers import Attention, Dropout, FeedForward, FeedForwardKind, LayerNorm, RelativeBias


class Block(nn.Module):
    """Self-attention and feed-forward, each of the normed stream and added to it."""

    width: int
    heads: int
    hidden: int
    dropout_rate: float
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        self.attention_norm = LayerNorm(self.width, 1e-6, self.dtype)
        self.attention = Attention(
            self.width, self.heads, self.width // self.heads, dropout_rate=self.dropout_rate, dtype=self.dtype
        )
        self.feed_forward_norm = LayerNorm(self.width, 1e-6, self.dtype)
        self.feed_forward = FeedForward(
            self.width, self.hidden, FeedForwardKind.RELU, self.dropout_rate, use_bias=True, dtype=self.dtype
        )
        self.dropout = Dropout(self.dropout_rate)

    def __call__(
        self,
        stream: Float[Array, "B L D"],
        bias: Float[Array, "1 H L L"],
        mask: Bool[Array, "B 1 L L"],
        *,
        deterministic: bool,
    ) -> Float[Array, "B L D"]:
        attended = self.attention(self.attention_norm(stream), bias=bias, mask=mask, deterministic=deterministic)
        stream = stream + self.dropout(attended, deterministic=deterministic)
        changed = self.feed_forward(self.feed_forward_norm(stream), deterministic=deterministic)
        return stream + self.dropout(changed, deterministic=deterministic)


class Cache(NamedTuple):
    """What the blocks remember of U sequences of S places and, for each, X continuations after t steps.

    Attributes:
      before: of each block, the keys and values (U, S, H d) of the sequences.
      real: which of their places are no padding.
      own: of each block, the keys and values (U, X, t, H d) of what was read since.
    """

    before: tuple[Pair, ...]
    real: Bool[Array, "U S"]
    own: tuple[Pair, ...]


def run(
    blocks: Sequence[Block],
    bias: RelativeBias,
    stream: Float[Array, "B L D"],
    segment: Int[Array, "B L"],
    *,
    deterministic: bool = True,
) -> tuple[Float[Array, "B L D"], tuple[Pair, ...]]:
    """Every place's state, which knows the places up to its own that bear its segment number; of blocks within `apply`.

    Returns:
      the states, and the keys and values of each block.
    """
    length = stream.shape[1]
    same = segment[:, :, None] == segment[:, None, :]
    mask = (same & jnp.asarray(np.tri(length, dtype=bool))[None])[:, None]
    biases, pairs = bias(length, length), []
    for block in blocks:
        normed = block.attention_norm(stream)  # computed once for both, when compiled
        pairs.append((block.attention.key(normed), block.attention.value(normed)))
        stream = block(stream, biases, mask, deterministic=deterministic)
    return stream, tuple(pairs)


def start(pairs: tuple[Pair, ...], real: Bool[Array, "U S"]) -> Cache:
    """A cache before the first step, of the keys and values that `run` gives; the sequences end in the last column."""
    users, _, width = pairs[0][0].shape
    empty = jnp.zeros((users, 1, 0, width), pairs[0][0].dtype)
    return Cache(pairs, real, ((empty, empty),) * len(pairs))


def step(
    blocks: Sequence[Block], bias: RelativeBias, cache: Cache, stream: Float[Array, "U X D"], parents: Int[Array, "U X"]
) -> tuple[Float[Array, "U X D"], Cache]:
    """The states of one more place of every continuation, and the new cache.

    Args:
      parents: which continuation of the step before each of these continues.
    """
    earlier, kept = reorder(cache.own, parents), []
    length = cache.real.shape[1] + earlier[0][0].shape[2] + 1
    biases = bias(length, 1)[0, :, ::-1, 0]  # of the distances to the places in their order
    for block, before, pair in zip(blocks, cache.before, earlier, strict=True):
        attention, normed = block.attention, block.attention_norm(stream)
        fresh = attention.key(normed), attention.value(normed)
        pair = tuple(jnp.concatenate([old, new[:, :, None]], axis=2) for old, new in zip(pair, fresh, strict=True))
        kept.append(pair)
        mixed = attend_own(attention, attention.query(normed), pair, bias=biases, before=before, mask=cache.real)
        stream = stream + attention.output(mixed)
        stream = stream + block.feed_forward(block.feed_forward_norm(stream))
    return stream, cache._replace(own=tuple(kept))
