"""The published recipe with rows drawn by Gumbel-softmax in place of the soft straight-through estimator.

    python -m lmindexer_jax.main --config configs/ablations/gumbel.py --config.corpus.path=my.jsonl --workdir runs/gumbel

Expected: codes that are drawn and not chosen are noisier to learn from, and a codebook in less even use.

Seen (configs/ablate.py: python_docs in small, two seeds; the whole recipe: gain of c1 .29 nats, perplexity 31, AMI .24):
gains of .34 and .26, perplexity 38 and 29: no difference that two seeds could show.
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
