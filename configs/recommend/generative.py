"""Recommend by generating semantic IDs.

    python -m lmindexer_jax.recommend --config configs/recommend/generative.py --workdir runs/rec \
        --config.ids=runs/mine --config.interactions=users.tsv

`runs/mine` is a finished run of `lmindexer_jax.main` over the items; `users.tsv` has lines `user TAB item item ...`.
`:dense` learns SASRec's softmax over the items' vectors from the same state (there among 1,024 drawn items), and orders by
both scores what 50 generated IDs lead to.
"""

from lmindexer_jax.errors import UserError
from lmindexer_jax.next_item import Method, RecommendConfig


def get_config(variant: str = "") -> RecommendConfig:
    """Items are read as embedding + text + codes; with "dense", they are compared as such too."""
    if variant not in ("", "dense"):
        raise UserError(f"configs/recommend/generative.py:{variant}: the one variant is dense")
    config = RecommendConfig(method=Method.GENERATIVE)
    if variant == "dense":
        config.model.dense, config.beams, config.training.negatives = True, 50, 1024
    return config
