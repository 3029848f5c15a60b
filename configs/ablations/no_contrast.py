"""The published recipe without its contrastive loss.

    python -m lmindexer_jax.main --config configs/ablations/no_contrast.py --config.corpus.path=my.jsonl --workdir runs/no_contrast

Expected: less even use of the codes, and from position 2 on more documents of one prefix that share the next code too.
"""

from lmindexer_jax.config import Config
from lmindexer_jax.recipes import published


def get_config(variant: str = "") -> Config:
    """`:tiny` shrinks documents and model."""
    config = published(variant)
    for position in (config.recipe.first, config.recipe.later):
        position.contrast.weight = 0.0
    return config
