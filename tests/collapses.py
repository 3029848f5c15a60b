"""The three collapses, each provoked by its ablation, and the published recipe beside them: small whole runs of one position.

Two of them and the published recipe learn from four topics of twelve words. Codes are found meaningless where a text's topic
is not what differs most between texts: four of sixteen words.
"""

import json
import pathlib

import runs

from lmindexer_jax.config import Config, Precision
from lmindexer_jax.console import Console, Mode as Speech
from lmindexer_jax.flags import load
from lmindexer_jax.models.reconstructor import HeadScale
from lmindexer_jax.run import execute

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
TOPICS = {"documents": 160, "topics": 4, "words": 12, "length": 8}
NOISE = {"documents": 400, "topics": 4, "words": 48, "length": 4, "noise": 12, "pool": 3000}
RUNS = {
    "published": TOPICS,
    "ablations/no_progression": TOPICS,
    "ablations/no_warm_up": TOPICS,
    "ablations/no_reconstruction": NOISE,
}


def settings(name: str) -> Config:
    """The tiny variant of a config with the epochs multiplied and the rates raised that the made corpus asks for."""
    config = load(CONFIGS / f"{name}.py", "tiny")
    config.precision, config.baseline = Precision.FLOAT32, False
    config.corpus.max_documents = 0
    config.indexer.codebook_sizes = (16,)
    config.indexer.reconstructor.head_scale = HeadScale.T5  # a random embedding's logits begin at a sensible size
    first = config.recipe.first
    first.continuous_rate = first.quantised_rate = 3e-3
    if RUNS[name] is NOISE:
        config.language_model.max_length, config.language_model.vocabulary = 24, 6000
        first.continuous_epochs = first.quantised_epochs = 4
        return config
    config.language_model.max_length, config.language_model.vocabulary = 16, 512
    config.recipe.warm_up_epochs *= 12
    config.recipe.warm_up_rate = 1e-2
    first.continuous_epochs *= 2
    first.quantised_epochs *= 4
    first.batch_size = 16
    return config


def run(name: str, home: pathlib.Path) -> dict[str, dict]:
    """Learn the position; what was measured at the end of each stage, and the modes that were `found` there."""
    config, workdir = settings(name), home / pathlib.Path(name).name
    config.corpus.path = str(runs.write_topics(workdir.with_suffix(".jsonl"), **RUNS[name]))
    config.corpus.cache_dir = str(home / "cache")
    execute(config, workdir, console=Console(Speech.QUIET))
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    stages = {row["stage"]: row | {"found": []} for row in rows if row.get("event") == "stage"}
    for row in rows:
        if row.get("event") == "finding":
            stages[row["stage"]]["found"].append(row["mode"])
    return stages
