"""The rq-VAE of TIGER (Rajput et al. 2023, section 3.1): an autoencoder of document vectors whose middle is T codes.

    latent  z = encoder(x)                     a perceptron with relu, narrower from layer to layer
    code    c_t = nearest row of codebook t to the residual r_t;   r_1 = z,   r_{t+1} = r_t - row c_t
    loss    |x - decoder(sum of rows)|^2 + sum over t of  |sg r_t - row c_t|^2 + commitment * |r_t - sg row c_t|^2

The decoder's gradient reaches the encoder as if the sum of rows were z (straight-through). A row is pulled by the
residuals that chose it and by nothing else: residuals are taken relative to fixed rows.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lmindexer_jax.models.layers import Projection
from lmindexer_jax.models.quantiser import CodebookUpdate, Quantised, QuantiserConfig, Similarity, quantise

Params = dict


@dataclasses.dataclass
class RqVaeConfig:
    """Sizes and weights; the defaults are TIGER's. The books' sizes are the run's `indexer.codebook_sizes`."""

    hidden: tuple[int, ...] = (512, 256, 128)  # of the encoder; the decoder has them in reverse
    latent: int = 32
    commitment: float = 0.25
    update: CodebookUpdate = CodebookUpdate.GRADIENT
    ema_decay: float = 0.99

    def quantiser(self) -> QuantiserConfig:
        """Settings of one level: the nearest row by distance, straight through."""
        return QuantiserConfig(
            similarity=Similarity.L2, commitment=self.commitment, codebook=1.0, update=self.update, ema_decay=self.ema_decay
        )


class Perceptron(nn.Module):
    """Linear maps with relu between them, none after the last."""

    widths: tuple[int, ...]  # from the input to the output
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        self.layers = [
            Projection(inputs, outputs, stddev=(2 / inputs) ** 0.5, use_bias=True, dtype=self.dtype)
            for inputs, outputs in zip(self.widths[:-1], self.widths[1:], strict=True)
        ]

    def __call__(self, values: Float[Array, "*batch I"]) -> Float[Array, "*batch O"]:
        for layer in self.layers[:-1]:
            values = nn.relu(layer(values))
        return self.layers[-1](values).astype(jnp.float32)


class RqVae(nn.Module):
    """Encoder, decoder and codebooks as one parameter tree; reached through the functions below."""

    config: RqVaeConfig
    width: int
    codebook_sizes: tuple[int, ...]
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        widths = (self.width, *self.config.hidden, self.config.latent)
        self.encoder = Perceptron(widths, self.dtype)
        self.decoder = Perceptron(widths[::-1], self.dtype)
        self.codebooks = [
            self.param(f"codebook_{t}", nn.initializers.normal(self.config.latent**-0.5), (size, self.config.latent))
            for t, size in enumerate(self.codebook_sizes)
        ]

    def encode(self, vectors: Float[Array, "B D"]) -> Float[Array, "B W"]:
        """Latents z."""
        return self.encoder(vectors)

    def decode(self, latents: Float[Array, "B W"]) -> Float[Array, "B D"]:
        """Document vectors from latents."""
        return self.decoder(latents)

    def __call__(self, vectors: Float[Array, "B D"]) -> Float[Array, "B D"]:
        """Touch every parameter once (initialisation)."""
        return self.decoder(self.encoder(vectors))


class Levels(NamedTuple):
    """What residual quantisation makes of latents."""

    vector: Float[Array, "B W"]  # the sum of the chosen rows; its gradient goes to the latent
    codes: Int[Array, "B T"]
    residuals: Float[Array, "B T W"]  # what each level was given
    loss: Float[Array, " B"]  # codebook and commitment terms of all levels


class Outputs(NamedTuple):
    """Of one forward pass; both losses are means over the dimensions of what they compare."""

    levels: Levels
    rebuilt: Float[Array, "B D"]
    reconstruction: Float[Array, " B"]
    quantisation: Float[Array, " B"]


def quantise_residuals(latents: Float[Array, "B W"], books: list[Float[Array, "K W"]], *, config: RqVaeConfig) -> Levels:
    """Replace latents by sums of rows, one row of each book."""
    residual, codes, residuals, loss = latents, [], [], 0.0
    for rows in books:
        chosen: Quantised = quantise(residual, rows, config=config.quantiser())
        codes.append(chosen.code)
        residuals.append(residual)
        loss = loss + chosen.commitment
        residual = residual - jax.lax.stop_gradient(rows[chosen.code])
    vector = latents - jax.lax.stop_gradient(residual)  # forward: z minus what is left of it
    return Levels(vector, jnp.stack(codes, axis=1), jnp.stack(residuals, axis=1), loss)


@dataclasses.dataclass(frozen=True, eq=False)
class RqVaeFunctions:
    """The pure functions of one rq-VAE; parameters come first."""

    module: RqVae

    def init(self, key: PRNGKeyArray) -> Params:
        """Random parameters."""
        return self.module.init(key, jnp.zeros((1, self.module.width)))["params"]

    def encode(self, params: Params, vectors: Float[Array, "B D"]) -> Float[Array, "B W"]:
        """Latents z."""
        return self.module.apply({"params": params}, vectors, method=RqVae.encode)

    def decode(self, params: Params, latents: Float[Array, "B W"]) -> Float[Array, "B D"]:
        """Document vectors from latents."""
        return self.module.apply({"params": params}, latents, method=RqVae.decode)

    def books(self, params: Params) -> list[Float[Array, "K W"]]:
        """The codebooks, first level first."""
        return [params[f"codebook_{t}"] for t in range(len(self.module.codebook_sizes))]

    def levels(self, params: Params, vectors: Float[Array, "B D"]) -> Levels:
        """Latents and their codes, without the decoder."""
        return quantise_residuals(self.encode(params, vectors), self.books(params), config=self.module.config)

    def forward(self, params: Params, vectors: Float[Array, "B D"]) -> Outputs:
        """Codes, rebuilt vectors and both losses per document."""
        levels = self.levels(params, vectors)
        rebuilt = self.decode(params, levels.vector)
        reconstruction = jnp.mean(jnp.square(vectors - rebuilt), axis=-1)
        return Outputs(levels, rebuilt, reconstruction, levels.loss / self.module.config.latent)
