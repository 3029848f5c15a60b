"""The deliberately weak decoder of a document's text from its codes (section 3.2 of the LMIndexer paper).

Weak on purpose: what one bidirectional block cannot guess from hints must come from the codes. Slots are the c code
vectors followed by the n text tokens. Every slot asks with the same query (a code vector), so a slot knows its place
by the relative bias alone. Keys and values are always the raw code vectors and token embeddings: with contextual keys
a second block would see its own target through its neighbours.
"""

import dataclasses
import enum

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lmindexer_jax.models.layers import (
    FeedForward,
    FeedForwardKind,
    Projection,
    RelativeBias,
    RMSNorm,
    attend,
    mask_bias,
)
from lmindexer_jax.models.products import inner_products, surprise


class ReconstructorKind(enum.StrEnum):
    """What a text is rebuilt from."""

    HINTED = "hinted"  # codes and a random subset of the other tokens, one distribution per slot (published)
    BAG = "bag"  # codes alone, one distribution over words per document


class Head(enum.StrEnum):
    """The matrix that turns a slot's vector into logits."""

    TIED = "tied"  # the language model's token embedding (published)
    OWN = "own"  # a matrix and a bias of the reconstructor's own


class HeadScale(enum.StrEnum):
    """Factor on the input of the head."""

    NONE = "none"  # published
    T5 = "t5"  # d ** -0.5, as T5's own tied head


@dataclasses.dataclass
class ReconstructorConfig:
    """Shape of the reconstructor."""

    kind: ReconstructorKind = ReconstructorKind.BAG
    head: Head = Head.OWN
    head_scale: HeadScale = HeadScale.NONE
    depth: int = 1  # more capacity makes the codes lazier (ablation)
    dropout: float = 0.1


def hint_mask(
    key: PRNGKeyArray, labelled: Bool[Array, "B L"], *, codes: int, hidden: float
) -> Bool[Array, "B L S"]:
    """Which of the S = codes + L slots each text slot may see.

    Every slot sees all codes; a text slot never sees itself nor an unlabelled token (padding, end of text); it sees
    each other token with probability 1 - hidden, drawn independently for every (row, column).
    """
    batch, length = labelled.shape
    drawn = jax.random.uniform(key, (batch, length, length)) >= hidden
    text = drawn & labelled[:, None, :] & ~jnp.eye(length, dtype=bool)[None]
    return jnp.concatenate([jnp.ones((batch, length, codes), bool), text], axis=2)


class Block(nn.Module):
    """One transformer block whose queries are the same for every slot of a document at the start."""

    width: int
    heads: int
    head_width: int
    hidden: int
    attends: bool
    dropout: float
    dtype: jnp.dtype

    def setup(self) -> None:
        inner = self.heads * self.head_width
        if self.attends:
            self.norm = RMSNorm(self.width, dtype=self.dtype)
            self.query = Projection(self.width, inner, (self.width * self.head_width) ** -0.5, dtype=self.dtype)
            self.key = Projection(self.width, inner, self.width**-0.5, dtype=self.dtype)
            self.value = Projection(self.width, inner, self.width**-0.5, dtype=self.dtype)
            self.out = Projection(inner, self.width, inner**-0.5, dtype=self.dtype)
        self.norm_ff = RMSNorm(self.width, dtype=self.dtype)
        self.feed_forward = FeedForward(
            self.width, self.hidden, FeedForwardKind.RELU, self.dropout, dtype=self.dtype
        )

    def attend(
        self, stream: Float[Array, "B X D"], keys: Float[Array, "B S D"], bias: Float[Array, "B H L S"]
    ) -> Float[Array, "B L D"]:
        """Attention of L slots over S keys; a stream of X = 1 rows is one query shared by all slots."""

        normed = self.norm(keys)
        query, key, value = self.query(self.norm(stream)), self.key(normed), self.value(normed)
        return self.out(attend(query, key, value, heads=self.heads, bias=bias))

    def __call__(
        self,
        stream: Float[Array, "B X D"],
        keys: Float[Array, "B S D"] | None,
        bias: Float[Array, "B H L S"] | None,
        *,
        deterministic: bool,
    ) -> Float[Array, "B L D"]:
        """Attend where this block attends, then the feed-forward network."""
        if self.attends:
            stream = stream + self.attend(stream, keys, bias)
        return stream + self.feed_forward(self.norm_ff(stream), deterministic=deterministic)


