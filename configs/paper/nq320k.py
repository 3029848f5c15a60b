"""The paper on NQ320k (109,739 documents): T5-base, two learned codes of K = 5,120 and a counter.

    python -m lmindexer_jax.main --config configs/paper/nq320k.py --workdir runs/nq320k
    python -m lmindexer_jax.finetune --workdir runs/nq320k --queries nq320k \
        --learning-rate 2e-4 --encoder-rate 1 --batch-size 2048

10 epochs of warm-up and of position 1 without its codebook, 30 of the other stages; rate 5e-3 at position 1. The two files
of Natural Questions are downloaded by hand; the first call says which, and where they belong. `:tiny` needs none.

Expected: above Recall@1 .648 and Recall@10 .832, those of an rq-VAE indexer (NCI .664/.857, GenRet .681/.888), within 2 %.
The paper's own row was not at hand to be checked. Rate and batch size of the retriever are the paper's.

Hardware: a TPU v5litepod-8 (launch/tpu_vm.sh), on which a step needs little more than the 5.0 of 16 GB a chip of beauty.py.
Time: about 3.8e18 FLOPs, thus 13 chip-hours if 40 % of a v5e's 197 TFLOP/s are reached, which is an assumption.
Not run at full size so far. The paper computed in float32: --config.precision=float32.
"""

from lmindexer_jax.config import Config
from lmindexer_jax.recipes import paper


def get_config(variant: str = "") -> Config:
    """`:tiny` shrinks model and recipe, on a corpus that comes with the project."""
    return paper("nq320k", variant)
