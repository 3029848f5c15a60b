"""Recommend as published in LMIndexer (2024): the texts of a user's items, newest first, are what a language model reads, and
it emits the ID of the next one.

    python -m lmindexer_jax.recommend --config configs/recommend/text.py --workdir runs/text \
        --config.ids=runs/mine --config.interactions=users.tsv

`runs/mine` is a finished run, for its items' texts. The language model is a small T5 from scratch; `:own` goes on with the
indexer's own, as it was trained, which is what the paper does (there T5-base); `--config.reader.language_model=t5-small` takes
another one. Learning rate, batch size and beams are the paper's, the epochs about its 15,000 steps on Amazon Beauty (3.7).
"""

from lmindexer_jax.errors import UserError
from lmindexer_jax.next_item import Method, RecommendConfig
from lmindexer_jax.training.optim import OptimConfig


def get_config(variant: str = "") -> RecommendConfig:
    """A T5 from scratch; with "own", the indexer's language model."""
    if variant not in ("", "own"):
        raise UserError(f"configs/recommend/text.py:{variant}: the one variant is own")
    config = RecommendConfig(method=Method.TEXT, beams=20)
    config.reader.language_model = "" if variant == "own" else "mini"
    config.training.epochs, config.training.batch_size = 4, 32
    config.training.optim = OptimConfig(learning_rate=1e-3)
    return config
