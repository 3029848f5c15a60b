"""The published recipe without the warm-up of the reconstructor.

    python -m lmindexer_jax.main --config configs/ablations/no_warm_up.py --config.corpus.path=my.jsonl --workdir runs/no_warm_up

Expected: *reconstructor collapse*. The language model follows a reconstructor that knows nothing yet: when a stage of a few
epochs ends, texts are rebuilt worse than by word frequencies, though the codes say something about the words.
"""

from lmindexer_jax.config import Config
from lmindexer_jax.recipes import published


def get_config(variant: str = "") -> Config:
    """`:tiny` shrinks documents and model."""
    config = published(variant)
    config.recipe.warm_up_epochs = 0.0
    return config
