"""The paper on MACRO 1M, a million documents of MS MARCO.

    python -m lmindexer_jax.main --config configs/paper/macro1m.py --workdir runs/macro1m
    python -m lmindexer_jax.finetune --workdir runs/macro1m --queries msmarco \
        --learning-rate 5e-3 --encoder-rate 1 --batch-size 2048

T5-base, two learned codes of K = 51,200 and a counter, 5 epochs a stage: so the published scripts for position 2. Of
position 1, of the warm-up and of which million documents (here the first) nothing could be checked. The files are downloaded by
hand; the first call says which, and where they belong. `:tiny` needs none.

Expected: the paper's table of document retrieval (MRR@10); its numbers were not at hand to be checked. Rate and batch
size of the retriever are the paper's, which trains for 500,000 steps.

Hardware: a TPU v5litepod-8 (launch/tpu_vm.sh), on which the state takes 4.9 of 16 GB a chip, to which beauty.py's step
adds 1.3 (the state by count, the step by the TPU compiler).
Time: about 6.4e18 FLOPs, thus 23 chip-hours if 40 % of a v5e's 197 TFLOP/s are reached, which is an assumption.
Not run at full size so far. The paper computed in float32: --config.precision=float32.
"""

from lmindexer_jax.config import Config
from lmindexer_jax.recipes import paper


def get_config(variant: str = "") -> Config:
    """`:tiny` shrinks model and recipe, on a corpus that comes with the project."""
    return paper("msmarco", variant)
