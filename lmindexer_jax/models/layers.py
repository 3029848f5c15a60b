"""The layers that the language models share: projections, norms, attention, feed-forward, relative bias.

Every projection is one 2-D matmul: (B, L, D) is flattened to (B*L, D) first, because the weight gradient of a 3-D
product contracts two dimensions and XLA's CPU backend leaves its fast path there (products.py has more of this kind).
Parameters are float32; `dtype` is the compute type of the matmuls. Norms, softmax and scores stay in float32 whatever `dtype` is.
"""

import enum
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from lmindexer_jax.models.products import inner_products, product

# Finite, so that a row without a valid key gives numbers and not NaN; its exp is exactly 0 beside any valid key.
MASKED = -1e9


class FeedForwardKind(enum.StrEnum):
    """The position-wise network: T5 v1.0 (relu), T5 v1.1 (gated-gelu, tanh form), BERT (gelu, exact form)."""

    RELU = "relu"
    GATED_GELU = "gated-gelu"
    GELU = "gelu"


def matmul(inputs: Float[Array, "*batch I"], kernel: Float[Array, "I O"], *, dtype: jnp.dtype) -> Float[Array, "*batch O"]:
    """`inputs @ kernel` in `dtype` as one 2-D matmul, whatever the leading dimensions."""
    flat = product(inputs.reshape(-1, inputs.shape[-1]), kernel, dtype, dtype)
    return flat.reshape(*inputs.shape[:-1], kernel.shape[-1])


def aligned(vector: Float[Array, " D"], like: Float[Array, "*batch D"]) -> Float[Array, "*ones D"]:
    """The vector with leading axes of 1, as many as `like` has: broadcasting is never left to rank promotion."""
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)


def mask_bias(mask: Bool[Array, "*shape"]) -> Float[Array, "*shape"]:
    """What to add to attention scores: 0 where `mask` is true, a large negative number elsewhere."""
    return jnp.where(mask, 0.0, MASKED).astype(jnp.float32)


