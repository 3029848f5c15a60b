"""Each way of failing is named from made measurements, and from made codes and words; healthy runs are left in peace."""

import dataclasses
import re

import numpy as np
import pytest

from lmindexer_jax.config import Config
from lmindexer_jax.evaluation.agreement import repetition
from lmindexer_jax.evaluation.bow import bags, bow_gain, random_gain
from lmindexer_jax.evaluation.health import Measurements, Mode, diagnose, diagnose_table, measurements
from lmindexer_jax.evaluation.id_quality import collisions, usage

HEALTHY = Measurements(
    stage="position-1/assign",
    position=1,
    size=256,
    documents=12_000,
    perplexity=206.0,
    usage=1.0,
    largest_share=0.02,
    accuracy=0.21,
    shuffled_accuracy=0.06,
    macro_f1=0.012,
    shuffled_macro_f1=0.001,
    nats=5.9,
    shuffled_nats=7.4,
    own_bow_gain=0.9,
    random_bow_gain=-0.18,
)


def modes(**changes):
    return [finding.mode for finding in diagnose(dataclasses.replace(HEALTHY, **changes))]


DEAF = {"shuffled_accuracy": 0.21, "shuffled_macro_f1": 0.0118, "shuffled_nats": 5.905}
CONTINUOUS = {"perplexity": None, "usage": None, "largest_share": None, "own_bow_gain": None, "random_bow_gain": None}


def test_a_healthy_stage_has_no_findings():
    assert modes() == [] and modes(**CONTINUOUS) == []


def test_low_perplexity_is_posterior_collapse_however_well_texts_are_rebuilt():
    (finding,) = diagnose(dataclasses.replace(HEALTHY, perplexity=47.0))
    assert finding.mode == Mode.POSTERIOR and finding.stage == "position-1/assign"
    assert "47.0 of 256" in finding.evidence and "recipe.first.continuous_epochs" in finding.remedy


@pytest.mark.parametrize("change", [{"usage": 0.2}, {"largest_share": 0.6}, {"perplexity": 1.0, **DEAF}])
def test_other_signs_of_posterior_collapse(change):
    assert modes(**change) == [Mode.POSTERIOR]


def test_later_positions_get_their_own_remedy():
    (finding,) = diagnose(dataclasses.replace(HEALTHY, position=2, perplexity=9.0))
    assert "recipe.later.quantiser.choice" in finding.remedy


def test_informative_codes_that_nobody_hears_are_reconstructor_collapse():
    (finding,) = diagnose(dataclasses.replace(HEALTHY, **DEAF))
    assert finding.mode == Mode.RECONSTRUCTOR and "recipe.warm_up_epochs" in finding.remedy
    assert "1.080 nats" in finding.evidence and "shuffled" in finding.evidence


@pytest.mark.parametrize("heard", ["shuffled_accuracy", "shuffled_macro_f1", "shuffled_nats"])
def test_one_score_that_differs_is_listening(heard):
    deaf = {name: value for name, value in DEAF.items() if name != heard}
    assert modes(**deaf) == []


def test_a_continuous_stage_can_only_fail_by_its_reconstructor():
    assert modes(**CONTINUOUS, **DEAF) == [Mode.RECONSTRUCTOR]
    assert modes(**CONTINUOUS, unigram_nats=5.91) == [Mode.RECONSTRUCTOR]
    assert modes(**CONTINUOUS, unigram_nats=7.2) == []


def test_worse_than_word_frequencies_is_reconstructor_collapse_though_it_reacts_to_codes():
    (finding,) = diagnose(dataclasses.replace(HEALTHY, unigram_nats=5.8))
    assert finding.mode == Mode.RECONSTRUCTOR and "word frequencies alone need 5.8" in finding.evidence
    assert modes(unigram_nats=7.2) == []
    # In a sample of a quantised stage it cannot be told from codes that say nothing.
    assert modes(unigram_nats=5.8, own_bow_gain=None, random_bow_gain=None) == []


