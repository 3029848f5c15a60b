"""The project's own recipe: frozen encoder, information-bearing reconstruction from codes alone, balanced codes.

    python -m lmindexer_jax.main --config configs/ours.py --config.corpus.path=my.jsonl --workdir runs/mine

Where it differs from the published recipe (configs/published.py) and why:

- the encoder is frozen and its states are kept on disk: an epoch costs a small decoder and nothing else;
- a document's vector starts as the encoder's pooled embedding, from position 2 on less its prefix' mean, so a later
  code cannot repeat an earlier one;
- the reconstructor sees codes alone: what it learns to say, the codes must hold;
- codes of positions >= 2 are chosen in training by Sinkhorn over the batch and a queue, or they collapse;
- vectors are compared by cosine, and k-means clusters by what assigns.
"""

from lmindexer_jax.config import Config
from lmindexer_jax.indexing.recipe import ContrastConfig, PositionConfig, Rates, RecipeConfig
from lmindexer_jax.models.indexer import IndexerConfig
from lmindexer_jax.models.quantiser import Choice, Estimator, QuantiserConfig


def get_config(variant: str = "") -> Config:
    """`:tiny` for a look at the whole way in a minute or two."""
    return ours(variant)


def ours(variant: str = "") -> Config:
    """The recipe, for any corpus."""
    config = Config(indexer=IndexerConfig(codebook_sizes=(256, 256, 256)))
    config.recipe = RecipeConfig(first=first_position(), later=later_positions())
    if variant == "tiny":
        config.language_model.name = "tiny"
        config.language_model.vocabulary = 1024
        config.indexer.codebook_sizes = (16, 16, 16)
        config.corpus.max_documents = 600
        for position in (config.recipe.first, config.recipe.later):
            position.rates.language_model = 1.0
            position.rounds = 1
    return config


def first_position() -> PositionConfig:
    """Position 1: expected reconstruction over all codes, so no straight-through estimate is needed."""
    return PositionConfig(
        continuous_epochs=2,
        quantised_epochs=4,
        rates=Rates(decoder=1.0, codebook=1.0),
        quantiser=QuantiserConfig(estimator=Estimator.MARGINAL, temperature=0.05, commitment=0.0, codebook=0.0),
    )


def later_positions() -> PositionConfig:
    """Positions 2 and on: one epoch without a codebook, two with balanced codes."""
    return PositionConfig(
        continuous_epochs=1,
        quantised_epochs=2,
        rates=Rates(decoder=0.3, codebook=0.1),
        quantiser=QuantiserConfig(
            estimator=Estimator.IDENTITY, choice=Choice.BALANCED, temperature=0.05, commitment=0.25, codebook=1.0
        ),
        contrast=ContrastConfig(weight=0.0),
        commitment=0.1,
    )
