"""Differences over seeds and documents, on made values and made tables."""

import base64
import gzip
import json

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_ind

from lmindexer_jax.evaluation.comparison import compare, difference
from lmindexer_jax.evaluation.comparison_page import write_page
from lmindexer_jax.evaluation.significance import half_sampled
from lmindexer_jax.evaluation.table import Evidence, measured


def seeds(whole, noise):
    """(S, R+1): values of the whole corpus, then of halves that vary around them by `noise`."""
    whole = np.asarray(whole, float)[:, None]
    return np.concatenate([whole, whole + noise], axis=1)


def test_without_document_noise_it_is_the_test_of_welch():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, 4), rng.normal(1, 2, 5)
    theirs = ttest_ind(second, first, equal_var=False)
    found, low, high, p_value, _ = difference(seeds(first, np.zeros(200)), seeds(second, np.zeros(200)), units=500)
    assert found == pytest.approx(second.mean() - first.mean())
    assert p_value == pytest.approx(theirs.pvalue, rel=1e-9)
    interval = theirs.confidence_interval(0.95)
    assert (low, high) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_documents_alone_where_seeds_agree():
    noise = np.random.default_rng(0).normal(0, 0.1, 4000)
    first, second = seeds([0.0, 0.0], np.zeros(4000)), seeds([0.2, 0.2], noise)
    found, low, high, p_value, p_documents = difference(first, second, units=4000)
    assert found == pytest.approx(0.2) and (low, high) == pytest.approx((0.2 - 0.196, 0.2 + 0.196), abs=0.01)
    assert p_value == pytest.approx(p_documents, abs=0.01) and 0.02 < p_value < 0.08


def test_seeds_that_disagree_take_the_certainty_away():
    noise = np.random.default_rng(0).normal(0, 0.01, 500)
    steady = difference(seeds([0.0, 0.01], 0 * noise), seeds([0.3, 0.31], noise), units=500)
    shaky = difference(seeds([0.0, 0.2], 0 * noise), seeds([0.1, 0.51], noise), units=500)
    assert shaky[0] == pytest.approx(0.205) and steady[3] < 0.01 < 0.2 < shaky[3]
    assert shaky[4] < 0.01, "these very tables differ for certain"


def test_the_test_holds_its_level():
    """Two indexers that are alike, seeds and documents drawn anew: about one in twenty is found to differ."""
    rng, found = np.random.default_rng(0), []
    for _ in range(1500):
        documents = rng.normal(0, 1, 2)  # what the corpus does to either indexer, all seeds alike
        draws = rng.normal(0, 1, (2, 200))
        each = [seeds(documents[i] + rng.normal(0, 1.5, 3), draws[i]) for i in range(2)]
        found.append(difference(*each, units=200)[3] < 0.05)
    assert 0.02 < np.mean(found) < 0.075


def test_equal_indexers_do_not_differ():
    same = seeds([0.4, 0.4], np.zeros(50))
    found, low, high, p_value, p_documents = difference(same, same, units=50)
    assert found == low == high == 0 and p_value == p_documents == 1


def test_few_documents_are_few_degrees_of_freedom():
    rng = np.random.default_rng(0)
    scores = rng.normal(0.3, 1, 6)
    values = half_sampled(lambda rows: {"mean": scores[rows].mean(1)}, 6, replicates=5000, seed=0)["mean"][None, :]
    found, low, high, p_value, p_documents = difference(0 * values, values, units=6)
    theirs = ttest_1samp(scores, 0)
    assert p_value == p_documents == pytest.approx(theirs.pvalue, rel=0.05)
    assert high - low == pytest.approx(np.diff(theirs.confidence_interval())[0], rel=0.05)


@pytest.mark.parametrize("users", [1, 2, 5])
def test_few_users_prove_nothing_and_are_still_json(users):
    rng = np.random.default_rng(0)
    codes, items = rng.integers(0, 3, (2, 2, 40, 2)), rng.integers(0, 40, 6 * users)
    evidence = Evidence(interactions=(items, np.arange(0, len(items) + 1, 6)))
    cells = {name: [measured(table, evidence, replicates=20, seed=0) for table in tables] for name, tables in zip("ab", codes)}
    rows = [row for row in compare(cells, against="a") if row.measure == "co_occurrence.lift" and row.indexer == "b"]
    assert len(rows) == 2
    for row in rows:
        assert row.low is row.high is None and min(row.p_value, row.p_documents) >= 2.0 ** (1 - users)
        json.dumps(vars(row), allow_nan=False)


@pytest.fixture(scope="module")
def compared():
    rng = np.random.default_rng(0)
    topics = rng.integers(0, 4, 240)
    evidence = Evidence(labels=[topics])

    def tables(right):
        codes = [np.where(rng.random(240) < right, topics, rng.integers(0, 4, 240)) for _ in range(3)]
        return [measured(np.c_[c, rng.integers(0, 3, 240)], evidence, replicates=60, seed=0) for c in codes]

    return compare({"good": tables(0.9), "twin": tables(0.9), "random": tables(0.0)}, against="good")


def test_made_tables(compared):
    rows = {(row.indexer, row.codes, row.labels, row.measure): row for row in compared}
    good, twin, random = (rows[name, "c1", "path", "ami"] for name in ("good", "twin", "random"))
    assert good.difference is good.p_value is None and len(good.seeds) == 3 and good.spread > 0
    assert random.p_value < 0.01 and random.high < -0.5 and random.mean == pytest.approx(0, abs=0.03)
    assert twin.p_value > 0.05 and twin.low < 0 < twin.high
    assert all(3 < row.perplexity <= 4 for row in compared if row.codes == "c1"), "stated beside every measure"
    assert [row.indexer for row in compared[:3]] == ["good", "twin", "random"], "grouped by measure"


def test_an_indexer_with_fewer_positions_is_compared_where_it_can_be():
    one = np.random.default_rng(0).integers(0, 4, (50, 2))
    cells = {name: [measured(codes, Evidence(), replicates=5, seed=0)] for name, codes in (("two", one), ("one", one[:, :1]))}
    rows = compare(cells, against="one")
    assert {row.indexer for row in rows if row.codes == "c1..c2"} == {"two"}
    assert all((row.difference is None) == (row.indexer == "one" or row.codes == "c1..c2") for row in rows)
    assert all(row.spread is None for row in rows)


def test_the_page_holds_the_comparison_and_asks_nothing_of_the_network(compared, tmp_path):
    mean = {name: 0.5 for name in ("perplexity", "usage", "distinct_as_learned", "distinct_in_table", "minutes", "peak_memory_mb")}
    indexers = [{"name": name, "kind": "x", "codebook_sizes": [4, 3], "mean": mean, "cells": ["long"]} for name in ("good", "random")]
    result = {"corpus": "made", "documents": 240, "seeds": [0], "against": "good", "replicates": 60, "indexers": indexers}
    write_page(result | {"measures": [vars(row) for row in compared]}, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "") and "{{" not in page
    content = page.split('id="content">')[1].split("<")[0]
    held = json.loads(gzip.decompress(base64.b64decode(content)))
    assert held["measures"][0]["indexer"] == "good" and "cells" not in held["indexers"][0]