def random_words(key: Key[Array, ""], shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """Uniform 32-bit words: the index of each, mixed with the words of the key by murmur3's finaliser (Appleby, 2011).

    jax.random.bits does the same by 20 rounds of Threefry, which on a CPU take fifty times as long to run and two
    seconds to compile wherever they stand, and a training step draws dropout in dozens of places. Two rounds of an
    avalanche mix are ample for dropout; do not use them where much hangs on one draw.
    """
    words = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    for word in jax.random.key_data(key).reshape(-1):
        words = words ^ word
        words = (words ^ (words >> 16)) * jnp.uint32(0x85EBCA6B)
        words = (words ^ (words >> 13)) * jnp.uint32(0xC2B2AE35)
        words = words ^ (words >> 16)
    return words


def dropout(key: Key[Array, ""], values: Float[Array, "*shape"], *, rate: float) -> Float[Array, "*shape"]:
    """Zeroes each value with probability `rate` and scales the rest to keep the mean (Srivastava et al., 2014)."""
    kept = random_words(key, values.shape) >= jnp.uint32(rate * 2**32)
    return jnp.where(kept, values / (1 - rate), 0).astype(values.dtype)


class Dropout(nn.Module):
    """`dropout` on the rng stream 'dropout'; the identity when deterministic."""

    rate: float

    def __call__(self, values: Float[Array, "*shape"], *, deterministic: bool) -> Float[Array, "*shape"]:
        if deterministic or self.rate == 0.0:
            return values
        return dropout(self.make_rng("dropout"), values, rate=self.rate)


class Embedding(nn.Module):
    """A table of float32 rows, looked up in the compute type."""

    count: int
    width: int
    stddev: float = 1.0
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        self.embedding = self.param("embedding", nn.initializers.normal(self.stddev), (self.count, self.width))

    def __call__(self, indices: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
        return jnp.take(self.embedding, indices, axis=0).astype(self.dtype)


class Projection(nn.Module):
    """A linear map (..., inputs) -> (..., outputs), without a bias unless asked."""

    inputs: int
    outputs: int
    stddev: float
    use_bias: bool = False
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        self.kernel = self.param("kernel", nn.initializers.normal(self.stddev), (self.inputs, self.outputs))
        if self.use_bias:
            self.bias = self.param("bias", nn.initializers.zeros, (self.outputs,))

    def __call__(self, values: Float[Array, "*batch I"]) -> Float[Array, "*batch O"]:
        projected = matmul(values, self.kernel, dtype=self.dtype)
        return projected + aligned(self.bias.astype(self.dtype), projected) if self.use_bias else projected


class RMSNorm(nn.Module):
    """Root-mean-square norm without mean or bias (Zhang and Sennrich, 2019), in float32."""

    width: int
    epsilon: float = 1e-6
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, values: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        scale = self.param("scale", nn.initializers.ones, (self.width,))
        wide = values.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        return (wide * jax.lax.rsqrt(mean_square + self.epsilon) * aligned(scale, wide)).astype(self.dtype)


class LayerNorm(nn.Module):
    """Layer norm (Ba et al., 2016), in float32."""

    width: int
    epsilon: float = 1e-12
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, values: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        scale = self.param("scale", nn.initializers.ones, (self.width,))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        wide = values.astype(jnp.float32)
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(variance + self.epsilon)
        return (normed * aligned(scale, wide) + aligned(bias, wide)).astype(self.dtype)


class FeedForward(nn.Module):
    """The position-wise network; `gate` exists in the gated kind alone."""

    width: int
    hidden: int
    kind: FeedForwardKind
    dropout_rate: float = 0.0
    stddev: float | None = None
    use_bias: bool = False
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        up = self.stddev or self.width**-0.5
        down = self.stddev or self.hidden**-0.5
        self.up = Projection(self.width, self.hidden, up, self.use_bias, self.dtype)
        if self.kind is FeedForwardKind.GATED_GELU:
            self.gate = Projection(self.width, self.hidden, up, self.use_bias, self.dtype)
        self.down = Projection(self.hidden, self.width, down, self.use_bias, self.dtype)
        self.dropout = Dropout(self.dropout_rate)

    def __call__(self, values: Float[Array, "*batch D"], *, deterministic: bool = True) -> Float[Array, "*batch D"]:
        hidden = self.up(values)
        match self.kind:
            case FeedForwardKind.RELU:
                hidden = nn.relu(hidden)
            case FeedForwardKind.GELU:
                hidden = nn.gelu(hidden, approximate=False)
            case FeedForwardKind.GATED_GELU:
                hidden = nn.gelu(self.gate(values), approximate=True) * hidden
        return self.down(self.dropout(hidden, deterministic=deterministic))


def _split_heads(values: Float[Array, "B L Hd"], heads: int) -> Float[Array, "BH L d"]:
    batch, length, width = values.shape
    split = values.reshape(batch, length, heads, width // heads).transpose(0, 2, 1, 3)
    return split.reshape(batch * heads, length, width // heads)


def _merge_heads(values: Float[Array, "BH L d"], heads: int) -> Float[Array, "B L Hd"]:
    rows, length, width = values.shape
    merged = values.reshape(rows // heads, heads, length, width).transpose(0, 2, 1, 3)
    return merged.reshape(rows // heads, length, heads * width)


def attention_weights(
    scores: Float[Array, "B H T L"], *, bias: Float[Array, "#B #H T L"] | None, mask: Bool[Array, "B #H #T L"] | None
) -> Float[Array, "B H T L"]:
    """float32 softmax over the keys of scores + bias, with exactly zero weight on masked keys."""
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = scores + mask_bias(mask)
    return jax.nn.softmax(scores, axis=-1)


def attend(
    query: Float[Array, "B T Hd"],
    key: Float[Array, "B L Hd"],
    value: Float[Array, "B L Hd"],
    *,
    heads: int,
    bias: Float[Array, "#B #H T L"] | None = None,
    mask: Bool[Array, "B #H #T L"] | None = None,
    drop: Callable[[Array], Array] = lambda weights: weights,
) -> Float[Array, "B T Hd"]:
    """Multi-head attention (Vaswani et al., 2017) as (B*H, T, d) batched matmuls; the query is already scaled."""
    batch, length, dtype = query.shape[0], key.shape[1], query.dtype
    split_query, split_key = _split_heads(query, heads), _split_heads(key, heads)
    scores = inner_products(split_query, split_key, dtype, jnp.float32).reshape(batch, heads, -1, length)
    weights = drop(attention_weights(scores, bias=bias, mask=mask)).astype(dtype)
    mixed = product(weights.reshape(batch * heads, -1, length), _split_heads(value, heads), dtype, dtype)
    return _merge_heads(mixed, heads)


def attend_folded(
    query: Float[Array, "B T Hd"],
    context: Float[Array, "B L D"],
    key_kernel: Float[Array, "D Hd"],
    value_kernel: Float[Array, "D Hd"],
    *,
    heads: int,
    bias: Float[Array, "#B #H T L"] | None = None,
    mask: Bool[Array, "B #H #T L"] | None = None,
    drop: Callable[[Array], Array] = lambda weights: weights,
) -> Float[Array, "B T Hd"]:
    """`attend(query, context @ key_kernel, context @ value_kernel)` without ever projecting the context.

    q . (W_k^T c) = (W_k q) . c, and sum_l a_l (c_l W_v) = (sum_l a_l c_l) W_v: exact, and cheap for a few queries.
    """
    batch, queries, _ = query.shape
    length, width = context.shape[1:]
    dtype = query.dtype
    by_head = query.reshape(batch * queries, heads, -1).transpose(1, 0, 2)
    key_by_head = key_kernel.reshape(width, heads, -1).transpose(1, 0, 2)
    value_by_head = value_kernel.reshape(width, heads, -1).transpose(1, 0, 2)

    probes = inner_products(by_head, key_by_head, dtype, dtype)
    probes = probes.reshape(heads, batch, queries, width).transpose(1, 0, 2, 3).reshape(batch, heads * queries, width)
    scores = inner_products(probes, context, dtype, jnp.float32).reshape(batch, heads, queries, length)
    weights = drop(attention_weights(scores, bias=bias, mask=mask)).astype(dtype)
    sums = product(weights.reshape(batch, heads * queries, length), context, dtype, dtype)
    sums = sums.reshape(batch, heads, queries, width).transpose(1, 0, 2, 3).reshape(heads, batch * queries, width)
    mixed = product(sums, value_by_head, dtype, dtype)
    return mixed.transpose(1, 0, 2).reshape(batch, queries, -1)


def folding_pays(*, queries: int, keys: int, width: int, head_dim: int) -> bool:
    """Whether `attend_folded` needs fewer multiplications than projecting every key and value.

    Per sequence and per unit of width x heads x head_dim: T + T L / d folded, L + T L / D plain. Never true where
    queries = keys.
    """
    return queries + queries * keys / head_dim < keys + queries * keys / width


class Attention(nn.Module):
    """Multi-head attention of `inputs` over `context`, or over themselves.

    `scale` multiplies the query: d**-0.5 in BERT, 1 in T5, whose initialisation holds it (Raffel et al., 2020).
    """

    width: int
    heads: int
    head_dim: int
    scale: float = 1.0
    dropout_rate: float = 0.0
    stddev: float | None = None
    use_bias: bool = False
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        inner = self.heads * self.head_dim
        query = self.stddev or (self.width * self.head_dim) ** -0.5
        self.query = Projection(self.width, inner, query, self.use_bias, self.dtype)
        self.key = Projection(self.width, inner, self.stddev or self.width**-0.5, self.use_bias, self.dtype)
        self.value = Projection(self.width, inner, self.stddev or self.width**-0.5, self.use_bias, self.dtype)
        self.output = Projection(inner, self.width, self.stddev or inner**-0.5, self.use_bias, self.dtype)
        self.dropout = Dropout(self.dropout_rate)

    def __call__(
        self,
        inputs: Float[Array, "B T D"],
        context: Float[Array, "B L D"] | None = None,
        *,
        bias: Float[Array, "#B #H T L"] | None = None,
        mask: Bool[Array, "B #H #T L"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "B T D"]:
        context = inputs if context is None else context
        query = self.query(inputs)
        query = query if self.scale == 1.0 else query * self.scale

        def drop(weights: Array) -> Array:
            return self.dropout(weights, deterministic=deterministic)

        queries, keys = inputs.shape[1], context.shape[1]
        shape = {"queries": queries, "keys": keys, "width": self.width, "head_dim": self.head_dim}
        if folding_pays(**shape) and not self.use_bias:
            kernels = self.key.kernel, self.value.kernel
            mixed = attend_folded(query, context, *kernels, heads=self.heads, bias=bias, mask=mask, drop=drop)
        else:
            key, value = self.key(context), self.value(context)
            mixed = attend(query, key, value, heads=self.heads, bias=bias, mask=mask, drop=drop)
        return self.output(mixed)


def relative_buckets(
    queries: int, keys: int, *, buckets: int, max_distance: int, bidirectional: bool
) -> Int[np.ndarray, "T L"]:
    """T5's bucket of each (query, key) distance (Raffel et al., 2020).

    Exact near by, logarithmic up to `max_distance`, one bucket beyond; that one follows at once where all up to there is exact.
    """
    distance = np.arange(keys)[None, :] - np.arange(queries)[:, None]
    if bidirectional:
        buckets //= 2
        offset, distance = np.where(distance > 0, buckets, 0), np.abs(distance)
    else:
        offset, distance = 0, np.maximum(-distance, 0)
    exact = buckets // 2
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / exact) / math.log(max(max_distance, exact + 1) / exact)
    far = exact + (ratio * (buckets - exact)).astype(np.int32)
    return offset + np.where(distance < exact, distance, np.minimum(far, buckets - 1))


class RelativeBias(nn.Module):
    """A learned float32 score per head and distance bucket: (queries, keys) -> (1, H, T, L)."""

    heads: int
    buckets: int = 32
    max_distance: int = 128
    bidirectional: bool = True
    stddev: float = 1.0

    @nn.compact
    def __call__(self, queries: int, keys: int) -> Float[Array, "1 H T L"]:
        table = self.param("embedding", nn.initializers.normal(self.stddev), (self.buckets, self.heads))
        shape = {"buckets": self.buckets, "max_distance": self.max_distance, "bidirectional": self.bidirectional}
        chosen = jax.nn.one_hot(relative_buckets(queries, keys, **shape).reshape(-1), self.buckets)
        # A product with one-hot rows, not a look-up: its gradient is a matmul too, where a look-up's is a scatter.
        bias = jnp.matmul(chosen, table, precision=jax.lax.Precision.HIGHEST)
        return bias.reshape(queries, keys, self.heads).transpose(2, 0, 1)[None]
