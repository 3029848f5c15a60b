"""Recommend by generating semantic IDs.

    python -m lmindexer_jax.recommend --config configs/recommend/generative.py --workdir runs/rec \
        --config.ids=runs/mine --config.interactions=users.tsv

`runs/mine` is a finished run of `lmindexer_jax.main` over the items; `users.tsv` has lines `user TAB item item ...`.
"""

from lmindexer_jax.next_item import Method, RecommendConfig


def get_config() -> RecommendConfig:
    """Items are read as embedding + text + codes."""
    return RecommendConfig(method=Method.GENERATIVE)
