"""SASRec (Kang and McAuley, 2018) with a softmax over all items: the honest bar for recommendation.

    python -m lmindexer_jax.recommend --config configs/recommend/sasrec.py --workdir runs/sasrec \
        --config.ids=runs/mine --config.interactions=users.tsv

`:text` reads and compares items by their text embedding as well as by their own.
"""

from lmindexer_jax.errors import UserError
from lmindexer_jax.next_item import Method, RecommendConfig


def get_config(variant: str = "") -> RecommendConfig:
    """Items are read by their own embedding alone; with "text", by that of their text too."""
    if variant not in ("", "text"):
        raise UserError(f"configs/recommend/sasrec.py:{variant}: the one variant is text")
    config = RecommendConfig(method=Method.SASREC)
    config.model.read_text, config.model.read_codes = variant == "text", False
    return config
