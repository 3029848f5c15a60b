"""Sequential recommendation: a causal transformer over the items of a history, and two heads on it.

CODES generates the next item's semantic ID level by level (TIGER's task, Rajput et al., 2023; here the history is read
item by item, not code by code, so that every place of a history is a training example in one pass). With h the state
after the history, e_j the row of code c_j and v_k a vector of the level,

    x_k = h + e_1 + ... + e_{k-1} + v_k        z_k = norm(x_k + feed-forward(norm(x_k)))
    log p(c_k | c_<k) = log-softmax of z_k . e over the codes that follow c_<k in the trie of valid IDs

so the log-probabilities of an item's codes add up to log p(item), and those of all items are a distribution.

ITEMS is SASRec (Kang and McAuley, 2018): one softmax over the vectors of all items, which the input shares.

An item is read as the sum of what the config names: an embedding of its own, a linear map of its text's embedding, and
the rows of its codes.
"""

import dataclasses
import enum
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt32

from lmindexer_jax.models.layers import (
    MASKED,
    Attention,
    Dropout,
    Embedding,
    FeedForward,
    FeedForwardKind,
    LayerNorm,
    Projection,
    RelativeBias,
    matmul,
)

Params = dict
STDDEV = 0.02
WORD = 32  # children kept in one word of a mask


class Head(enum.StrEnum):
    """What is predicted."""

    CODES = "codes"  # the next item's semantic ID, level by level
    ITEMS = "items"  # the next item among all items


@dataclasses.dataclass
class RecommenderConfig:
    """The transformer and what it reads of an item."""

    read_id: bool = True  # an embedding of the item itself
    read_text: bool = True  # a linear map of the embedding of its text
    read_codes: bool = True  # the sum of the rows of its codes
    width: int = 128
    layers: int = 2
    heads: int = 4
    hidden: int = 256  # of the feed-forward networks
    dropout: float = 0.2
    length: int = 50  # latest items of a history that are read


class Catalogue(NamedTuple):
    """What is known of the N items, as arrays on the device.

    `words[k][n]` has bit c set where code c may follow prefix n of length k; `nodes[i, k]` is the number of item i's
    prefix of length k among the sorted prefixes of that length.
    """

    codes: Int[Array, "N T"]
    nodes: Int[Array, "N T"]
    words: tuple[UInt32[Array, "P W"], ...]
    text: Float[Array, "N E"] | None


class Histories(NamedTuple):
    """Histories laid end to end in rows. `segment` numbers the histories of a row from 1; 0 is padding."""

    items: Int[Array, "B L"]
    segment: Int[Array, "B L"]


class Block(nn.Module):
    """Self-attention and feed-forward, each of the normed stream and added to it."""

    config: RecommenderConfig
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        config = self.config
        head_dim = config.width // config.heads
        self.attention_norm = LayerNorm(config.width, 1e-6, self.dtype)
        self.attention = Attention(config.width, config.heads, head_dim, dropout_rate=config.dropout, dtype=self.dtype)
        self.feed_forward_norm = LayerNorm(config.width, 1e-6, self.dtype)
        self.feed_forward = FeedForward(
            config.width, config.hidden, FeedForwardKind.RELU, config.dropout, use_bias=True, dtype=self.dtype
        )
        self.dropout = Dropout(config.dropout)

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


