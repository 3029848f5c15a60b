"""The project's own recipe (lmindexer_jax/recipes.py says how it differs from the published one, and why).

    python -m lmindexer_jax.main --config configs/ours.py --config.corpus.path=my.jsonl --workdir runs/mine

Amazon Beauty (12,101 items) takes 5 to 6 minutes on one CPU core, and 1.5 more to encode it once.
"""

from lmindexer_jax.recipes import ours as get_config

__all__ = ["get_config"]
