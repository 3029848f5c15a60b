"""Amazon Beauty (12,101 items, MiniLM, T = 3, K = 256): the project's recipe and the published one, on two texts.

    python -m lmindexer_jax.main --config configs/beauty.py:ours-b --workdir runs/ours-b \
        --config.corpus.path=items.jsonl --config.interactions=sequences.tsv --config.seed=0

`items.jsonl` has item_id, title, brand and path (the store's tree) per line; `sequences.tsv` a user, a tab and item ids in
time order. Variants are `ours-a`, `ours-b`, `published-a`, `published-b`:

    a   title and brand: the honest text
    b   the published template with the category path: it holds the labels that AMI compares with

`published` here keeps the losses, the estimator, the hints and the order of stages of the published recipe, and leaves
out what two CPU cores cannot carry: the encoder is frozen, the head has only the words that the corpus uses, and the
epochs a stage are few (30 of the whole model would take about two days, by estimate). configs/published.py is the recipe undiminished.
docs/results/beauty.json holds what was measured.
"""

from lmindexer_jax.config import Config
from lmindexer_jax.errors import UserError
from lmindexer_jax.recipes import BEAUTY_TEXTS, beauty, few_epochs, ours, published


def get_config(variant: str = "ours-b") -> Config:
    """`<recipe>-<text>`, or `tiny`."""
    size = "tiny" if variant == "tiny" else ""
    recipe, _, text = ("ours-b" if variant in ("", "tiny") else variant).partition("-")
    if recipe not in ("ours", "published") or text not in BEAUTY_TEXTS:
        raise UserError(f"configs/beauty.py:{variant}: variants are ours-a, ours-b, published-a, published-b and tiny")
    return beauty(ours(size) if recipe == "ours" else few_epochs(published(size)), text)