class Reconstructor(nn.Module):
    """Code vectors (and hints) to logits over the vocabulary."""

    config: ReconstructorConfig
    width: int
    heads: int
    head_width: int
    hidden: int
    vocabulary: int
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        attends = self.config.kind == ReconstructorKind.HINTED
        self.blocks = [
            Block(self.width, self.heads, self.head_width, self.hidden, attends, self.config.dropout, self.dtype)
            for _ in range(self.config.depth)
        ]
        if attends:
            self.relative_bias = RelativeBias(self.heads, bidirectional=True, stddev=self.width**-0.5)
        self.final_norm = RMSNorm(self.width, dtype=self.dtype)
        if self.config.head == Head.OWN:
            self.head = self.param("head", nn.initializers.normal(0.02), (self.vocabulary, self.width))
            self.bias = self.param("bias", nn.initializers.zeros, (self.vocabulary,))

    def head_of(self, embedding: Float[Array, "V D"]) -> tuple[Float[Array, "V D"], Float[Array, " V"] | None]:
        """Rows and bias of the head that the config names."""
        return (self.head, self.bias) if self.config.head == Head.OWN else (embedding, None)

    def scaled(self, x: Float[Array, "*S D"]) -> Float[Array, "*S D"]:
        """What the head reads."""
        return x * self.width**-0.5 if self.config.head_scale == HeadScale.T5 else x

    def logits(self, x: Float[Array, "*S D"], embedding: Float[Array, "V D"]) -> Float[Array, "*S V"]:
        """Project normed vectors to float32 scores over the vocabulary by the head that the config names."""
        rows, bias = self.head_of(embedding)
        out = inner_products(self.scaled(x).reshape(-1, x.shape[-1]), rows, self.dtype, jnp.float32)
        out = out if bias is None else out + bias[None]
        return out.reshape(*x.shape[:-1], -1)

    def bag(
        self, queries: Float[Array, "B P D"], embedding: Float[Array, "V D"], *, deterministic: bool = True
    ) -> Float[Array, "B V"]:
        """One distribution over words per document from its P code vectors: normed outputs are summed."""
        stream = queries.astype(self.dtype)
        for block in self.blocks:
            stream = block(stream, None, None, deterministic=deterministic)
        return self.logits(self.final_norm(stream).sum(1), embedding)

    def slots(
        self,
        queries: Float[Array, "B P D"],
        codes: Float[Array, "B P D"],
        tokens: Float[Array, "B L D"],
        mask: Bool[Array, "B L S"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B L D"]:
        """What the head reads at every text slot.

        The blocks run once per query vector on the same keys (the P code vectors and the L token embeddings,
        S = P + L) and mask; normed outputs are summed before one projection. Queries and code vectors are the same
        but for the published second position.
        """
        count, length = queries.shape[1], tokens.shape[1]
        keys = jnp.concatenate([codes, tokens], axis=1).astype(self.dtype)
        relative = self.relative_bias(count + length, count + length)[:, :, count:]
        bias = relative + mask_bias(mask)[:, None]
        total = 0.0
        for position in range(count):
            stream = queries[:, position : position + 1].astype(self.dtype)
            for block in self.blocks:
                stream = block(stream, keys, bias, deterministic=deterministic)
            total = total + self.final_norm(stream)
        return total

    def hinted(
        self,
        queries: Float[Array, "B P D"],
        codes: Float[Array, "B P D"],
        tokens: Float[Array, "B L D"],
        mask: Bool[Array, "B L S"],
        embedding: Float[Array, "V D"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B L V"]:
        """One distribution per text slot; arguments as `slots` has them."""
        return self.logits(self.slots(queries, codes, tokens, mask, deterministic=deterministic), embedding)

    def hinted_surprise(
        self,
        queries: Float[Array, "B P D"],
        codes: Float[Array, "B P D"],
        tokens: Float[Array, "B L D"],
        mask: Bool[Array, "B L S"],
        embedding: Float[Array, "V D"],
        words: Int[Array, "B L"],
        weights: Float[Array, "B L"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, ""]:
        """Weighted sum of the cross-entropies of `words` under the distributions of `hinted`, which are never stored."""
        read = self.scaled(self.slots(queries, codes, tokens, mask, deterministic=deterministic))
        return surprise(read, *self.head_of(embedding), words, weights, self.dtype)
