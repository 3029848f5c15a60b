"""The project's own recipe without the reconstruction loss.

    python -m lmindexer_jax.main --config configs/ablations/no_reconstruction.py --config.corpus.path=my.jsonl \
        --workdir runs/no_reconstruction

Expected: k-means alone spreads the codes evenly, and nothing asks them to tell what a text is about. From a language model
without pretraining they are *meaningless codes*: diverse, and no better than random ones. From a pretrained one they are
those of k-means on its embeddings, and the reconstructor, which never learned, is reported instead.
"""

from lmindexer_jax.config import Config
from lmindexer_jax.recipes import ours


def get_config(variant: str = "") -> Config:
    """`:tiny` shrinks documents and model."""
    config = ours(variant)
    for position in (config.recipe.first, config.recipe.later):
        position.reconstruction = 0.0
    return config
