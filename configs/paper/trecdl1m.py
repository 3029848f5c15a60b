"""The paper on TREC-DL 1M: the IDs of macro1m.py, asked by the queries of TREC's deep learning tracks with their grades.

    python -m lmindexer_jax.main --config configs/paper/trecdl1m.py --workdir runs/trecdl1m
    python -m lmindexer_jax.finetune --workdir runs/trecdl1m --queries msmarco \
        --learning-rate 5e-3 --encoder-rate 1 --batch-size 2048 --split trec_dl_2019 --split trec_dl_2020

T5-base, two learned codes of K = 51,200 and a counter, 5 epochs a stage: so the published scripts for position 2. Of
position 1, of the warm-up and of which million documents (here the first) nothing could be checked. The files are downloaded by
hand; the first call says which, and where they belong. `:tiny` needs none.
Who has run macro1m.py has these IDs and this retriever already: with its workdir the second command measures alone.

Expected: the paper's table of document retrieval (NDCG@10, Recall@10); its numbers were not at hand to be checked.

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
