"""Semantic IDs for the docstrings of numpy, scipy, jax, flax and optax, from MiniLM, on a laptop.

    python -m lmindexer_jax.main --config configs/quickstart.py --workdir runs/quickstart

About 5,000 documents, T = 3 positions; no download beside the installed packages. Your own corpus:

    ... --config.corpus.name= --config.corpus.path=my.jsonl
"""

from configs.ours import ours
from lmindexer_jax.config import Config


def get_config(variant: str = "") -> Config:
    """`:tiny` for a look at the whole way in a minute or two."""
    config = ours(variant)
    config.corpus.name = "python_docs"
    config.language_model.max_length = 128
    config.indexer.codebook_sizes = (64, 64, 64) if variant != "tiny" else (8, 8, 8)
    return config
