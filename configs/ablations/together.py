"""The published recipe with all positions learned at once in place of one after the other.

    python -m lmindexer_jax.main --config configs/ablations/together.py --config.corpus.path=my.jsonl --workdir runs/together

As many epochs with codebooks as the published recipe has in all. Expected: the first code says less, since it need not say
much alone, and codes of one position repeat those of another, since nothing looks for what a prefix leaves open.

Seen (configs/ablate.py: python_docs in small, two seeds; the whole recipe: gain of c1 .29 nats, perplexity 31, AMI .24):
the first code says a little more (.32 at perplexity 43, p = .14) and the second repeats it: AMI of the two .81 in place of
.63, and both together gain .21, where one after the other they gain .31 (p = .17).
"""

from lmindexer_jax.config import Config
from lmindexer_jax.indexing.recipe import Order
from lmindexer_jax.recipes import published


def get_config(variant: str = "") -> Config:
    """`:tiny` shrinks documents and model."""
    config = published(variant)
    config.recipe.order = Order.TOGETHER
    return config
