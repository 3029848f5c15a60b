"""Semantic IDs for the 48,903 entries of ICD-10-CM, whose codes form a true tree: is "hierarchical" more than a word?

    python -m lmindexer_jax.main --config configs/icd10cm.py --workdir runs/icd10cm

The corpus comes with a package (simple-icd-10-cm), nothing is downloaded. The tree is never trained on; the closing
table compares c_1..c_t with its depth t.
"""

from lmindexer_jax.config import Config
from lmindexer_jax.recipes import ours


def get_config(variant: str = "") -> Config:
    """`:tiny` for a look at the whole way in a minute or two."""
    config = ours(variant)
    config.corpus.name = "icd10cm"
    if variant != "tiny":
        config.language_model.max_length = 32
    return config
