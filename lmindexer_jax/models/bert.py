"""BERT (Devlin et al., 2019) and its small relatives such as MiniLM (Wang et al., 2020): the encoder alone."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lmindexer_jax.errors import UserError
from lmindexer_jax.models.layers import Attention, Dropout, Embedding, FeedForward, FeedForwardKind, LayerNorm
from lmindexer_jax.models.stack import StackConfig, run_stack


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """The size of a BERT, under the names of its config.json."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    pad_token_id: int = 0


def check_positions(model: object, tokens: int, *, setting: str) -> None:
    """Refuse a setting by which a model would be given inputs of so many tokens.

    Raises:
      UserError: it is a BERT of fewer positions; other models have no such bound.
    """
    if isinstance(model, BertConfig) and tokens > model.max_position_embeddings:
        most = model.max_position_embeddings // 8 * 8  # lengths are padded to multiples of 8
        raise UserError(f"{setting}: this language model has {model.max_position_embeddings} positions; give at most {most}")


class BertEmbeddings(nn.Module):
    """Word + position + first token type, normed."""

    config: BertConfig
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        config = self.config
        width, stddev = config.hidden_size, config.initializer_range
        self.word = Embedding(config.vocab_size, width, stddev)
        self.position = Embedding(config.max_position_embeddings, width, stddev)
        self.token_type = Embedding(config.type_vocab_size, width, stddev)
        self.norm = LayerNorm(width, config.layer_norm_eps, self.dtype)

    def __call__(self, tokens: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        positions = self.position.embedding[: tokens.shape[1]] + self.token_type.embedding[:1]
        return self.norm(self.word(tokens) + positions[None])


class BertLayer(nn.Module):
    """Self-attention and feed-forward, each added to the stream and then normed."""

    config: BertConfig
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        config = self.config
        width, head_dim = config.hidden_size, config.hidden_size // config.num_attention_heads
        shared = {"stddev": config.initializer_range, "use_bias": True, "dtype": self.dtype}
        self.attention = Attention(
            width,
            config.num_attention_heads,
            head_dim,
            scale=head_dim**-0.5,
            dropout_rate=config.attention_probs_dropout_prob,
            **shared,
        )
        self.attention_norm = LayerNorm(width, config.layer_norm_eps, self.dtype)
        self.feed_forward = FeedForward(width, config.intermediate_size, FeedForwardKind.GELU, **shared)
        self.feed_forward_norm = LayerNorm(width, config.layer_norm_eps, self.dtype)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def __call__(
        self, hidden: Float[Array, "B L D"], mask: Bool[Array, "B 1 1 L"], *, deterministic: bool
    ) -> Float[Array, "B L D"]:
        attended = self.attention(hidden, mask=mask, deterministic=deterministic)
        hidden = self.attention_norm(hidden + self.dropout(attended, deterministic=deterministic))
        changed = self.feed_forward(hidden)
        return self.feed_forward_norm(hidden + self.dropout(changed, deterministic=deterministic))


class BertEncoder(nn.Module):
    """Tokens -> contextual vectors; the vectors at masked positions mean nothing.

    Raises:
        ValueError: the tokens are longer than the position table.
    """

    config: BertConfig
    dtype: jnp.dtype = jnp.float32
    stack: StackConfig = StackConfig()

    def setup(self) -> None:
        self.embeddings = BertEmbeddings(self.config, self.dtype)
        self.layer = [BertLayer(self.config, self.dtype) for _ in range(self.config.num_hidden_layers)]
        self.dropout = Dropout(self.config.hidden_dropout_prob)

    def __call__(
        self, tokens: Int[Array, "B L"], mask: Bool[Array, "B L"], *, deterministic: bool = True
    ) -> Float[Array, "B L D"]:
        longest = self.config.max_position_embeddings
        if tokens.shape[1] > longest:
            raise ValueError(f"{tokens.shape[1]} tokens, but this model has {longest} positions: truncate the text")
        hidden = self.dropout(self.embeddings(tokens), deterministic=deterministic)

        def call(layer: BertLayer, hidden: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
            return layer(hidden, mask[:, None, None, :], deterministic=deterministic)

        return run_stack(self.layer, hidden, call, self.stack)
