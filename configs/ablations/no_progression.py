"""The published recipe without its gentle start: every position begins with its codebook, and that at random.

    python -m lmindexer_jax.main --config configs/ablations/no_progression.py --config.corpus.path=my.jsonl \
        --workdir runs/no_progression

Expected: *posterior collapse*, sooner than with `no_kmeans.py`: the document vectors had no stage in which to grow apart.

Seen (configs/ablate.py: python_docs in small, two seeds; the whole recipe: gain of c1 .29 nats, perplexity 31, AMI .24):
posterior collapse, named by the detector: no gain (p = .02) at perplexity 6, AMI .12 (p = .007).
"""

from lmindexer_jax.config import Config
from lmindexer_jax.indexing.recipe import CodebookStart
from lmindexer_jax.recipes import published


def get_config(variant: str = "") -> Config:
    """`:tiny` shrinks documents and model."""
    config = published(variant)
    for position in (config.recipe.first, config.recipe.later):
        position.continuous_epochs = 0.0
        position.codebook_start = CodebookStart.RANDOM
    return config
