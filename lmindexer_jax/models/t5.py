"""T5 (Raffel et al., 2020), versions 1.0 (relu, tied head) and 1.1 / flan (gated gelu, untied head).

The encoder and the decoder take embedded input, so that a caller may feed code embeddings instead of tokens; `T5` joins
both with the shared embedding and the head.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lmindexer_jax.models.layers import (
    Attention,
    Dropout,
    Embedding,
    FeedForward,
    FeedForwardKind,
    RelativeBias,
    RMSNorm,
)
from lmindexer_jax.models.products import inner_products
from lmindexer_jax.models.stack import StackConfig, run_stack


@dataclasses.dataclass(frozen=True)
class T5Config:
    """The size of a T5, under the names of its config.json (`feed_forward` is `feed_forward_proj` there)."""

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int = 6
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dropout_rate: float = 0.1
    layer_norm_epsilon: float = 1e-6
    feed_forward: FeedForwardKind = FeedForwardKind.RELU
    tie_word_embeddings: bool = True
    pad_token_id: int = 0
    eos_token_id: int = 1
    decoder_start_token_id: int = 0


def _norm(config: T5Config, dtype: jnp.dtype) -> RMSNorm:
    return RMSNorm(config.d_model, config.layer_norm_epsilon, dtype)


def _attention(config: T5Config, dtype: jnp.dtype) -> Attention:
    return Attention(config.d_model, config.num_heads, config.d_kv, dropout_rate=config.dropout_rate, dtype=dtype)


def _feed_forward(config: T5Config, dtype: jnp.dtype) -> FeedForward:
    return FeedForward(config.d_model, config.d_ff, config.feed_forward, dropout_rate=config.dropout_rate, dtype=dtype)


def _relative_bias(config: T5Config, *, bidirectional: bool) -> RelativeBias:
    return RelativeBias(
        config.num_heads,
        config.relative_attention_num_buckets,
        config.relative_attention_max_distance,
        bidirectional,
        stddev=config.d_model**-0.5,
    )


class T5EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each pre-normed and added to the stream."""

    config: T5Config
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        self.attention_norm = _norm(self.config, self.dtype)
        self.attention = _attention(self.config, self.dtype)
        self.feed_forward_norm = _norm(self.config, self.dtype)
        self.feed_forward = _feed_forward(self.config, self.dtype)
        self.dropout = Dropout(self.config.dropout_rate)

    def __call__(
        self,
        hidden: Float[Array, "B L D"],
        mask: Bool[Array, "B 1 1 L"],
        *,
        bias: Float[Array, "1 H L L"],
        deterministic: bool,
    ) -> Float[Array, "B L D"]:
        attended = self.attention(self.attention_norm(hidden), bias=bias, mask=mask, deterministic=deterministic)
        hidden = hidden + self.dropout(attended, deterministic=deterministic)
        changed = self.feed_forward(self.feed_forward_norm(hidden), deterministic=deterministic)
        return hidden + self.dropout(changed, deterministic=deterministic)


