"""Recommend by generating semantic IDs after a history of codes: every code of every item is a token (TIGER, Rajput et al., 2023).

    python -m lmindexer_jax.recommend --config configs/recommend/flattened.py --workdir runs/flattened \
        --config.ids=runs/mine --config.interactions=users.tsv

One causal model in place of TIGER's encoder and decoder, so that all places of a history are trained on at once. `:text`
reads the embedding of an item's text with its last code.
"""

from lmindexer_jax.errors import UserError
from lmindexer_jax.next_item import Method, RecommendConfig


def get_config(variant: str = "") -> RecommendConfig:
    """Codes alone are read; with "text", that of each item too."""
    if variant not in ("", "text"):
        raise UserError(f"configs/recommend/flattened.py:{variant}: the one variant is text")
    config = RecommendConfig(method=Method.FLATTENED)
    config.model.read_id, config.model.read_text = False, variant == "text"
    return config
