"""The published recipe of LMIndexer: everything trains, hints, soft straight-through, raw products, 30 epochs a stage.

    python -m lmindexer_jax.main --config configs/published.py --config.corpus.path=my.jsonl \
        --config.language_model.name=t5-base --workdir runs/published

Meant for an accelerator: it encodes every document several times in each of 30 epochs of five stages.
"""

from lmindexer_jax.recipes import published as get_config

__all__ = ["get_config"]
