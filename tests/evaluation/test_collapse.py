"""The three collapses, each provoked by its ablation in a whole small run, and named by the detector at its stage.

The published recipe, on the documents and with the settings of the runs that lack progression or warm-up, is found
healthy. On the documents of the run without reconstruction no healthy recipe is shown yet.
"""

import json
import pathlib

import pytest
import runs

from lmindexer_jax.config import Config, Precision
from lmindexer_jax.console import Console, Mode as Speech
from lmindexer_jax.evaluation.health import Mode
from lmindexer_jax.flags import load
from lmindexer_jax.models.reconstructor import HeadScale
from lmindexer_jax.run import execute

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def findings(config: Config, home: pathlib.Path, name: str, **corpus) -> dict[str, list[str]]:
    """Learn the first position and return what was found, by stage."""
    config.precision = Precision.FLOAT32
    config.baseline = False
    config.corpus.path = str(runs.write_topics(home / f"{name}.jsonl", **corpus))
    config.corpus.cache_dir = str(home / "cache")
    config.corpus.max_documents = 0
    execute(config, home / name, console=Console(Speech.QUIET))
    found: dict[str, list[str]] = {}
    for line in (home / name / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row.get("event") == "stage":
            found.setdefault(row["stage"], [])
            print(name, {key: value for key, value in row.items() if isinstance(value, float | str)})
        elif row.get("event") == "finding":
            found.setdefault(row["stage"], []).append(row["mode"])
            print(name, row["mode"], row["evidence"])
    return found


def published(name: str, home: pathlib.Path) -> dict[str, list[str]]:
    """Four topics of twelve words; what the tiny recipe has of each kind of epoch is multiplied."""
    config = load(CONFIGS / f"{name}.py", "tiny")
    config.language_model.max_length, config.language_model.vocabulary = 16, 512
    config.indexer.codebook_sizes = (16,)
    config.indexer.reconstructor.head_scale = HeadScale.T5  # a random embedding's logits begin at a sensible size
    config.recipe.warm_up_epochs *= 12
    config.recipe.warm_up_rate = 1e-2
    first = config.recipe.first
    first.continuous_epochs *= 2
    first.quantised_epochs *= 4
    first.batch_size = 16
    first.continuous_rate = first.quantised_rate = 3e-3
    return findings(config, home, pathlib.Path(name).name, documents=160, topics=4, words=12, length=8)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("collapse")


@pytest.mark.slow
def test_without_reconstruction_codes_are_meaningless(home):
    """Four words of the topic among twelve that say nothing: contrast alone has no reason to tell which are which."""
    config = load(CONFIGS / "ablations/no_reconstruction.py", "tiny")
    config.language_model.max_length, config.language_model.vocabulary = 24, 6000
    config.indexer.reconstructor.head_scale = HeadScale.T5
    config.indexer.codebook_sizes = (16,)
    first = config.recipe.first
    first.continuous_epochs = first.quantised_epochs = 4
    first.continuous_rate = first.quantised_rate = 3e-3
    corpus = {"documents": 400, "topics": 4, "words": 48, "length": 4, "noise": 12, "pool": 3000}
    assert findings(config, home, "no_reconstruction", **corpus)["position-1/assign"] == [Mode.MEANINGLESS]


@pytest.mark.slow
def test_without_progression_the_posterior_collapses(home):
    found = published("ablations/no_progression", home)
    assert found["position-1/quantised"] == found["position-1/assign"] == [Mode.POSTERIOR]


@pytest.mark.slow
def test_without_warm_up_the_reconstructor_collapses(home):
    found = published("ablations/no_warm_up", home)
    assert found["position-1/assign"] == [Mode.RECONSTRUCTOR]


@pytest.mark.slow
def test_the_published_recipe_is_healthy(home):
    assert not any(published("published", home).values())
