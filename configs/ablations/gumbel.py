"""The published recipe with rows drawn by Gumbel-softmax in place of the soft straight-through estimator.

    python -m lmindexer_jax.main --config configs/ablations/gumbel.py --config.corpus.path=my.jsonl --workdir runs/gumbel

Expected: codes that are drawn and not chosen are noisier to learn from, and a codebook in less even use. Not measured yet.
"""

from lmindexer_jax.config import Config
from lmindexer_jax.models.quantiser import Estimator
from lmindexer_jax.recipes import published


def get_config(variant: str = "") -> Config:
    """`:tiny` shrinks documents and model."""
    config = published(variant)
    for position in (config.recipe.first, config.recipe.later):
        position.quantiser.estimator = Estimator.GUMBEL
    return config
