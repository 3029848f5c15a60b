"""The published recipe with fewer losses: reconstruction alone, or all but the commitment to earlier codes.

    python -m lmindexer_jax.main --config configs/ablations/losses.py:no_commitment --config.corpus.path=my.jsonl --workdir runs/no_commitment

Variants, each also with -tiny:

    only_reconstruction    neither contrast nor commitment (the variant without a name)
    no_commitment          from position 2 on nothing keeps the earlier codes. Expected: prefix drift

Expected of reconstruction alone: as `no_contrast.py`, and prefix drift from position 2 on.

Seen (configs/ablate.py: python_docs in small, two seeds; the whole recipe: gain of c1 .29 nats, perplexity 31, AMI .24):
without commitment 53 % of the documents would get another first code by the final parameters, with it 17 %. Reconstruction
alone: a gain of .43 at perplexity 35 with one seed, posterior collapse with the other (.23 at perplexity 10), and a drift
of .58 and .90.
"""

from lmindexer_jax.config import Config
from lmindexer_jax.errors import UserError
from lmindexer_jax.recipes import published


def get_config(variant: str = "") -> Config:
    """One of the variants above."""
    name = variant.removesuffix("tiny").strip("-") or "only_reconstruction"
    if name not in ("only_reconstruction", "no_commitment"):
        raise UserError(f"config variant {variant!r}: one of only_reconstruction, no_commitment, each also with -tiny")
    config = published("tiny" if variant.endswith("tiny") else "")
    config.recipe.later.commitment = 0.0
    if name == "only_reconstruction":
        for position in (config.recipe.first, config.recipe.later):
            position.contrast.weight = 0.0
    return config
