"""What the first code says against the FLOPs that it took: the project's recipe in several lengths beside the published one.

    python benchmarks/recipe.py items.jsonl [--seed 0] [--workdir runs/recipe]

`items.jsonl` is Amazon Beauty, as for configs/beauty.py; the text is the published template, one position, K = 256. A run's FLOPs are
those of its plan, XLA's count of a step by its steps and for a pass over the corpus the forward third of an epoch, and a frozen
encoder's one pass. XLA takes the body of a loop once, so the published vocabulary head, a loop over chunks of words, is
undercounted. Of the published recipe the FLOPs alone are given, of that on a frozen encoder in few epochs (configs/bakeoff.py
has what it reaches) and of the undiminished one (30 epochs of the whole model). Runs that are finished are read, those that
were killed go on.
"""

import argparse
import json
import pathlib
import sys

import jax
import numpy as np

from lmindexer_jax.config import Config
from lmindexer_jax.console import Console, Mode
from lmindexer_jax.finished import is_finished
from lmindexer_jax.indexing.encode import make_encode
from lmindexer_jax.indexing.estimate import estimate
from lmindexer_jax.prepare import prepare
from lmindexer_jax.recipes import beauty, few_epochs, ours, published
from lmindexer_jax.run import execute, run_of

LENGTHS = ((0.1, 0.1), (0.5, 0.5), (1, 1), (1, 3), (2, 8))  # epochs without and with the codebook; the last is the recipe's own
QUIET = Console(Mode.QUIET)
ROWS = 32


def settings(recipe: Config, corpus: str, seed: int) -> Config:
    """One position of a recipe."""
    config = beauty(recipe, "b")
    config.corpus.path, config.seed, config.baseline = corpus, seed, False
    config.indexer.codebook_sizes = config.indexer.codebook_sizes[:1]
    config.recipe.distinct_last = False
    return config


def of_length(continuous: float, quantised: float) -> Config:
    """The project's recipe with so many epochs."""
    config = ours()
    config.recipe.first.continuous_epochs, config.recipe.first.quantised_epochs = continuous, quantised
    return config


def flops(config: Config, workdir: pathlib.Path) -> float:
    """Of a run, whether it was run or not."""
    prepared = prepare(config, workdir, console=QUIET)
    total = sum(stage.flops for stage in estimate(run_of(config, workdir, prepared, console=QUIET)))
    if prepared.inputs.encoded is not None:
        mean = int(np.ceil(prepared.store.lengths.mean()))
        tokens, mask = np.zeros((ROWS, mean), np.int32), np.ones((ROWS, mean), bool)
        encode = make_encode(prepared.functions).lower(prepared.params, tokens, mask)
        total += encode.cost_analysis()["flops"] / ROWS * len(prepared.corpus)
    return total


def measured(workdir: pathlib.Path) -> dict[str, float]:
    """What the first code of a finished run says."""
    summary = json.loads((workdir / "summary.json").read_text())
    ami = next(row["ami"] for row in summary["ami"] if (row["codes"], row["labels"]) == ("c1", "path"))
    return {"ami": ami, "bow_gain": summary["rows"][0]["bow_gain"], "perplexity": summary["rows"][0]["perplexity"]}


def main() -> None:
    """Run what is not finished, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", nargs="?", help="items.jsonl; without it there is nothing to measure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/recipe"))
    given = parser.parse_args()
    if given.corpus is None:
        print("benchmarks/recipe.py: give the items of Amazon Beauty, as for configs/beauty.py", file=sys.stderr)
        return
    rows = {}
    for number, (continuous, quantised) in enumerate(LENGTHS):
        config = settings(of_length(continuous, quantised), given.corpus, given.seed)
        workdir = given.workdir / f"{number}-{given.seed}"
        if not is_finished(workdir):
            execute(config, workdir, console=Console())
        rows[f"ours, {continuous} + {quantised} epochs"] = {"tflop": flops(config, workdir) / 1e12, **measured(workdir)}
    for name, recipe in {"few epochs": few_epochs(published()), "undiminished": published()}.items():
        config, workdir = settings(recipe, given.corpus, given.seed), given.workdir / f"{name.split()[0]}-{given.seed}"
        rows[f"published, {name}: not run"] = {"tflop": flops(config, workdir) / 1e12}
    print(json.dumps({"seed": given.seed, "jax": jax.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
