"""A whole table in one call: what it finds in made corpora, and two tables of one corpus."""

import dataclasses
import json

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score

from lmindexer_jax.evaluation.agreement import agreement, random_purity
from lmindexer_jax.evaluation.bow import bags, bow_gain
from lmindexer_jax.evaluation.id_quality import collisions, usage
from lmindexer_jax.evaluation.lift import co_occurrence
from lmindexer_jax.evaluation.table import Evidence, compare_tables, evaluate_table, measured

RNG = np.random.default_rng(0)
DOCUMENTS = 700
TOPIC, SUB = RNG.integers(0, 8, DOCUMENTS), RNG.integers(0, 4, DOCUMENTS)
WORDS = [f"{chr(97 + i)}{chr(97 + j)}" for i in range(26) for j in range(26)]
CHOSEN = np.stack([20 * topic + 5 * sub + RNG.integers(0, 5, 9) for topic, sub in zip(TOPIC, SUB)])
CHOSEN[:, 6:] = 20 * TOPIC[:, None] + RNG.integers(0, 20, (DOCUMENTS, 3))
ITEMS = np.concatenate([RNG.permutation(np.flatnonzero(TOPIC == RNG.integers(8)))[:6] for _ in range(400)])
EVIDENCE = Evidence(
    labels=[TOPIC, np.where(RNG.random(DOCUMENTS) < 0.1, -1, 4 * TOPIC + SUB)],
    words=bags(CHOSEN.reshape(-1), np.arange(0, 9 * DOCUMENTS + 1, 9), unlabelled=()),
    interactions=(ITEMS, np.arange(0, len(ITEMS) + 1, 6)),
).with_texts(" ".join(WORDS[word] for word in row) for row in CHOSEN)
GOOD = np.stack([TOPIC, SUB, RNG.integers(0, 8, DOCUMENTS)], 1).astype(np.int32)
RANDOM = RNG.integers(0, 8, (DOCUMENTS, 3)).astype(np.int32)
SIZES = (8, 8, 8)


@pytest.fixture(scope="module")
def good():
    return evaluate_table(GOOD, SIZES, EVIDENCE, replicates=60)


def row(measures, codes, labels=None):
    kind = "prefixes" if labels is None else "agreement"
    return next(row for row in measures[kind] if row["codes"] == codes and row.get("labels") == labels)


def test_numbers_are_those_of_the_functions_alone(good):
    assert json.loads(json.dumps(good)) == good
    assert row(good, "c1", "path")["documents"] == DOCUMENTS and row(good, "c1..c2", "depth 2")["documents"] < DOCUMENTS
    found = row(good, "c1", "depth 1")
    assert {name: found[name] for name in ("ami", "nmi", "purity", "random_purity")} == pytest.approx(
        {name: getattr(agreement(TOPIC, TOPIC), name) for name in ("ami", "nmi", "purity", "random_purity")}
    )
    known = EVIDENCE.labels[1] >= 0
    two = row(good, "c1..c2", "depth 2")["ami"]
    assert two == pytest.approx(adjusted_mutual_info_score(EVIDENCE.labels[1][known], (8 * GOOD[:, 0] + GOOD[:, 1])[known]), abs=1e-9)
    gains = bow_gain(GOOD, EVIDENCE.words)
    assert [each["bow_gain"] for each in good["prefixes"]] == pytest.approx(gains.tolist(), abs=1e-12)
    lifted = dataclasses.asdict(co_occurrence(TOPIC, *EVIDENCE.interactions))
    assert row(good, "c1")["co_occurrence"] == pytest.approx(lifted)
    assert good["positions"][1] | dataclasses.asdict(usage(GOOD, SIZES)[1]) == good["positions"][1]
    assert good["collisions"] == dataclasses.asdict(collisions(GOOD)) and len(good["repetition"]) == 2


def test_a_good_table_is_good(good):
    first = row(good, "c1")
    assert row(good, "c1", "depth 1")["ami"] == pytest.approx(1)
    assert first["neighbours"]["agreement"] > 0.9 and first["co_occurrence"]["lift"] > 5
    assert row(good, "c1..c2")["neighbours"]["share"] < first["neighbours"]["share"]
    assert row(good, "c1..c2")["neighbours"]["share"] > 4 * row(good, "c1..c2")["neighbours"]["chance"]


def test_random_codes_are_worth_nothing():
    found = evaluate_table(RANDOM, SIZES, EVIDENCE, replicates=60)
    assert row(found, "c1", "path")["ami"] == pytest.approx(0, abs=0.02)
    assert row(found, "c1", "path")["purity"] == pytest.approx(row(found, "c1", "path")["random_purity"], abs=0.03)
    first = row(found, "c1")
    assert first["neighbours"]["agreement"] == pytest.approx(0, abs=0.03)
    assert first["co_occurrence"]["lift"] == pytest.approx(1, abs=0.15)
    assert first["bow_gain"] == pytest.approx(first["random_bow_gain"], abs=0.05)
    low, high = first["intervals"]["neighbours"]["agreement"]
    assert low < 0.01 and high > -0.01
    over = row(found, "c1", "path")["over_reference"]["ami"]
    assert over < -0.3, "plain words do much better at the same perplexity"


