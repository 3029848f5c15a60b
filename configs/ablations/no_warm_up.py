"""The published recipe without the warm-up of the reconstructor.

    python -m lmindexer_jax.main --config configs/ablations/no_warm_up.py --config.corpus.path=my.jsonl --workdir runs/no_warm_up

Expected: *reconstructor collapse*. The language model follows a reconstructor that knows nothing yet: when a stage of a few
epochs ends, texts are rebuilt worse than by word frequencies, though the codes say something about the words.

Seen (configs/ablate.py: python_docs in small, two seeds; the whole recipe: gain of c1 .29 nats, perplexity 31, AMI .24):
gains of .22 and .29; after as many steps as here the reconstructor has caught up, and nothing is found. The collapse is
seen where stages are short (tests/collapses.py; docs/figures/collapse.svg).
"""

from lmindexer_jax.config import Config
from lmindexer_jax.recipes import published


def get_config(variant: str = "") -> Config:
    """`:tiny` shrinks documents and model."""
    config = published(variant)
    config.recipe.warm_up_epochs = 0.0
    return config
