"""The published recipe with codebooks that start at random, compared by raw products.

    python -m lmindexer_jax.main --config configs/ablations/no_kmeans.py --config.corpus.path=my.jsonl --workdir runs/no_kmeans

Expected: *posterior collapse*. What all documents have in common decides the largest products, so a few rows take most
documents, and rows that are never chosen learn little.

Seen (configs/ablate.py: python_docs in small, two seeds; the whole recipe: gain of c1 .29 nats, perplexity 31, AMI .24):
posterior collapse, named by the detector: a gain of .04 (p = .06) at perplexity 8, AMI .13 (p = .01).
"""

from lmindexer_jax.config import Config
from lmindexer_jax.indexing.recipe import CodebookStart
from lmindexer_jax.recipes import published


def get_config(variant: str = "") -> Config:
    """`:tiny` shrinks documents and model."""
    config = published(variant)
    for position in (config.recipe.first, config.recipe.later):
        position.codebook_start = CodebookStart.RANDOM
    return config