class T5DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention and feed-forward, each pre-normed and added to the stream."""

    config: T5Config
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        self.self_attention_norm = _norm(self.config, self.dtype)
        self.self_attention = _attention(self.config, self.dtype)
        self.cross_attention_norm = _norm(self.config, self.dtype)
        self.cross_attention = _attention(self.config, self.dtype)
        self.feed_forward_norm = _norm(self.config, self.dtype)
        self.feed_forward = _feed_forward(self.config, self.dtype)
        self.dropout = Dropout(self.config.dropout_rate)

    def __call__(
        self,
        hidden: Float[Array, "B T D"],
        encoded: Float[Array, "B L D"],
        mask: Bool[Array, "B 1 1 L"],
        *,
        causal: Bool[Array, "1 1 T T"],
        bias: Float[Array, "1 H T T"],
        deterministic: bool,
    ) -> Float[Array, "B T D"]:
        attended = self.self_attention(
            self.self_attention_norm(hidden), bias=bias, mask=causal, deterministic=deterministic
        )
        hidden = hidden + self.dropout(attended, deterministic=deterministic)
        attended = self.cross_attention(
            self.cross_attention_norm(hidden), encoded, mask=mask, deterministic=deterministic
        )
        hidden = hidden + self.dropout(attended, deterministic=deterministic)
        changed = self.feed_forward(self.feed_forward_norm(hidden), deterministic=deterministic)
        return hidden + self.dropout(changed, deterministic=deterministic)


class T5Encoder(nn.Module):
    """Embedded tokens -> contextual vectors after the final norm (and dropout)."""

    config: T5Config
    dtype: jnp.dtype = jnp.float32
    stack: StackConfig = StackConfig()

    def setup(self) -> None:
        self.relative_bias = _relative_bias(self.config, bidirectional=True)
        self.layer = [T5EncoderLayer(self.config, self.dtype) for _ in range(self.config.num_layers)]
        self.final_norm = _norm(self.config, self.dtype)
        self.dropout = Dropout(self.config.dropout_rate)

    def __call__(
        self, embedded: Float[Array, "B L D"], mask: Bool[Array, "B L"], *, deterministic: bool = True
    ) -> Float[Array, "B L D"]:
        length = embedded.shape[1]
        bias = self.relative_bias(length, length)
        hidden = self.dropout(embedded.astype(self.dtype), deterministic=deterministic)

        def call(layer: T5EncoderLayer, hidden: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
            return layer(hidden, mask[:, None, None, :], bias=bias, deterministic=deterministic)

        hidden = run_stack(self.layer, hidden, call, self.stack)
        return self.dropout(self.final_norm(hidden), deterministic=deterministic)


class T5Decoder(nn.Module):
    """Embedded decoder input and encoder output -> vectors after the final norm (and dropout); causal."""

    config: T5Config
    dtype: jnp.dtype = jnp.float32
    stack: StackConfig = StackConfig()

    def setup(self) -> None:
        self.relative_bias = _relative_bias(self.config, bidirectional=False)
        self.layer = [T5DecoderLayer(self.config, self.dtype) for _ in range(self.config.num_decoder_layers)]
        self.final_norm = _norm(self.config, self.dtype)
        self.dropout = Dropout(self.config.dropout_rate)

    def __call__(
        self,
        embedded: Float[Array, "B T D"],
        encoded: Float[Array, "B L D"],
        mask: Bool[Array, "B L"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B T D"]:
        length = embedded.shape[1]
        bias = self.relative_bias(length, length)
        causal = jnp.asarray(np.tri(length, dtype=bool))[None, None]
        hidden = self.dropout(embedded.astype(self.dtype), deterministic=deterministic)

        def call(layer: T5DecoderLayer, hidden: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
            return layer(hidden, encoded, mask[:, None, None, :], causal=causal, bias=bias, deterministic=deterministic)

        hidden = run_stack(self.layer, hidden, call, self.stack)
        return self.dropout(self.final_norm(hidden), deterministic=deterministic)


class T5(nn.Module):
    """The whole encoder-decoder language model."""

    config: T5Config
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        config = self.config
        self.shared = Embedding(config.vocab_size, config.d_model, stddev=1.0, dtype=self.dtype)
        self.encoder = T5Encoder(config, self.dtype)
        self.decoder = T5Decoder(config, self.dtype)
        if not config.tie_word_embeddings:
            self.lm_head = Embedding(config.vocab_size, config.d_model, stddev=config.d_model**-0.5)

    def __call__(
        self,
        tokens: Int[Array, "B L"],
        mask: Bool[Array, "B L"],
        decoder_tokens: Int[Array, "B T"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B T V"]:
        """Teacher-forced logits: `decoder_tokens` start with `decoder_start_token_id`."""
        encoded = self.encode(tokens, mask, deterministic=deterministic)
        hidden = self.decode_embedded(self.embed(decoder_tokens), encoded, mask, deterministic=deterministic)
        return self.logits(hidden)

    def embed(self, tokens: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
        """Rows of the shared embedding."""
        return self.shared(tokens)

    def encode(
        self, tokens: Int[Array, "B L"], mask: Bool[Array, "B L"], *, deterministic: bool = True
    ) -> Float[Array, "B L D"]:
        """Contextual vectors of the tokens; the vectors at masked positions mean nothing."""
        return self.encoder(self.embed(tokens), mask, deterministic=deterministic)

    def decode_embedded(
        self,
        embedded: Float[Array, "B T D"],
        encoded: Float[Array, "B L D"],
        mask: Bool[Array, "B L"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B T D"]:
        """Decoder states for embedded decoder input (codes or tokens)."""
        return self.decoder(embedded, encoded, mask, deterministic=deterministic)

    def logits(self, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """float32 scores of every word; a tied head is scaled by d_model**-0.5, as T5 v1.0 does."""
        if self.config.tie_word_embeddings:
            hidden, rows = hidden * self.config.d_model**-0.5, self.shared.embedding
        else:
            rows = self.lm_head.embedding
        scores = inner_products(hidden.reshape(-1, hidden.shape[-1]), rows, self.dtype, jnp.float32)
        return scores.reshape(*hidden.shape[:-1], -1)
