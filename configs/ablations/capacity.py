"""The published recipe with a reconstructor of three blocks in place of one.

    python -m lmindexer_jax.main --config configs/ablations/capacity.py --config.corpus.path=my.jsonl --workdir runs/capacity

Expected: what a stronger reconstructor guesses from hints the codes need not hold, so they say less. Not measured yet.
"""

from lmindexer_jax.config import Config
from lmindexer_jax.recipes import published


def get_config(variant: str = "") -> Config:
    """`:tiny` shrinks documents and model."""
    config = published(variant)
    config.indexer.reconstructor.depth = 3
    return config