class Recommender(nn.Module):
    """All parts under one roof; its methods are reached through `RecommenderFunctions`."""

    config: RecommenderConfig
    head: Head
    items: int
    codebook_sizes: tuple[int, ...]  # K of every level, the counter's among them
    text_width: int = 0
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        config, width = self.config, self.config.width
        generates = self.head == Head.CODES
        if config.read_id:
            self.item = Embedding(self.items, width, STDDEV)
        if config.read_text:
            self.text = Projection(self.text_width, width, STDDEV)
        if config.read_codes or generates:
            self.code = [Embedding(size, width, STDDEV) for size in self.codebook_sizes]
        self.bias = RelativeBias(config.heads, bidirectional=False, max_distance=config.length, stddev=STDDEV)
        self.block = [Block(config, self.dtype) for _ in range(config.layers)]
        self.dropout = Dropout(config.dropout)
        self.head_norm = LayerNorm(width, 1e-6, self.dtype)
        if generates:
            self.level = self.param("level", nn.initializers.normal(STDDEV), (len(self.codebook_sizes), width))
            self.mixer_norm = LayerNorm(width, 1e-6, self.dtype)
            self.mixer = FeedForward(
                width, config.hidden, FeedForwardKind.RELU, config.dropout, use_bias=True, dtype=self.dtype
            )

    def read(self, items: Int[Array, "*B"], catalogue: Catalogue) -> Float[Array, "*B D"]:
        """One vector per item."""
        parts = []
        if self.config.read_id:
            parts.append(self.item(items))
        if self.config.read_text:
            parts.append(self.text(catalogue.text[items].astype(jnp.float32)))
        if self.config.read_codes:
            codes = catalogue.codes[items]
            parts += [table(codes[..., level]) for level, table in enumerate(self.code)]
        return sum(parts)

    def states(
        self, histories: Histories, catalogue: Catalogue, *, deterministic: bool = True
    ) -> Float[Array, "B L D"]:
        """h at every place: it has seen the history up to and with that place's item, and nothing else."""
        length = histories.items.shape[1]
        stream = self.dropout(self.read(histories.items, catalogue), deterministic=deterministic)
        same = histories.segment[:, :, None] == histories.segment[:, None, :]
        past = jnp.tril(jnp.ones((length, length), bool))
        mask = (same & past[None])[:, None]
        bias = self.bias(length, length)
        for block in self.block:
            stream = block(stream, bias, mask, deterministic=deterministic)
        return stream

    def mix(self, inputs: Float[Array, "*B D"], *, deterministic: bool = True) -> Float[Array, "*B D"]:
        """z of x: what is compared with the rows of a level's codes."""
        mixed = self.mixer(self.mixer_norm(inputs), deterministic=deterministic)
        return self.head_norm(inputs + mixed)

    def levels(
        self, states: Float[Array, "M D"], codes: Int[Array, "M T"], *, deterministic: bool = True
    ) -> tuple[Float[Array, "M K"], ...]:
        """Logits over the codes of every level, given the codes before it (teacher forced); nothing is masked."""
        rows = jnp.stack([table(codes[:, level]) for level, table in enumerate(self.code)], axis=1)
        prefix = jnp.cumsum(rows, axis=1) - rows
        mixed = self.mix(states[:, None] + prefix + self.level[None], deterministic=deterministic)
        return tuple(matmul(mixed[:, level], table.embedding.T, dtype=self.dtype) for level, table in enumerate(self.code))

    def next_level(
        self, states: Float[Array, "*B D"], prefix: Float[Array, "*B D"], level: int
    ) -> Float[Array, "*B K"]:
        """Logits over the codes of one level, given the sum of the rows of the codes before it."""
        mixed = self.mix(states + prefix + self.level[level].reshape((1,) * (states.ndim - 1) + (-1,)))
        return matmul(mixed, self.code[level].embedding.T, dtype=self.dtype)

    def rows(self, codes: Int[Array, "*B"], level: int) -> Float[Array, "*B D"]:
        """The rows of some codes of one level."""
        return self.code[level](codes)

    def queries(self, states: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """What SASRec compares with the items' vectors."""
        return self.head_norm(states)

    def __call__(self, histories: Histories, catalogue: Catalogue) -> tuple[Array, ...]:
        """Touch every parameter once (initialisation)."""
        states = self.states(histories, catalogue)
        if self.head == Head.ITEMS:
            return (self.queries(states),)
        flat = states.reshape(-1, states.shape[-1])
        return self.levels(flat, catalogue.codes[histories.items.reshape(-1)])


@dataclasses.dataclass(frozen=True, eq=False)
class RecommenderFunctions:
    """The pure functions of one recommender; parameters come first, a key means dropout."""

    module: Recommender

    def init(self, key: PRNGKeyArray, catalogue: Catalogue) -> Params:
        """Random parameters."""
        nothing = jnp.zeros((1, 2), jnp.int32)
        return jax.jit(self.module.init)(key, Histories(nothing, nothing), catalogue)["params"]

    def _apply(self, method: str, params: Params, *args, key: PRNGKeyArray | None = None, **more) -> Array:
        if key is not None:
            more |= {"deterministic": False, "rngs": {"dropout": key}}
        return self.module.apply({"params": params}, *args, method=getattr(Recommender, method), **more)

    def states(
        self, params: Params, histories: Histories, catalogue: Catalogue, *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "B L D"]:
        """h at every place of the histories."""
        return self._apply("states", params, histories, catalogue, key=key)

    def log_likelihood(
        self,
        params: Params,
        states: Float[Array, "M D"],
        targets: Int[Array, " M"],
        catalogue: Catalogue,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "M T"]:
        """log p(c_k | c_<k, h) of every code of each target; their sum is log p(target | h)."""
        codes, nodes = catalogue.codes[targets], catalogue.nodes[targets]
        logits = self._apply("levels", params, states, codes, key=key)
        out = []
        for level, values in enumerate(logits):
            logs = among(values, catalogue.words[level][nodes[:, level]])
            out.append(jnp.take_along_axis(logs, codes[:, level, None], axis=-1)[:, 0])
        return jnp.stack(out, axis=-1)

    def next_level(
        self, params: Params, states: Float[Array, "*B D"], prefix: Float[Array, "*B D"], *, level: int
    ) -> Float[Array, "*B K"]:
        """Unmasked logits of one level after a prefix, given as the sum of its codes' rows."""
        return self._apply("next_level", params, states, prefix, level)

    def rows(self, params: Params, codes: Int[Array, "*B"], *, level: int) -> Float[Array, "*B D"]:
        """Rows of the codes of one level."""
        return self._apply("rows", params, codes, level)

    def queries(self, params: Params, states: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """SASRec: what is compared with `item_vectors`."""
        return self._apply("queries", params, states)

    def item_vectors(self, params: Params, items: Int[Array, "*B"], catalogue: Catalogue) -> Float[Array, "*B D"]:
        """The vectors by which items are read, and compared in SASRec."""
        return self._apply("read", params, items, catalogue)


def among(logits: Float[Array, "*B K"], words: UInt32[Array, "*B W"]) -> Float[Array, "*B K"]:
    """Log-softmax over the codes whose bit is set in `words`; a large negative number elsewhere."""
    logits = jnp.where(unpack(words, logits.shape[-1]), logits.astype(jnp.float32), MASKED)
    return jax.nn.log_softmax(logits, axis=-1)


def unpack(words: UInt32[Array, "*B W"], size: int) -> Bool[Array, "*B K"]:
    """The first `size` bits as booleans, the lowest bit of a word first."""
    shifts = jnp.arange(WORD, dtype=jnp.uint32).reshape((1,) * words.ndim + (WORD,))
    bits = (words[..., None] >> shifts) & 1
    return bits.reshape(*words.shape[:-1], -1)[..., :size].astype(bool)
