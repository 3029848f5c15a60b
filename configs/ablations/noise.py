"""The project's recipe on texts that were damaged on purpose.

    python -m lmindexer_jax.main --config configs/ablations/noise.py:dropped --config.corpus.path=my.jsonl --workdir runs/dropped

Variants, each also with -tiny: characters (a tenth of them hit; the variant without a name), dropped (three words of ten
left out), truncated (the second half cut off). Expected: words left out harm least, slips in characters most, since a word
that is misspelt falls apart into other tokens. Seen (configs/ablate.py:ours, seed 0), as expected but for one: to lose the second
half does least harm, since a docstring says at its beginning what it is about.

                                    as they are   characters   dropped   truncated
    AMI of c1 with the modules          .474         .409        .447       .465
    nats that c1 saves a word           .837         .195        .703       .840      (of the words that are left)
"""

from lmindexer_jax.config import Config
from lmindexer_jax.errors import UserError
from lmindexer_jax.recipes import ours

SHARES = {"characters": 0.1, "dropped": 0.3, "truncated": 0.5}


def get_config(variant: str = "") -> Config:
    """One of the variants above."""
    name = variant.removesuffix("tiny").strip("-") or "characters"
    if name not in SHARES:
        raise UserError(f"config variant {variant!r}: one of {', '.join(SHARES)}, each also with -tiny")
    config = ours("tiny" if variant.endswith("tiny") else "")
    setattr(config.corpus.noise, name, SHARES[name])
    return config
