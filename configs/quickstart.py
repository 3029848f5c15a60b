"""Semantic IDs for the docstrings of numpy, scipy, jax, flax and optax, from MiniLM, on a laptop.

    python -m lmindexer_jax.main --config configs/quickstart.py --workdir runs/quickstart

About 5,000 documents, T = 3 positions; no download beside the installed packages. Your own corpus:

    python -m lmindexer_jax.main --config configs/ours.py --config.corpus.path=my.jsonl --workdir runs/mine
"""

from lmindexer_jax.config import Config
from lmindexer_jax.recipes import ours


def get_config(variant: str = "") -> Config:
    """`:tiny` for a look at the whole way in a minute or two."""
    config = ours(variant)
    config.corpus.name = "python_docs"
    if variant != "tiny":
        config.language_model.max_length = 96
        config.indexer.codebook_sizes = (64, 64, 64)
    return config
