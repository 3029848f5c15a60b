"""The project's recipe with another number of positions or larger and smaller books.

    python -m lmindexer_jax.main --config configs/ablations/sizes.py:t5 --config.corpus.path=my.jsonl --workdir runs/t5

Variants: t1 to t5 (positions), k64 to k1024 (rows of every book), each also with -tiny. Expected: AMI of the first code falls
as K grows and its information rises; later positions say less and less about the words. Seen (configs/ablate.py:ours, seed 0):

    K                               64     128    256    512    1024
    AMI of c1 with the modules      .490   .499   .474   .424   .364
    nats that c1 saves a word       .627   .755   .837   .892   .883

5,088 documents hold no more than some 500 codes of them: at 1,024 the information falls, too. By positions, K = 256 (each row
is a run of its own; perplexity of the whole ID before its last codes are spread):

    positions                              1        2        3        4        5
    AMI of c1 with the modules          .470     .474     .474     .474     .474
    nats that all codes save a word     .838     .947     .951     .939     .907
    perplexity of all codes              214    2,785    4,247    4,687    4,843

Two codes say nearly all that held-out words can tell; what comes later makes IDs distinct. Earlier codes hardly notice.
"""

import re

from lmindexer_jax.config import Config
from lmindexer_jax.errors import UserError
from lmindexer_jax.recipes import ours


def get_config(variant: str = "") -> Config:
    """`t` and a number of positions, or `k` and a number of rows; without one, as `ours.py`."""
    tiny = "tiny" if variant.endswith("tiny") else ""
    name = variant.removesuffix("tiny").strip("-")
    config = ours(tiny)
    found = re.fullmatch(r"t([1-9])|k(\d+)", name)
    if name and not found:
        raise UserError(f"config variant {variant!r}: t and a number of positions or k and a number of rows, as t5 or k64-tiny")
    sizes = config.indexer.codebook_sizes
    if found and found[1]:
        config.indexer.codebook_sizes = sizes[:1] * int(found[1])
    elif found:
        config.indexer.codebook_sizes = (int(found[2]),) * len(sizes)
    return config
