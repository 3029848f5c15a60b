"""The published recipe with more or fewer hints to the reconstructor.

    python -m lmindexer_jax.main --config configs/ablations/hints.py:h90 --config.corpus.path=my.jsonl --workdir runs/h90

Variants: h and the per cent of the other tokens that a slot does not see, from h0 to h100, each also with -tiny; without one,
h100. Expected: the fewer hints, the more must come from the codes, and the more they say about the words.

Seen (configs/ablate.py: python_docs in small, two seeds; the whole recipe: gain of c1 .29 nats, perplexity 31, AMI .24):
without hints the codes say more (a gain of .36; of both codes .36 in place of .31, p = .003) and AMI is .29; with all hints
a gain of .28.
"""

import re

from lmindexer_jax.config import Config
from lmindexer_jax.errors import UserError
from lmindexer_jax.recipes import published


def get_config(variant: str = "") -> Config:
    """`h` and a share in per cent."""
    name = variant.removesuffix("tiny").strip("-") or "h100"
    if not re.fullmatch(r"h\d+", name) or int(name[1:]) > 100:
        raise UserError(f"config variant {variant!r}: h and a share in per cent, as h50 or h90-tiny")
    config = published("tiny" if variant.endswith("tiny") else "")
    for position in (config.recipe.first, config.recipe.later):
        position.hidden = int(name[1:]) / 100
    return config