def test_unequal_perplexity_is_no_merit_once_the_reference_is_taken_off():
    coarse, fine = (EVIDENCE.reference.at(wanted)[:, None] for wanted in (8.0, 60.0))
    found = compare_tables(coarse, fine, EVIDENCE, sizes=((200,), (200,)), replicates=40)
    rows = {(each["measure"], each["labels"]): each for each in found["differences"]}
    assert abs(rows["ami", "depth 1"]["difference"]) > 0.1 and rows["ami", "depth 1"]["p_value"] < 0.05
    assert rows["over_reference.ami", "depth 1"]["difference"] == 0 and rows["over_reference.ami", "depth 1"]["p_value"] == 1
    assert rows["over_reference.bow_gain", ""]["difference"] == 0


def test_the_same_table_twice_shows_no_difference(good):
    names = RNG.permutation(8)
    found = compare_tables(GOOD, np.stack([names[GOOD[:, 0]], *GOOD[:, 1:].T], 1), EVIDENCE, sizes=(SIZES, SIZES), replicates=60)
    assert found["first"] == good, "alone or in company"
    assert len(found["differences"]) > 20
    for each in found["differences"]:
        assert each["difference"] == pytest.approx(0, abs=1e-12) and each["p_value"] == 1, each


def test_a_better_table_is_told_from_a_worse_one():
    worse = GOOD.copy()
    moved = RNG.random(DOCUMENTS) < 0.1
    worse[moved, 0] = RNG.integers(0, 8, moved.sum())
    found = compare_tables(worse, GOOD, EVIDENCE, sizes=(SIZES, SIZES), replicates=200)
    rows = {(each["codes"], each["labels"], each["measure"]): each for each in found["differences"]}
    for key in (("c1", "path", "ami"), ("c1", "", "bow_gain"), ("c1", "", "neighbours.agreement"), ("c1", "", "co_occurrence.lift")):
        assert rows[key]["p_value"] < 0.02 and 0 < rows[key]["low"] < rows[key]["difference"] < rows[key]["high"], key
    # Two equally bad tables are not: what random codes lack in common is noise.
    other = RNG.integers(0, 8, (DOCUMENTS, 3))
    found = compare_tables(RANDOM, other, EVIDENCE, sizes=(SIZES, SIZES), replicates=200)
    rows = {(each["codes"], each["labels"], each["measure"]): each for each in found["differences"]}
    assert rows["c1", "path", "ami"]["p_value"] > 0.01 and rows["c1", "", "neighbours.agreement"]["p_value"] > 0.01


def test_p_values_of_equally_good_tables_are_even():
    # Both follow the topic in a random half of the documents: differences are luck, so a fifth of p-values is below 0.2.
    below = 0
    only_labels = Evidence(labels=[TOPIC])
    for seed in range(60):
        rng = np.random.default_rng(seed)
        pair = [np.where(rng.random(DOCUMENTS) < 0.5, TOPIC, rng.integers(0, 8, DOCUMENTS))[:, None] for _ in range(2)]
        found = compare_tables(*pair, only_labels, sizes=((8,), (8,)), replicates=60, seed=seed)
        below += next(each["p_value"] for each in found["differences"] if each["measure"] == "ami") < 0.2
    assert 3 <= below <= 22


def test_without_evidence_there_are_still_the_codes():
    found = evaluate_table(GOOD, SIZES, Evidence())
    assert found["agreement"] == [] and "intervals" not in found["prefixes"][0]
    assert set(found["prefixes"][0]) == {"codes", "length", "distinct", "perplexity", "entropy"}


def test_units_are_documents_those_with_a_label_queries_or_users():
    rows = {(row.codes, row.labels): row for row in measured(GOOD, EVIDENCE, replicates=2, seed=0)}
    first, second = rows["c1", ""], rows["c1..c2", "depth 2"]
    assert first.units_of("bow_gain") == first.units_of("over_reference.bow_gain") == first.units_of("entropy") == DOCUMENTS
    assert first.units_of("neighbours.agreement") == DOCUMENTS and first.units_of("co_occurrence.lift") == 400
    assert second.units_of("ami") == second.facts["documents"] < DOCUMENTS


def test_five_documents_give_no_interval():
    few = evaluate_table(GOOD[:5], SIZES, Evidence(labels=[np.arange(5) % 2]), replicates=20)
    assert not any("intervals" in each for each in few["prefixes"] + few["agreement"])


def test_purity_of_chance_is_what_dealt_labels_reach():
    deals = [agreement(RANDOM[:, 0], RNG.permutation(TOPIC)).purity for _ in range(40)]
    assert random_purity(RANDOM[:, 0], TOPIC) == pytest.approx(np.mean(deals), abs=0.01)
