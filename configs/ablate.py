"""Every ablation beside the recipe that it takes something from, on one corpus: what is each part good for?

    python -m lmindexer_jax.bakeoff --config configs/ablate.py --workdir runs/ablate
    python -m lmindexer_jax.bakeoff --config configs/ablate.py:ours --workdir runs/ablate-ours

The first takes apart the published recipe, in few epochs on a frozen encoder, for the first 2,000 documents of python_docs,
32 tokens of each, T = 2, K = 64: about three minutes a cell on one CPU core. The second varies sizes and texts of the project's
recipe for all of python_docs, 64 tokens, T = 3, K = 256. `:tiny` and `:ours-tiny` shrink both to a look at the whole
way. The cells are the files of configs/ablations/, which say what each should show and what was seen; docs/results/ablations.json
has the numbers.
"""

import pathlib

from lmindexer_jax.config import BakeoffConfig
from lmindexer_jax.errors import UserError
from lmindexer_jax.flags import load
from lmindexer_jax.recipes import few_epochs

HOME = pathlib.Path(__file__).parent
PUBLISHED = {
    "published": "published",
    "only_reconstruction": "ablations/losses:only_reconstruction",
    "no_commitment": "ablations/losses:no_commitment",
    "no_contrast": "ablations/no_contrast",
    "no_warm_up": "ablations/no_warm_up",
    "no_kmeans": "ablations/no_kmeans",
    "no_progression": "ablations/no_progression",
    "no_reconstruction": "ablations/no_reconstruction",
    "together": "ablations/together",
    "gumbel": "ablations/gumbel",
    "product": "ablations/product",
    "all_hints": "ablations/hints:h0",
    "no_hints": "ablations/hints:h100",
    "capacity": "ablations/capacity",
}
OURS = {"ours": "ours"}
OURS |= {f"t{size}": f"ablations/sizes:t{size}" for size in (1, 2, 4, 5)}
OURS |= {f"k{size}": f"ablations/sizes:k{size}" for size in (64, 128, 512, 1024)}
OURS |= {name: f"ablations/noise:{name}" for name in ("characters", "dropped", "truncated")}


def get_config(variant: str = "") -> BakeoffConfig:
    """All ablations of the recipe that the variant names."""
    words = [word for word in variant.split("-") if word]
    if set(words) - {"ours", "tiny"}:
        raise UserError(f"configs/ablate.py:{variant}: variants are tiny, ours and ours-tiny")
    ours, tiny = "ours" in words, "tiny" in words
    cells = {}
    for name, source in (OURS if ours else PUBLISHED).items():
        path, _, own = source.partition(":")
        cells[name] = load(HOME / f"{path}.py", "-".join(word for word in (own, "tiny" if tiny else "") if word))
        if not ours:
            cells[name].indexer.codebook_sizes = (16 if tiny else 64,) * 2
            few_epochs(cells[name])
            # As many steps as a corpus of 12,000 takes, or the reconstructor learns nothing before the codes move.
            cells[name].recipe.first.batch_size = 32
            cells[name].recipe.warm_up_epochs *= 3
        cells[name].language_model.max_length = 64 if ours else 32
    config = BakeoffConfig(cells=cells)
    config.corpus.name = "python_docs"
    config.corpus.max_documents = 400 if tiny else 0 if ours else 2000
    if tiny:
        config.replicates = 100
    return config
