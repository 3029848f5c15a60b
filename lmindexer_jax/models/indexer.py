"""The semantic indexer: language model, codebooks and reconstructor as one parameter tree.

Slot t of the decoder, having read `<start>` and the codes before position t, gives the document's vector h_t. The
published model takes that hidden state itself. With `pooled_weight` > 0 the vector is instead

    h_t = weight_t * (pooled - centre_t) + linear_t(hidden_t)

where the weight is `pooled_weight` at position 1 and `residual_weight` later, and `pooled` is the unit mean of the encoder's
states and, with `lexical_weight` > 0, so many times the unit mean of the token embeddings (the first layer beside the last;
Su 2021): contextual states tell what a text is about, word vectors which words it has. `centre_t` is the mean of `pooled` over the documents that share the prefix, and every `linear_t`
starts at zero: training starts from the embedding that the language model already has, and what the prefix explains
is taken out, so that later codes do not repeat earlier ones. (One `linear` for all positions brought back by hidden_t what
position 1 had learned to say. On corpora of few topics, later codes then did little but repeat the first.)

Product codes (Jegou 2011) take the codebooks' place as an ablation: position t reads the t-th block of h_1 alone, and no code
depends on another.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lmindexer_jax.models.bert import BertConfig, BertEncoder
from lmindexer_jax.models.layers import Embedding, dropout
from lmindexer_jax.models.quantiser import unit
from lmindexer_jax.models.reconstructor import Reconstructor, ReconstructorConfig, ReconstructorKind
from lmindexer_jax.models.stack import StackConfig
from lmindexer_jax.models.t5 import T5Config, T5Decoder, T5Encoder

Params = dict


@dataclasses.dataclass
class IndexerConfig:
    """What is learned, apart from the language model itself."""

    codebook_sizes: tuple[int, ...] = (256, 256, 256)  # K of each position; T is their number
    decoder_layers: int = 2  # of the small decoder on an encoder-only language model
    pooled_weight: float = 1.0  # position 1; 0 = the decoder's hidden state alone (published)
    lexical_weight: float = 0.0  # of the mean word vector in the pooled one; used where pooled_weight > 0
    residual_weight: float = 1.0  # later positions; used where pooled_weight > 0
    product: bool = False  # position t codes the t-th block of the first vector (ablation)
    reconstructor: ReconstructorConfig = dataclasses.field(default_factory=ReconstructorConfig)


class Indexer(nn.Module):
    """All parts under one roof; its methods are reached through the functions below."""

    config: IndexerConfig
    language_model: T5Config | BertConfig
    words: int = 0  # size of a reconstructor head of its own: the words that the corpus uses; 0 = all of the vocabulary
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
        width = decoder.d_model
        self.codebooks = [
            self.param(f"codebook_{t}", nn.initializers.normal(width**-0.5), (size, width))
            for t, size in enumerate(self.config.codebook_sizes)
        ]
        if self.config.pooled_weight > 0:
            # One for each position: what an earlier one has learned to say would be said again.
            self.output = self.param("output", nn.initializers.zeros, (len(self.config.codebook_sizes), width, width))
        self.reconstructor = Reconstructor(
            self.config.reconstructor,
            width=width,
            heads=decoder.num_heads,
            head_width=decoder.d_kv,
            hidden=decoder.d_ff,
            vocabulary=self.words or model.vocab_size,
            dtype=self.dtype,
        )

    def embedding(self) -> Float[Array, "V D"]:
        """The language model's token embedding."""
        if isinstance(self.language_model, T5Config):
            return self.shared.embedding
        return self.encoder.embeddings.word.embedding

    def encode(
        self, tokens: Int[Array, "B L"], mask: Bool[Array, "B L"], *, deterministic: bool = True
    ) -> Float[Array, "B L D"]:
        """Contextual vectors of the tokens."""
        if isinstance(self.language_model, T5Config):
            return self.encoder(self.shared(tokens), mask, deterministic=deterministic)
        return self.encoder(tokens, mask, deterministic=deterministic)

    def word_vectors(
        self, tokens: Int[Array, "B L"], mask: Bool[Array, "B L"], *, deterministic: bool = True
    ) -> Float[Array, "B D"]:
        """Unit mean of the tokens' embeddings."""
        return pool(self.embedding()[tokens], mask)

    def vectors(
        self,
        encoded: Float[Array, "B L D"],
        tokens: Int[Array, "B L"],
        mask: Bool[Array, "B L"],
        codes: Int[Array, "B P"],
        centres: Float[Array, "B P+1 D"] | None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B P+1 D"]:
        """h_1..h_{P+1} given the first P codes (teacher forced); see the module's docstring."""
        positions = codes.shape[1] + 1
        if self.config.product:
            codes, centres = codes[:, :0], None if centres is None else centres[:, :1]
        batch, width = encoded.shape[0], encoded.shape[-1]
        if isinstance(self.language_model, T5Config):
            start = self.shared.embedding[self.language_model.decoder_start_token_id]
        else:
            start = self.start
        read = [jnp.broadcast_to(start, (batch, width))]
        read += [self.codebooks[t][codes[:, t]] for t in range(codes.shape[1])]
        hidden = self.decoder(jnp.stack(read, axis=1), encoded, mask, deterministic=deterministic)
        hidden = hidden.astype(jnp.float32)
        vectors = hidden
        if self.config.pooled_weight > 0:
            pooled = pool(encoded, mask)
            if self.config.lexical_weight > 0:
                pooled = pooled + self.config.lexical_weight * self.word_vectors(tokens, mask)
            rest = pooled[:, None] - centres
            weight = [self.config.pooled_weight] + [self.config.residual_weight] * codes.shape[1]
            moved = jnp.einsum("bpd,pde->bpe", hidden, self.output[: hidden.shape[1]])
            vectors = rest * jnp.asarray(weight)[None, :, None] + moved
        if self.config.product:
            vectors = vectors * blocks(width, len(self.config.codebook_sizes))[None, :positions]
        return vectors

    def reconstruct(
        self,
        queries: Float[Array, "B P D"],
        codes: Float[Array, "B P D"],
        tokens: Int[Array, "B L"] | None,
        mask: Bool[Array, "B L S"] | None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B ..."]:
        """Logits over the vocabulary: (B, L, V) with hints, (B, V) as a bag of words."""
        embedding = self.embedding()
        if self.config.reconstructor.kind == ReconstructorKind.BAG:
            return self.reconstructor.bag(queries, embedding, deterministic=deterministic)
        return self.reconstructor.hinted(
            queries, codes, embedding[tokens], mask, embedding, deterministic=deterministic
        )

    def surprise(
        self,
        queries: Float[Array, "B P D"],
        codes: Float[Array, "B P D"],
        tokens: Int[Array, "B L"],
        mask: Bool[Array, "B L S"],
        words: Int[Array, "B L"],
        weights: Float[Array, "B L"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, ""]:
        """Weighted sum of the cross-entropies of `words` under `reconstruct` with hints."""
        embedding = self.embedding()
        return self.reconstructor.hinted_surprise(
            queries, codes, embedding[tokens], mask, embedding, words, weights, deterministic=deterministic
        )

    def __call__(self, tokens: Int[Array, "B L"], mask: Bool[Array, "B L"]) -> Float[Array, "B ..."]:
        """Touch every parameter once (initialisation)."""
        encoded = self.encode(tokens, mask)
        positions = len(self.config.codebook_sizes)
        codes = jnp.zeros((tokens.shape[0], positions - 1), jnp.int32)
        centres = jnp.zeros((tokens.shape[0], positions, encoded.shape[-1]))
        queries = self.vectors(encoded, tokens, mask, codes, centres)
        length = tokens.shape[1]
        hints = jnp.ones((tokens.shape[0], length, positions + length), bool)
        return self.reconstruct(queries, queries, tokens, hints)


def blocks(width: int, parts: int) -> Float[Array, "T D"]:
    """Ones where the t-th of `parts` blocks of a vector lies, as nearly of one size as can be."""
    return (jnp.arange(width)[None] * parts // width == jnp.arange(parts)[:, None]).astype(jnp.float32)


def small_decoder(model: BertConfig, *, layers: int) -> T5Config:
    """A T5-style decoder of the same width and heads, to sit on an encoder-only language model."""
    return T5Config(
        vocab_size=model.vocab_size,
        d_model=model.hidden_size,
        d_kv=model.hidden_size // model.num_attention_heads,
        d_ff=model.intermediate_size,
        num_layers=0,
        num_decoder_layers=layers,
        num_heads=model.num_attention_heads,
    )


def pool(encoded: Float[Array, "B L D"], mask: Bool[Array, "B L"]) -> Float[Array, "B D"]:
    """Unit mean of the real tokens' vectors: the document embedding of sentence-transformers models."""
    weights = mask.astype(jnp.float32)[..., None]
    total = jnp.sum(encoded.astype(jnp.float32) * weights, axis=1)
    return unit(total / jnp.maximum(weights.sum(1), 1.0))


def drop_tokens(key: PRNGKeyArray, mask: Bool[Array, "B L"], *, rate: float) -> Bool[Array, "B L"]:
    """Hide each token with probability `rate`, the first never (some token must remain)."""
    kept = dropout(key, jnp.ones(mask.shape), rate=rate) > 0
    return mask & kept.at[:, 0].set(True)


@dataclasses.dataclass(frozen=True, eq=False)
class IndexerFunctions:
    """The pure functions of one indexer; parameters come first, a key means dropout."""

    module: Indexer

    def init(self, key: PRNGKeyArray) -> Params:
        """Random parameters."""
        tokens, mask = jnp.zeros((1, 8), jnp.int32), jnp.ones((1, 8), bool)
        return self.module.init(key, tokens, mask)["params"]

    def _apply(self, method: str, params: Params, *args: Array, key: PRNGKeyArray | None) -> Array:
        rngs = {} if key is None else {"dropout": key}
        return self.module.apply(
            {"params": params}, *args, deterministic=key is None, rngs=rngs, method=getattr(Indexer, method)
        )

    def embedding(self, params: Params) -> Float[Array, "V D"]:
        """The language model's token embedding."""
        return self.module.apply({"params": params}, method=Indexer.embedding)

    def encode(
        self, params: Params, tokens: Int[Array, "B L"], mask: Bool[Array, "B L"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "B L D"]:
        """Contextual vectors of the tokens."""
        return self._apply("encode", params, tokens, mask, key=key)

    def word_vectors(
        self, params: Params, tokens: Int[Array, "B L"], mask: Bool[Array, "B L"]
    ) -> Float[Array, "B D"]:
        """Unit mean of the tokens' embeddings."""
        return self._apply("word_vectors", params, tokens, mask, key=None)

    def vectors(
        self,
        params: Params,
        encoded: Float[Array, "B L D"],
        tokens: Int[Array, "B L"],
        mask: Bool[Array, "B L"],
        *,
        codes: Int[Array, "B P"],
        centres: Float[Array, "B P+1 D"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "B P+1 D"]:
        """Document vectors h_1..h_{P+1}."""
        return self._apply("vectors", params, encoded, tokens, mask, codes, centres, key=key)

    def reconstruct(
        self,
        params: Params,
        queries: Float[Array, "B P D"],
        *,
        codes: Float[Array, "B P D"] | None = None,
        tokens: Int[Array, "B L"] | None = None,
        hints: Bool[Array, "B L S"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "B ..."]:
        """Logits over the vocabulary; `codes` differ from `queries` in the published second position alone."""
        codes = queries if codes is None else codes
        return self._apply("reconstruct", params, queries, codes, tokens, hints, key=key)

    def surprise(
        self,
        params: Params,
        queries: Float[Array, "B P D"],
        *,
        codes: Float[Array, "B P D"],
        tokens: Int[Array, "B L"],
        hints: Bool[Array, "B L S"],
        words: Int[Array, "B L"],
        weights: Float[Array, "B L"],
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, ""]:
        """Weighted sum of the cross-entropies of `words` under `reconstruct`, without its logits in memory."""
        return self._apply("surprise", params, queries, codes, tokens, hints, words, weights, key=key)


def codebook(params: Params, position: int) -> Float[Array, "K D"]:
    """The rows of one position, counted from 0."""
    return params[f"codebook_{position}"]
