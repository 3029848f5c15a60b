"""The three collapses, each provoked by its ablation in a whole small run, and named by the detector at its stage.

The published recipe, on the documents and with the settings of the runs that lack progression or warm-up, is found
healthy. On the documents of the run without reconstruction no healthy recipe is shown yet.
"""

import collapses
import pytest

from lmindexer_jax.evaluation.health import Mode


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("collapse")


def found(name, home):
    """The modes found at every stage that was judged."""
    stages = collapses.run(name, home)
    print({stage: {key: value for key, value in row.items() if isinstance(value, float)} for stage, row in stages.items()})
    return {stage: row["found"] for stage, row in stages.items()}


@pytest.mark.slow
def test_without_reconstruction_codes_are_meaningless(home):
    """Four words of the topic among twelve that say nothing: contrast alone has no reason to tell which are which."""
    assert found("ablations/no_reconstruction", home)["position-1/assign"] == [Mode.MEANINGLESS]


@pytest.mark.slow
def test_without_progression_the_posterior_collapses(home):
    seen = found("ablations/no_progression", home)
    assert seen["position-1/quantised"] == seen["position-1/assign"] == [Mode.POSTERIOR]


@pytest.mark.slow
def test_without_warm_up_the_reconstructor_collapses(home):
    assert found("ablations/no_warm_up", home)["position-1/assign"] == [Mode.RECONSTRUCTOR]


@pytest.mark.slow
def test_the_published_recipe_is_healthy(home):
    assert not any(found("published", home).values())
