"""One step of a T5 decoder at a time, for many continuations of one encoded text, with what earlier steps computed.

Keys and values of the continuations' own codes are kept per continuation; those of the encoder's states are kept once
per text, or not at all where folding the projections into the few queries costs less (`layers.folding_pays`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lmindexer_jax.models.layers import Attention, attend, attend_folded, folding_pays, mask_bias
from lmindexer_jax.models.t5 import T5Decoder

Pair = tuple[Array, Array]  # keys and values


class Cache(NamedTuple):
    """What the decoder of L layers remembers after t steps, X continuations per text.

    Attributes:
      own: of each layer, the keys and values (B, X, t, H d) of what was read.
      cross: of each layer, the keys and values (B, L, H d) of the encoder's states; None where they are folded.
      encoded: the encoder's states.
      mask: which of them are real.
    """

    own: tuple[Pair, ...]
    cross: tuple[Pair, ...] | None
    encoded: Float[Array, "B L D"]
    mask: Bool[Array, "B L"]


def reorder(leaves, parents: Int[Array, "B X"]):
    """A tree of (B, X', ...) arrays -> (B, X, ...): each continuation with what the one that it continues had."""

    def lined_up(leaf: Array) -> Array:
        index = parents.reshape(*parents.shape, *(1,) * (leaf.ndim - 2))
        return jnp.take_along_axis(leaf, index, axis=1, mode="clip")

    return jax.tree.map(lined_up, leaves)


def start(decoder: T5Decoder, encoded: Float[Array, "B L D"], mask: Bool[Array, "B L"], *, queries: int) -> Cache:
    """A cache before the first step, of a decoder within `apply`.

    Args:
      queries: how many continuations will ask, over all steps: what folding is weighed by.
    """
    config = decoder.config
    empty = jnp.zeros((encoded.shape[0], 1, 0, config.num_heads * config.d_kv), decoder.dtype)
    shape = {"queries": queries, "keys": encoded.shape[1], "width": config.d_model, "head_dim": config.d_kv}
    cross = None
    if not folding_pays(**shape):
        cross = tuple((layer.cross_attention.key(encoded), layer.cross_attention.value(encoded)) for layer in decoder.layer)
    return Cache(((empty, empty),) * len(decoder.layer), cross, encoded.astype(decoder.dtype), mask)


def step(
    decoder: T5Decoder, cache: Cache, embedded: Float[Array, "B X D"], parents: Int[Array, "B X"]
) -> tuple[Float[Array, "B X D"], Cache]:
    """What the decoder makes of one more embedded code per continuation: states after the final norm, and the new cache.

    The states are those of `decoder(...)` on all codes so far, at the last of them.

    Args:
      parents: which continuation of the step before each of these continues.
    """
    own = reorder(cache.own, parents)
    time = own[0][0].shape[2] + 1
    bias = decoder.relative_bias(time, time)[0, :, -1]
    mask = cache.mask[:, None, None, :]
    hidden, kept = embedded.astype(decoder.dtype), []
    for number, (layer, pair) in enumerate(zip(decoder.layer, own, strict=True)):
        attention, normed = layer.self_attention, layer.self_attention_norm(hidden)
        fresh = attention.key(normed), attention.value(normed)
        pair = tuple(jnp.concatenate([old, new[:, :, None]], axis=2) for old, new in zip(pair, fresh, strict=True))
        kept.append(pair)
        hidden = hidden + attention.output(attend_own(attention, attention.query(normed), pair, bias=bias))
        attention = layer.cross_attention
        query = attention.query(layer.cross_attention_norm(hidden))
        if cache.cross is None:
            kernels = (projection.kernel.astype(decoder.dtype) for projection in (attention.key, attention.value))
            mixed = attend_folded(query, cache.encoded, *kernels, heads=attention.heads, mask=mask)
        else:
            mixed = attend(query, *cache.cross[number], heads=attention.heads, mask=mask)
        hidden = hidden + attention.output(mixed)
        hidden = hidden + layer.feed_forward(layer.feed_forward_norm(hidden))
    return decoder.final_norm(hidden), cache._replace(own=tuple(kept))


def attend_own(
    attention: Attention,
    query: Float[Array, "B X Hd"],
    own: Pair,
    *,
    bias: Float[Array, "H S+t"],
    before: Pair | None = None,
    mask: Bool[Array, "B S"] | None = None,
) -> Float[Array, "B X Hd"]:
    """Attention of each continuation over its own few codes, and over what all of a text have before them.

    The own are sums of products, since matmuls this small do not pay.

    Args:
      own: keys and values (B, X, t, H d) of each continuation.
      bias: of the S places before (0 where there are none) and the t own ones.
      before: keys and values (B, S, H d) that the continuations of a text have in common.
      mask: which of these are real.
    """
    key, value = (each.reshape(*each.shape[:-1], attention.heads, attention.head_dim) for each in own)
    heads = query.reshape(*query.shape[:-1], attention.heads, attention.head_dim)
    scores = (heads[:, :, None].astype(jnp.float32) * key.astype(jnp.float32)).sum(-1)
    if before is not None:
        common_key, common_value = (each.reshape(*each.shape[:-1], *heads.shape[2:]) for each in before)
        common = jnp.einsum("bxhd,bshd->bxsh", heads, common_key, preferred_element_type=jnp.float32)
        scores = jnp.concatenate([common + mask_bias(mask)[:, None, :, None], scores], axis=2)
    weights = jax.nn.softmax(scores + bias.T[None, None], axis=2).astype(query.dtype)
    places = scores.shape[2] - key.shape[2]
    mixed = (weights[:, :, places:, :, None] * value).astype(jnp.float32).sum(2)
    if before is not None:
        mixed = mixed + jnp.einsum("bxsh,bshd->bxhd", weights[:, :, :places], common_value, preferred_element_type=jnp.float32)
    return mixed.reshape(query.shape).astype(query.dtype)
