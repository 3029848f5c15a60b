"""The published recipe without the reconstruction loss, and so without a reconstructor to warm up: contrast alone.

    python -m lmindexer_jax.main --config configs/ablations/no_reconstruction.py --config.corpus.path=my.jsonl \
        --workdir runs/no_reconstruction

Expected: documents are told apart, but by anything. Where a text's topic is not what differs most between texts, codes are
in even use and *meaningless*; where it is, they inform. A reconstructor that no loss has trained is not judged.

Seen (configs/ablate.py: python_docs in small, two seeds; the whole recipe: gain of c1 .29 nats, perplexity 31, AMI .24):
gains of .25 and .31 at perplexity 31 and 41: of documentation, the topic is what differs most. Meaningless codes are seen
where it is not (tests/collapses.py; docs/figures/collapse.svg).
"""

from lmindexer_jax.config import Config
from lmindexer_jax.recipes import published


def get_config(variant: str = "") -> Config:
    """`:tiny` shrinks documents and model."""
    config = published(variant)
    config.recipe.warm_up_epochs = 0.0
    for position in (config.recipe.first, config.recipe.later):
        position.reconstruction = 0.0
    return config
