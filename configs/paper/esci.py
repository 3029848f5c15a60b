"""The paper's product search: ESCI queries (label E) on the items of Amazon Beauty; the IDs are those of beauty.py.

    python -m lmindexer_jax.main --config configs/paper/esci.py --workdir runs/esci
    python -m lmindexer_jax.finetune --workdir runs/esci --queries esci/beauty_queries \
        --learning-rate 1e-3 --encoder-rate 1 --batch-size 32

For the other two corpora: --config.corpus.name=amazon_reviews/sports (or toys) and esci/sports_queries. The files of both data
sets are downloaded by hand; the first call says which, and where they belong. `:tiny` needs none.

Expected: the paper's table of product search (NDCG@5, MAP@5); its numbers were not at hand to be checked. They cannot be
met to the digit: the published NDCG divides by what was retrieved, not by all that is relevant. Rate and
batch size of the retriever are the paper's, and so are 10,000 steps: --epochs 320,000 / (the pairs that it names as it starts).

Hardware: a TPU v5litepod-8 (launch/tpu_vm.sh), on which a step needs 5.0 of 16 GB a chip (batch size 128, by the TPU compiler).
Time: about 4.7e17 FLOPs, thus 1.6 chip-hours if 40 % of a v5e's 197 TFLOP/s are reached, which is an assumption.
Not run at full size so far. The paper computed in float32: --config.precision=float32.
"""

from lmindexer_jax.config import Config
from lmindexer_jax.recipes import paper


def get_config(variant: str = "") -> Config:
    """`:tiny` shrinks model and recipe, on a corpus that comes with the project."""
    return paper("beauty", variant)
