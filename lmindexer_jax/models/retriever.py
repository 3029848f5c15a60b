"""The retriever: a language model that reads a query or a history and emits the codes of an ID, one after the other.

Its parameters carry the names of the indexer's, so that `adopt` can start it from a trained one: the same encoder and
decoder, and codebook t in two roles, as what the decoder reads once a code is chosen and as the output embedding that
chooses it (tied, scaled by width**-0.5 as the head of T5 v1.0). Beside the K codes a codebook may hold a row for the
end of a shorter ID, and a counter position is a codebook like any other.

As the indexer compares a document's vector with the codes, so can the retriever the query's: with `gist`

    logits_t = codebook_t (width**-0.5 hidden_t + gain_t (gist - centre - sum over s < t of explained_s codebook_s[c_s]))

where the gist is the unit mean of the encoder's states, turned by a matrix of its own towards the documents that it
asks for, and what the codes so far explain is taken out of it. The documents' vectors are such means, not turned.
`retrieval.settle` puts rows, centre and scales where the documents' own texts are.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lmindexer_jax.models import decoding
from lmindexer_jax.models.bert import BertConfig, BertEncoder
from lmindexer_jax.models.decoding import Cache
from lmindexer_jax.models.indexer import pool, small_decoder
from lmindexer_jax.models.layers import Embedding
from lmindexer_jax.models.quantiser import unit
from lmindexer_jax.models.stack import StackConfig
from lmindexer_jax.models.t5 import T5Config, T5Decoder, T5Encoder

Params = dict


@dataclasses.dataclass
class RetrieverConfig:
    """What the language model gets in addition."""

    decoder_layers: int = 2  # of the small decoder on an encoder-only language model
    gist: bool = False  # codes are compared with the query's gist too; else the decoder alone chooses them


class Read(NamedTuple):
    """A batch of queries as the encoder has read them.

    Attributes:
      states: contextual vectors of the tokens; those at masked positions mean nothing.
      mask: which tokens are real.
      gist: one vector of the whole query, of unit length.
    """

    states: Float[Array, "B L D"]
    mask: Bool[Array, "B L"]
    gist: Float[Array, "B D"]


class Search(NamedTuple):
    """What a search remembers from step to step: the decoder's cache, and the gist of its queries."""

    cache: Cache
    gist: Float[Array, "B D"]


class Retriever(nn.Module):
    """All parts under one roof; its methods are reached through `RetrieverFunctions`."""

    config: RetrieverConfig
    language_model: T5Config | BertConfig
    sizes: tuple[int, ...]  # codes of each position, the end marker and counters among them: `sizes` of the trie
    dtype: jnp.dtype = jnp.float32
    stack: StackConfig = StackConfig()  # of the language model's layers

    def setup(self) -> None:
        model = self.language_model
        if isinstance(model, T5Config):
            self.shared = Embedding(model.vocab_size, model.d_model, dtype=self.dtype)
            self.encoder = T5Encoder(model, self.dtype, self.stack)
            decoder = model
        else:
            self.encoder = BertEncoder(model, self.dtype, self.stack)
            decoder = small_decoder(model, layers=self.config.decoder_layers)
            self.start = self.param("start", nn.initializers.normal(1.0), (decoder.d_model,))
        self.decoder = T5Decoder(decoder, self.dtype, self.stack)
        self.codebooks = [
            self.param(f"codebook_{t}", nn.initializers.normal(1.0), (size, decoder.d_model))
            for t, size in enumerate(self.sizes)
        ]
        if self.config.gist:
            positions = len(self.sizes)
            self.turn = self.param("turn", lambda _, width: jnp.eye(width), decoder.d_model)
            self.centre = self.param("centre", nn.initializers.zeros, (decoder.d_model,))
            self.gain = self.param("gain", nn.initializers.zeros, (positions,))
            self.explained = self.param("explained", nn.initializers.zeros, (positions - 1,))

    def encode(self, tokens: Int[Array, "B L"], mask: Bool[Array, "B L"], *, deterministic: bool = True) -> Read:
        """What the encoder makes of queries."""
        inputs = self.shared(tokens) if isinstance(self.language_model, T5Config) else tokens
        states = self.encoder(inputs, mask, deterministic=deterministic)
        return self.read(states, mask, pool(states, mask))

    def read(self, states: Float[Array, "B L D"], mask: Bool[Array, "B L"], pooled: Float[Array, "B D"]) -> Read:
        """The same of states and their unit mean that are known."""
        return Read(states.astype(self.dtype), mask, unit(pooled @ self.turn) if self.config.gist else pooled)

    def logits(self, read: Read, codes: Int[Array, "B T"], *, deterministic: bool = True) -> tuple[Float[Array, "B K"], ...]:
        """Teacher-forced logits of every position."""
        positions = len(self.sizes)
        embedded = [jnp.broadcast_to(self._start(), (len(codes), self._start().shape[0]))]
        embedded += [self._embed(t, codes[:, t]) for t in range(positions - 1)]
        hidden = self.decoder(jnp.stack(embedded, axis=1), read.states, read.mask, deterministic=deterministic)
        return tuple(self._head(hidden[:, t], read.gist, codes[:, :t]) for t in range(positions))

    def start_search(self, read: Read, beams: int) -> Search:
        """What a search over `beams` beams starts with."""
        queries = 1 + (len(self.sizes) - 1) * beams
        return Search(decoding.start(self.decoder, read.states, read.mask, queries=queries), read.gist)

    def step(
        self, search: Search, codes: Int[Array, "B X t"], parents: Int[Array, "B X"]
    ) -> tuple[Float[Array, "B X K"], Search]:
        """Logits of position t after the codes so far."""
        position = codes.shape[-1]
        if position:
            embedded = self._embed(position - 1, codes[..., -1])
        else:
            embedded = jnp.broadcast_to(self._start(), (*parents.shape, self._start().shape[0]))
        hidden, cache = decoding.step(self.decoder, search.cache, embedded, parents)
        return self._head(hidden, search.gist[:, None], codes), search._replace(cache=cache)

    def __call__(self, tokens: Int[Array, "B L"], mask: Bool[Array, "B L"]) -> tuple[Float[Array, "B K"], ...]:
        """Touch every parameter once (initialisation)."""
        codes = jnp.zeros((len(tokens), len(self.sizes)), jnp.int32)
        return self.logits(self.encode(tokens, mask), codes)

    def _start(self) -> Float[Array, " D"]:
        if isinstance(self.language_model, T5Config):
            return self.shared.embedding[self.language_model.decoder_start_token_id]
        return self.start

    def _embed(self, position: int, codes: Int[Array, "*S"]) -> Float[Array, "*S D"]:
        """What the decoder reads for a code; behind the end of an ID (-1), the end marker."""
        codes = jnp.where(codes < 0, self.sizes[position] - 1, codes)
        return jnp.take(self.codebooks[position], codes, axis=0)

    def _head(self, hidden: Float[Array, "*S D"], gist: Float[Array, "*S D"], codes: Int[Array, "*S t"]) -> Float[Array, "*S K"]:
        """float32 scores of every code of position t after the codes so far."""
        position = codes.shape[-1]
        asked = hidden * hidden.shape[-1] ** -0.5
        if self.config.gist:
            rest = gist - jnp.expand_dims(self.centre, tuple(range(gist.ndim - 1)))
            for s in range(position):
                rest = rest - self.explained[s] * self._embed(s, codes[..., s])
            asked = asked + self.gain[position] * rest
        rows = self.codebooks[position].astype(self.dtype)
        flat = asked.reshape(-1, asked.shape[-1]).astype(self.dtype)
        return jnp.matmul(flat, rows.T, preferred_element_type=jnp.float32).reshape(*hidden.shape[:-1], -1)


