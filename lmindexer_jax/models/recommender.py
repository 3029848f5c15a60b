"""Sequential recommendation: a causal transformer over a history, and three heads on it.

CODES reads item by item and generates the next item's semantic ID level by level: every place of a history is a training
example in one pass. With h the state after the history, e_j the row of code c_j and v_k a vector of the level,

    x_k = h + e_1 + ... + e_{k-1} + v_k        z_k = norm(x_k + feed-forward(norm(x_k)))
    log p(c_k | c_<k) = log-softmax of z_k . e over the codes that follow c_<k in the trie of valid IDs

so the log-probabilities of an item's codes add up to log p(item), and those of all items are a distribution.

FLATTENED reads the same history code by code, as TIGER does (Rajput et al., 2023, there with an encoder and a decoder):
every code of every item is a token, the state at each predicts the one after it, z = norm(h), and p(c_k | c_<k) is as
above. What the config names beside the codes is read with the last code of an item, when the item is known.

ITEMS is SASRec (Kang and McAuley, 2018): one softmax over the vectors of all items, which the input shares. With `dense`,
the other two learn the same softmax beside their own from the same state, norm(h) . vector, and what their IDs lead to is
ordered by the sum of the two scores (as in LIGER, Yang et al., 2024).

An item is read as the sum of what the config names: an embedding of its own, a linear map of its text's embedding, and
the rows of its codes.
"""

import dataclasses
import enum
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt32

