"""The project's recipe learned on one corpus, to code another by: what do codes lose that were made for other texts?

    python -m lmindexer_jax.main --config configs/ablations/shifted.py --workdir runs/diseases
    python -m lmindexer_jax.main --config configs/ours.py --config.corpus.name=python_docs --workdir runs/docs
    python -m lmindexer_jax.index python_docs --workdir runs/diseases -o foreign.jsonl
    python -m lmindexer_jax.evaluate --workdir runs/docs --against foreign.jsonl

Learns on the disease names of ICD-10-CM; the documentation of Python packages is coded by that model and compared with
codes that were learned on it. Expected: few codes are used, since most rows stand where no function's text is, and what they
say of the words is a part of what codes of one's own say.

Seen (one seed; 64 tokens of a docstring): a gain of c1 of .03 nats in place of .84, perplexity 46 of 256 in place of 214,
AMI .09 in place of .47: codes do not travel between texts as far apart as these, so learn them on texts of the kind that
they are for.
"""

from lmindexer_jax.config import Config
from lmindexer_jax.recipes import ours


def get_config(variant: str = "") -> Config:
    """`:tiny` shrinks documents and model."""
    config = ours(variant)
    config.corpus.name = "icd10cm"
    return config