@dataclasses.dataclass(frozen=True, eq=False)
class RetrieverFunctions:
    """The pure functions of one retriever; parameters come first, a key means dropout."""

    module: Retriever

    def init(self, key: PRNGKeyArray) -> Params:
        """Random parameters."""
        return self.module.init(key, jnp.zeros((1, 8), jnp.int32), jnp.ones((1, 8), bool))["params"]

    def _apply(self, method: str, params: Params, *args, **kwargs):
        return self.module.apply({"params": params}, *args, method=getattr(Retriever, method), **kwargs)

    def encode(
        self, params: Params, tokens: Int[Array, "B L"], mask: Bool[Array, "B L"], *, key: PRNGKeyArray | None = None
    ) -> Read:
        """What the encoder makes of queries."""
        return self._apply("encode", params, tokens, mask, deterministic=key is None, rngs=_rngs(key))

    def read(
        self, params: Params, states: Float[Array, "B L D"], mask: Bool[Array, "B L"], pooled: Float[Array, "B D"]
    ) -> Read:
        """What `encode` gives, where a frozen encoder's states and their unit mean are known."""
        return self._apply("read", params, states, mask, pooled)

    def logits(
        self, params: Params, read: Read, *, codes: Int[Array, "B T"], key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "B K"], ...]:
        """Teacher-forced logits: those of position t follow from codes 1..t-1; K differs by position.

        Masked to `retrieval.children.children_masks`, their cross-entropy is -log p(ID) among the IDs of the trie.

        Args:
          codes: whole IDs; -1 behind the end of a shorter one.
        """
        return self._apply("logits", params, read, codes, deterministic=key is None, rngs=_rngs(key))

    def start_search(self, params: Params, read: Read, *, beams: int) -> Search:
        """The memory of a search that has not chosen any code; `beams` only tells what to compute ahead."""
        return self._apply("start_search", params, read, beams)

    def step(
        self, params: Params, search: Search, codes: Int[Array, "B X t"], parents: Int[Array, "B X"]
    ) -> tuple[Float[Array, "B X K"], Search]:
        """The step function of `retrieval.beam`, once the parameters are given: `functools.partial(step, params)`."""
        return self._apply("step", params, search, codes, parents)


def _rngs(key: PRNGKeyArray | None) -> dict[str, PRNGKeyArray]:
    return {} if key is None else {"dropout": key}


def adopt(params: Params, indexer: Params) -> Params:
    """The parameters of a retriever, with those of a trained indexer or language model wherever it has the same.

    Codebook rows keep their directions and relative lengths; their mean length becomes width**0.5, that of the token
    embeddings beside them, and the rows that the indexer does not have (ends, counters) stay as they are.

    Raises:
      ValueError: the language models differ.
    """
    adopted = dict(params)
    for name in params.keys() & indexer.keys():
        if name.startswith("codebook_"):
            rows = jnp.asarray(indexer[name])
            rows = rows * (rows.shape[1] ** 0.5 / jnp.mean(jnp.linalg.norm(rows, axis=1)))
            adopted[name] = params[name].at[: len(rows)].set(rows)
            continue
        shapes = [jax.tree.map(jnp.shape, tree[name]) for tree in (params, indexer)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"the parameters under {name!r} are of two different models")
        adopted[name] = indexer[name]
    return adopted
