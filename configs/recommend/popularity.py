"""The most popular items for everybody: what any recommender has to beat.

    python -m lmindexer_jax.recommend --config configs/recommend/popularity.py --workdir runs/popular \
        --config.ids=runs/mine --config.interactions=users.tsv
"""

from lmindexer_jax.next_item import Method, RecommendConfig


def get_config() -> RecommendConfig:
    """Counts of the training items."""
    return RecommendConfig(method=Method.POPULARITY)
