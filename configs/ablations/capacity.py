"""The published recipe with a reconstructor of three blocks in place of one.

    python -m lmindexer_jax.main --config configs/ablations/capacity.py --config.corpus.path=my.jsonl --workdir runs/capacity

Expected: what a stronger reconstructor guesses from hints the codes need not hold, so they say less.

Seen (configs/ablate.py: python_docs in small, two seeds; the whole recipe: gain of c1 .29 nats, perplexity 31, AMI .24): a
gain of .27, perplexity 35, AMI .22; a little less (p = .002 of the gain).
"""

from lmindexer_jax.config import Config
from lmindexer_jax.recipes import published


def get_config(variant: str = "") -> Config:
    """`:tiny` shrinks documents and model."""
    config = published(variant)
    config.indexer.reconstructor.depth = 3
    return config