def test_codes_like_random_ones_are_meaningless_heard_or_not():
    assert modes(own_bow_gain=-0.17) == [Mode.MEANINGLESS]
    assert modes(own_bow_gain=-0.17, **DEAF) == [Mode.MEANINGLESS]
    # Fine codes gain without meaning: the control decides, not the sign.
    assert modes(own_bow_gain=0.4, random_bow_gain=0.38) == [Mode.MEANINGLESS]


def test_without_a_measurement_there_is_no_verdict():
    assert modes(own_bow_gain=None, **DEAF) == []
    assert diagnose(Measurements("warm-up", 1, 256, 12_000)) == []


def test_small_corpora_and_small_books_are_judged_by_what_they_can_reach():
    assert modes(size=5120, documents=300, usage=0.05, perplexity=200.0) == []
    assert modes(size=4, perplexity=3.4, largest_share=0.45) == []


def test_measurements_are_taken_by_name():
    row = {"perplexity": 10.0, "nats": 3.0, "loss": 1.0, "drift": [0.1]}
    seen = measurements(row, stage="s", position=2, size=16, documents=99)
    assert seen == Measurements("s", 2, 16, 99, perplexity=10.0, nats=3.0)


def judge(codes, halves, size, **scores):
    """Measure made codes as a run would."""
    found = dataclasses.asdict(usage(codes, (size,))[0])
    gains = {"own_bow_gain": bow_gain(codes, halves)[0], "random_bow_gain": random_gain(codes, halves)[0]}
    row = found | gains | scores
    return [f.mode for f in diagnose(measurements(row, stage="s", position=1, size=size, documents=len(codes)))]


def test_made_codes_and_words():
    rng = np.random.default_rng(0)
    topic = rng.integers(0, 16, (2000, 1))
    flat = (topic * 30 + rng.integers(0, 30, (2000, 12))).reshape(-1)
    halves = bags(flat, np.arange(2001) * 12, unlabelled=())
    heard, deaf = {"nats": 3.4, "shuffled_nats": 6.1}, {"nats": 6.1, "shuffled_nats": 6.1}
    assert judge(topic, halves, 16, **heard) == []
    assert judge(topic, halves, 16, **deaf) == [Mode.RECONSTRUCTOR]
    assert judge(topic // 8, halves, 16, **heard) == [Mode.POSTERIOR]
    assert judge(rng.permutation(topic), halves, 16, **heard) == [Mode.MEANINGLESS]


def table(codes, sizes, drift=()):
    found = collisions(codes)
    return diagnose_table(
        documents=len(codes),
        sizes=sizes,
        distinct_share=found.distinct_share,
        largest_group=found.largest_group,
        usage=tuple(position.usage for position in usage(codes, sizes)),
        repetition=tuple(repetition(codes)),
        drift=drift,
    )


def test_a_good_table_has_no_findings():
    grid = np.stack(np.meshgrid(np.arange(20), np.arange(20)), -1).reshape(-1, 2)
    assert table(grid, (20, 20), drift=(0.05,)) == []


def test_a_bad_table_is_told_all_of_it():
    first = np.arange(400) % 20
    findings = table(np.stack([first, first // 5], 1), (20, 20), drift=(0.3,))
    assert [f.mode for f in findings] == [Mode.COLLISIONS, Mode.DEAD, Mode.REPETITION, Mode.DRIFT]
    assert "position 2 uses 20%" in findings[1].evidence


def test_remedies_name_settings_that_exist():
    """A remedy that names a field which no longer exists sends people astray."""
    said = [diagnose(dataclasses.replace(HEALTHY, position=p, **c)) for p in (1, 2) for c in (DEAF, {"usage": 0.1}, {"own_bow_gain": -1})]
    bad = table(np.stack([np.arange(400) % 20, np.arange(400) % 20 // 5], 1), (20, 20), drift=(0.3,))
    names = {name for found in (*said, bad) for f in found for name in re.findall(r"(?:recipe|indexer)\.[\w.]*\w", f.remedy)}
    assert len(names) > 10
    for name in names:
        value = Config()
        for part in name.split("."):
            value = getattr(value, part)
