"""The retriever: a language model that reads a query or a history and emits the codes of an ID, one after the other.

Its parameters carry the names of the indexer's, so that `adopt` can start it from a trained one: the same encoder and
decoder, and codebook t in two roles, as what the decoder reads once a code is chosen and as the output embedding that
chooses it (tied, scaled by width**-0.5 as the head of T5 v1.0). Beside the K codes a codebook may hold a row for the
end of a shorter ID, and a counter position is a codebook like any other.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lmindexer_jax.models import decoding
from lmindexer_jax.models.bert import BertConfig, BertEncoder
from lmindexer_jax.models.decoding import Cache
from lmindexer_jax.models.indexer import small_decoder
from lmindexer_jax.models.layers import Embedding
from lmindexer_jax.models.t5 import T5Config, T5Decoder, T5Encoder

Params = dict


@dataclasses.dataclass
class RetrieverConfig:
    """What the language model gets in addition."""

    decoder_layers: int = 2  # of the small decoder on an encoder-only language model


class Retriever(nn.Module):
    """All parts under one roof; its methods are reached through `RetrieverFunctions`."""

    config: RetrieverConfig
    language_model: T5Config | BertConfig
    sizes: tuple[int, ...]  # codes of each position, the end marker and counters among them: `sizes` of the trie
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        model = self.language_model
        if isinstance(model, T5Config):
            self.shared = Embedding(model.vocab_size, model.d_model, dtype=self.dtype)
            self.encoder = T5Encoder(model, self.dtype)
            decoder = model
        else:
            self.encoder = BertEncoder(model, self.dtype)
            decoder = small_decoder(model, layers=self.config.decoder_layers)
            self.start = self.param("start", nn.initializers.normal(1.0), (decoder.d_model,))
        self.decoder = T5Decoder(decoder, self.dtype)
        self.codebooks = [
            self.param(f"codebook_{t}", nn.initializers.normal(1.0), (size, decoder.d_model))
            for t, size in enumerate(self.sizes)
        ]

    def encode(
        self, tokens: Int[Array, "B L"], mask: Bool[Array, "B L"], *, deterministic: bool = True
    ) -> Float[Array, "B L D"]:
        """Contextual vectors of the tokens."""
        inputs = self.shared(tokens) if isinstance(self.language_model, T5Config) else tokens
        return self.encoder(inputs, mask, deterministic=deterministic)

    def logits(
        self,
        encoded: Float[Array, "B L D"],
        mask: Bool[Array, "B L"],
        codes: Int[Array, "B T"],
        *,
        deterministic: bool = True,
    ) -> tuple[Float[Array, "B K"], ...]:
        """Teacher-forced logits of every position."""
        read = [jnp.broadcast_to(self._start(), (len(codes), self._start().shape[0]))]
        read += [self._read(t, codes[:, t]) for t in range(len(self.sizes) - 1)]
        hidden = self.decoder(jnp.stack(read, axis=1), encoded, mask, deterministic=deterministic)
        return tuple(self._head(t, hidden[:, t]) for t in range(len(self.sizes)))

    def start_cache(self, encoded: Float[Array, "B L D"], mask: Bool[Array, "B L"], beams: int) -> Cache:
        """What a search over `beams` beams starts with."""
        return decoding.start(self.decoder, encoded, mask, queries=1 + (len(self.sizes) - 1) * beams)

    def step(
        self, cache: Cache, codes: Int[Array, "B X t"], parents: Int[Array, "B X"]
    ) -> tuple[Float[Array, "B X K"], Cache]:
        """Logits of position t after the codes so far."""
        position = codes.shape[-1]
        if position:
            embedded = self._read(position - 1, codes[..., -1])
        else:
            embedded = jnp.broadcast_to(self._start(), (*parents.shape, self._start().shape[0]))
        hidden, cache = decoding.step(self.decoder, cache, embedded, parents)
        return self._head(position, hidden), cache

    def __call__(self, tokens: Int[Array, "B L"], mask: Bool[Array, "B L"]) -> tuple[Float[Array, "B K"], ...]:
        """Touch every parameter once (initialisation)."""
        codes = jnp.zeros((len(tokens), len(self.sizes)), jnp.int32)
        return self.logits(self.encode(tokens, mask), mask, codes)

    def _start(self) -> Float[Array, " D"]:
        if isinstance(self.language_model, T5Config):
            return self.shared.embedding[self.language_model.decoder_start_token_id]
        return self.start

    def _read(self, position: int, codes: Int[Array, "*S"]) -> Float[Array, "*S D"]:
        """What the decoder reads for a code; behind the end of an ID (-1), the end marker."""
        codes = jnp.where(codes < 0, self.sizes[position] - 1, codes)
        return jnp.take(self.codebooks[position], codes, axis=0)

    def _head(self, position: int, hidden: Float[Array, "*S D"]) -> Float[Array, "*S K"]:
        """float32 scores of every code of a position."""
        rows = self.codebooks[position].astype(self.dtype)
        flat = (hidden * hidden.shape[-1] ** -0.5).reshape(-1, hidden.shape[-1]).astype(self.dtype)
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
    ) -> Float[Array, "B L D"]:
        """Contextual vectors of the tokens; those at masked positions mean nothing."""
        return self._apply("encode", params, tokens, mask, deterministic=key is None, rngs=_rngs(key))

    def logits(
        self,
        params: Params,
        encoded: Float[Array, "B L D"],
        mask: Bool[Array, "B L"],
        *,
        codes: Int[Array, "B T"],
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "B K"], ...]:
        """Teacher-forced logits: those of position t follow from codes 1..t-1; K differs by position.

        Masked to `retrieval.children.children_masks`, their cross-entropy is -log p(ID) among the IDs of the trie.

        Args:
          codes: whole IDs; -1 behind the end of a shorter one.
        """
        return self._apply("logits", params, encoded, mask, codes, deterministic=key is None, rngs=_rngs(key))

    def start_cache(self, params: Params, encoded: Float[Array, "B L D"], mask: Bool[Array, "B L"], *, beams: int) -> Cache:
        """The cache of a search that has not read anything; `beams` only tells what to compute ahead."""
        return self._apply("start_cache", params, encoded, mask, beams)

    def step(
        self, params: Params, cache: Cache, codes: Int[Array, "B X t"], parents: Int[Array, "B X"]
    ) -> tuple[Float[Array, "B X K"], Cache]:
        """The step function of `retrieval.beam`, once the parameters are given: `functools.partial(step, params)`."""
        return self._apply("step", params, cache, codes, parents)


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
