"""The paper on Amazon Beauty (12,101 items): T5-base, two learned codes of K = 512 and a counter, 30 epochs a stage.

    python -m lmindexer_jax.main --config configs/paper/beauty.py --workdir runs/beauty

The two files of the data set are downloaded by hand; the first call says which, and where they belong. `:tiny` needs none.

Expected downstream: Recall@5 .0415, NDCG@5 .0262, to be met within 10 % (as quoted by ActionPiece, table 2).
Afterwards `python -m lmindexer_jax.recommend --config configs/recommend/text.py:own` with these IDs: as in the paper the run's own T5
reads titles (learning rate 1e-3, batch 32, 15,000 steps, 20 beams). `generative.py` beside it is another, smaller model.

Hardware: a TPU v5litepod-8 (launch/tpu_vm.sh), on which a step needs 5.0 of 16 GB a chip (batch size 128, by the TPU compiler).
Time: about 4.7e17 FLOPs, thus 1.6 chip-hours if 40 % of a v5e's 197 TFLOP/s are reached, which is an assumption.
Not run at full size so far. The paper computed in float32: --config.precision=float32.
"""

from lmindexer_jax.config import Config
from lmindexer_jax.recipes import paper


def get_config(variant: str = "") -> Config:
    """`:tiny` shrinks model and recipe, on a corpus that comes with the project."""
    return paper("beauty", variant)