from lmindexer_jax.models import causal
from lmindexer_jax.models.causal import Block
from lmindexer_jax.models.decoding import Pair, reorder
from lmindexer_jax.models.layers import (
    MASKED,
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

    CODES = "codes"  # the next item's semantic ID, level by level, from the state after the items
    FLATTENED = "flattened"  # the same as the next codes of a sequence of codes
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
    dense: bool = False  # where IDs are generated: compare the items' vectors too, and order by both


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
        if config.read_id:
            self.item = Embedding(self.items, width, STDDEV)
        if config.read_text:
            self.text = Projection(self.text_width, width, STDDEV)
        if config.read_codes or self.head != Head.ITEMS:
            self.code = [Embedding(size, width, STDDEV) for size in self.codebook_sizes]
        self.bias = RelativeBias(config.heads, bidirectional=False, max_distance=config.length * self.places, stddev=STDDEV)
        shape = config.width, config.heads, config.hidden, config.dropout
        self.block = [Block(*shape, self.dtype) for _ in range(config.layers)]
        self.dropout = Dropout(config.dropout)
        self.head_norm = LayerNorm(width, 1e-6, self.dtype)
        if self.config.dense and self.head != Head.ITEMS:
            self.query_norm = LayerNorm(width, 1e-6, self.dtype)
        if self.head == Head.CODES:
            self.level = self.param("level", nn.initializers.normal(STDDEV), (len(self.codebook_sizes), width))
            self.mixer_norm = LayerNorm(width, 1e-6, self.dtype)
            self.mixer = FeedForward(
                width, config.hidden, FeedForwardKind.RELU, config.dropout, use_bias=True, dtype=self.dtype
            )

    @property
    def places(self) -> int:
        """Tokens that an item is read as."""
        return len(self.codebook_sizes) if self.head == Head.FLATTENED else 1

    def read(self, items: Int[Array, "*B"], catalogue: Catalogue) -> Float[Array, "*B D"]:
        """One vector per item."""
        codes = self.codes_of(items, catalogue) if self.config.read_codes else []
        return sum([*self.beside_codes(items, catalogue), *codes])

    def codes_of(self, items: Int[Array, "*B"], catalogue: Catalogue) -> list[Float[Array, "*B D"]]:
        """The rows of the items' codes, level by level."""
        codes = catalogue.codes[items]
        return [table(codes[..., level]) for level, table in enumerate(self.code)]

    def beside_codes(self, items: Int[Array, "*B"], catalogue: Catalogue) -> list[Float[Array, "*B D"]]:
        """What else is read of the items."""
        parts = []
        if self.config.read_id:
            parts.append(self.item(items))
        if self.config.read_text:
            parts.append(self.text(catalogue.text[items].astype(jnp.float32)))
        return parts

    def tokens(self, items: Int[Array, "B L"], catalogue: Catalogue) -> Float[Array, "B LP D"]:
        """The sequence that the transformer reads: P tokens per item."""
        if self.head != Head.FLATTENED:
            return self.read(items, catalogue)
        *codes, last = self.codes_of(items, catalogue)
        rows = jnp.stack([*codes, sum([last, *self.beside_codes(items, catalogue)])], axis=2)
        return rows.reshape(len(rows), -1, rows.shape[-1])

    def run(self, histories: Histories, catalogue: Catalogue, *, deterministic: bool) -> tuple[Float[Array, "B LP D"], tuple[Pair, ...]]:
        """States, keys and values at every token, which has seen its history up to and with itself, and nothing else."""
        stream = self.dropout(self.tokens(histories.items, catalogue), deterministic=deterministic)
        segment = jnp.repeat(histories.segment, self.places, axis=1)
        return causal.run(self.block, self.bias, stream, segment, deterministic=deterministic)

    def states(
        self, histories: Histories, catalogue: Catalogue, *, deterministic: bool = True
    ) -> Float[Array, "B L *P D"]:
        """What predicts the next item at every place: h; of FLATTENED, h at each of the T tokens before its codes, of
        which all but the first lie in the next place."""
        stream, _ = self.run(histories, catalogue, deterministic=deterministic)
        if self.head != Head.FLATTENED:
            return stream
        ahead = self.places - 1
        shifted = jnp.pad(stream[:, ahead:], ((0, 0), (0, ahead), (0, 0)))
        return shifted.reshape(*histories.items.shape, self.places, -1)

    def mix(self, inputs: Float[Array, "*B D"], *, deterministic: bool = True) -> Float[Array, "*B D"]:
        """z of x: what is compared with the rows of a level's codes."""
        mixed = self.mixer(self.mixer_norm(inputs), deterministic=deterministic)
        return self.head_norm(inputs + mixed)

    def levels(
        self, states: Float[Array, "M *P D"], codes: Int[Array, "M T"], *, deterministic: bool = True
    ) -> tuple[Float[Array, "M K"], ...]:
        """Logits over the codes of every level, given the codes before it (teacher forced); nothing is masked."""
        if self.head == Head.FLATTENED:
            mixed = self.head_norm(states)  # each has read the codes before it
        else:
            rows = jnp.stack([table(codes[:, level]) for level, table in enumerate(self.code)], axis=1)
            prefix = jnp.cumsum(rows, axis=1) - rows
            mixed = self.mix(states[:, None] + prefix + self.level[None], deterministic=deterministic)
        return tuple(self.score(mixed[:, level], level) for level in range(len(self.code)))

    def score(self, mixed: Float[Array, "*B D"], level: int) -> Float[Array, "*B K"]:
        """Logits over the codes of one level."""
        return matmul(mixed, self.code[level].embedding.T, dtype=self.dtype)

    def start_search(self, histories: Histories, catalogue: Catalogue) -> tuple[Float[Array, "U 1 D"], Any]:
        """What a search after each history starts with; the histories end in the last column."""
        stream, pairs = self.run(histories, catalogue, deterministic=True)
        last = stream[:, -1:]
        if self.head == Head.FLATTENED:
            return last, causal.start(pairs, jnp.repeat(histories.segment > 0, self.places, axis=1))
        return last, jnp.zeros_like(last)  # the sum of the rows of each prefix

    def step(
        self, memory: tuple[Float[Array, "U 1 D"], Any], codes: Int[Array, "U X t"], parents: Int[Array, "U X"]
    ) -> tuple[Float[Array, "U X K"], tuple]:
        """Logits of level t after the codes so far."""
        (state, known), level = memory, codes.shape[-1]
        if self.head == Head.FLATTENED:
            mixed = state
            if level:
                mixed, known = causal.step(self.block, self.bias, known, self.code[level - 1](codes[..., -1]), parents)
            return self.score(self.head_norm(mixed), level), (state, known)
        if level:
            known = reorder(known, parents) + self.code[level - 1](codes[..., -1])
        mixed = self.mix(state + known + self.level[level][None, None])
        return self.score(mixed, level), (state, known)

    def queries(self, states: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """What is compared with the items' vectors."""
        return self.head_norm(states) if self.head == Head.ITEMS else self.query_norm(states)

    def __call__(self, histories: Histories, catalogue: Catalogue) -> tuple[Array, ...]:
        """Touch every parameter once (initialisation)."""
        states = self.states(histories, catalogue)
        if self.head == Head.ITEMS:
            return (self.queries(states),)
        flat = states.reshape(-1, *states.shape[2:])
        compared = (self.queries(states),) if self.config.dense else ()
        return *self.levels(flat, catalogue.codes[histories.items.reshape(-1)]), *compared


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
    ) -> Float[Array, "B L *P D"]:
        """What predicts the next item at every place of the histories: (B, L, D); of FLATTENED, (B, L, T, D), to be used
        only where the next item lies in the next place."""
        return self._apply("states", params, histories, catalogue, key=key)

    def log_likelihood(
        self,
        params: Params,
        states: Float[Array, "M *P D"],
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

    def start_search(self, params: Params, histories: Histories, catalogue: Catalogue) -> tuple[Float[Array, "U 1 D"], Any]:
        """The state after each history, and what else a search keeps; the histories end in the last column."""
        return self._apply("start_search", params, histories, catalogue)

    def step(
        self, params: Params, memory: tuple, codes: Int[Array, "U X t"], parents: Int[Array, "U X"]
    ) -> tuple[Float[Array, "U X K"], tuple]:
        """The step function of `retrieval.beam`, once the parameters are given: unmasked logits after a prefix."""
        return self._apply("step", params, memory, codes, parents)

    def queries(self, params: Params, states: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """What is compared with `item_vectors`, by SASRec or beside the generation of IDs."""
        return self._apply("queries", params, states)

    def item_vectors(self, params: Params, items: Int[Array, "*B"], catalogue: Catalogue) -> Float[Array, "*B D"]:
        """The vectors by which items are read, and compared."""
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
