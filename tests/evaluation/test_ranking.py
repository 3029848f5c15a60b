"""Ranking metrics: equal to trec_eval's by ir-measures, and ties equal to the mean over every order of the tie."""

import itertools

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, RR, R, Success, nDCG
from sklearn.metrics import ndcg_score

from lmindexer_jax.data.qrels import Qrels, make_qrels, one_each
from lmindexer_jax.evaluation import ranking

REFERENCE = {"hit": Success, "recall": R, "mrr": RR, "map": AP, "ndcg": nDCG}
CUTOFFS = (1, 3, 10)


def reference(ranked, qrels, cutoffs=CUTOFFS):
    """Per-query values of ir-measures (trec_eval)."""
    pairs = zip(qrels.query, qrels.rows, qrels.grades, strict=True)
    judged = [ir_measures.Qrel(str(q), str(row), int(grade)) for q, row, grade in pairs]
    run = [
        ir_measures.ScoredDoc(str(q), str(row), float(-place))
        for q, rows in enumerate(ranked)
        for place, row in enumerate(rows)
        if row >= 0
    ]
    names = {str(measure @ k): f"{name}@{k}" for name, measure in REFERENCE.items() for k in cutoffs}
    out = {name: np.zeros(len(qrels)) for name in names.values()}
    measures = [measure @ k for measure in REFERENCE.values() for k in cutoffs]
    for value in ir_measures.iter_calc(measures, judged, run):
        out[names[str(value.measure)]][int(value.query_id)] = value.value
    return out


def random_case(rng, queries=40, documents=30, depth=12, highest=3):
    """Rankings of different length, graded judgements, at least one relevant document per query."""
    ranked = np.stack([rng.permutation(documents)[:depth] for _ in range(queries)])
    ranked[np.arange(depth)[None, :] >= rng.integers(0, depth + 1, queries)[:, None]] = -1
    pairs = [(q, row) for q in range(queries) for row in rng.choice(documents, rng.integers(1, 9), replace=False)]
    query, rows = np.asarray(pairs).T
    grades = rng.integers(0, highest + 1, len(rows))
    grades[np.searchsorted(query, np.arange(queries))] = 1 + rng.integers(0, highest, queries)
    return ranked, make_qrels(query, rows, grades, queries=queries)


def test_every_metric_equals_trec_eval():
    for seed in range(5):
        ranked, qrels = random_case(np.random.default_rng(seed))
        found, wanted = ranking.evaluate(ranked, qrels, cutoffs=CUTOFFS), reference(ranked, qrels)
        assert found.keys() == wanted.keys()
        for name in wanted:
            np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=1e-9, err_msg=name)


def test_exponential_gain_equals_scikit_learn():
    rng = np.random.default_rng(0)
    documents = 20
    grades = rng.integers(0, 4, documents)
    grades[0] = 2
    ranked = rng.permutation(documents)[None]
    scores = np.zeros(documents)
    scores[ranked[0]] = -np.arange(documents)
    qrels = Qrels(np.array([0, documents]), np.arange(documents), grades)
    for gain, worth in ((ranking.Gain.LINEAR, grades), (ranking.Gain.EXPONENTIAL, 2**grades - 1)):
        found = ranking.evaluate(ranked, qrels, cutoffs=(5, documents), gain=gain)
        for k in (5, documents):
            assert found[f"ndcg@{k}"][0] == pytest.approx(ndcg_score([worth], [scores], k=k), abs=1e-12)


def over_all_orders(blocks, qrels, cutoffs):
    """The mean of ir-measures over every order within every tie."""
    orders = [list(itertools.chain(*order)) for order in itertools.product(*map(itertools.permutations, blocks))]
    many = qrels.take(np.zeros(len(orders), np.int64))
    values = reference(np.asarray(orders).reshape(len(orders), -1), many, cutoffs)
    return {name: value.mean() for name, value in values.items()}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_tie_is_the_mean_over_its_orders(data):
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    documents = sum(sizes) + 2
    rows = np.asarray(data.draw(st.permutations(range(documents))))
    blocks = np.split(rows[: sum(sizes)], np.cumsum(sizes)[:-1])
    groups = np.arange(documents) + len(blocks)
    for number, block in enumerate(blocks):
        groups[block] = number
    grades = np.asarray(data.draw(st.lists(st.integers(0, 3), min_size=documents, max_size=documents)))
    grades[data.draw(st.integers(0, documents - 1))] = 1
    qrels = Qrels(np.array([0, documents]), np.arange(documents), grades)
    wanted = over_all_orders(blocks, qrels, (1, 2, 4))
    # One document of each tie is enough, and it does not matter which; naming all of them changes nothing.
    for ranked in ([block[-1] for block in blocks], list(itertools.chain(*blocks))):
        found = ranking.evaluate(np.asarray([ranked]), qrels, cutoffs=(1, 2, 4), groups=groups)
        for name in wanted:
            assert found[name][0] == pytest.approx(wanted[name], abs=1e-9), name


def test_excluded_documents_leave_their_tie_but_stay_relevant():
    groups = np.array([0, 0, 0, 1])
    qrels = make_qrels([0, 1], [0, 1], [1, 1], queries=2)
    ranked = np.array([[2, 3], [2, 3]])
    gone = (np.array([1, 1, 1]), np.array([0, 1, 3]))  # document 1 for both queries, twice for the second
    found = ranking.evaluate(ranked, qrels, cutoffs=(1, 2), groups=groups, excluded=gone)
    assert found["recall@1"].tolist() == [0.5, 0.0] and found["recall@2"].tolist() == [1.0, 0.0]
    assert found["mrr@2"].tolist() == [0.75, 0.0] and found["hit@1"].tolist() == [0.5, 0.0]


def test_a_big_tie_is_a_small_chance():
    """1,000 documents behind one ID: naming it is worth what guessing among them is worth."""
    groups = np.zeros(1000, np.int64)
    found = ranking.evaluate(np.array([[7]]), one_each(np.array([123])), cutoffs=(10,), groups=groups)
    assert found["hit@10"][0] == pytest.approx(0.01, abs=1e-12)
    assert found["mrr@10"][0] == pytest.approx(sum(1 / np.arange(1, 11)) / 1000, abs=1e-12)
    found = ranking.evaluate_ids(np.array([[7]]), one_each(np.array([123])), cutoffs=(10,), groups=groups)
    assert found["hit@10"][0] == found["ndcg@10"][0] == 1.0


def test_ids_count_once_and_take_their_best_document():
    groups = np.array([0, 0, 1, 2])
    qrels = make_qrels([0, 0, 0], [0, 1, 3], [1, 3, 2], queries=1)
    found = ranking.evaluate_ids(np.array([[2, 0, 1, 3]]), qrels, cutoffs=(2,), groups=groups)
    assert found["recall@2"][0] == 0.5 and found["mrr@2"][0] == 0.5
    assert found["ndcg@2"][0] == pytest.approx((3 / np.log2(3)) / (3 + 2 / np.log2(3)))


def test_queries_without_relevant_documents_have_no_score():
    qrels = make_qrels([1], [5], [0], queries=3)
    scores = ranking.evaluate(np.array([[5], [5], [-1]]), qrels, cutoffs=(1,))
    assert all(np.isnan(values).all() for values in scores.values())
    assert all(np.isnan(value) for value in ranking.means(scores).values())
    scores = ranking.evaluate(np.array([[5], [5]]), make_qrels([1], [5], [2], queries=2), cutoffs=(1,))
    assert ranking.means(scores) == {f"{name}@1": 1.0 for name in REFERENCE}


def test_nothing_retrieved_is_zero():
    for ranked in (np.zeros((2, 0), np.int64), np.full((2, 3), -1)):
        scores = ranking.evaluate(ranked, one_each(np.array([0, 1])), cutoffs=(1, 5), groups=np.zeros(2, np.int64))
        assert all((values == 0).all() for values in scores.values())


def test_a_list_with_a_document_twice_is_refused():
    with pytest.raises(ValueError, match="query 1 ranks document 4 twice"):
        ranking.evaluate(np.array([[1, 2, 3], [4, 5, 4]]), one_each(np.array([1, 4])), cutoffs=(1,))
    with pytest.raises(ValueError, match="for 1 queries, judgements for 2"):
        ranking.evaluate(np.array([[1]]), one_each(np.array([1, 4])), cutoffs=(1,))


def test_slices_share_the_queries_out():
    counts = np.array([9, 1, 8, 0, 0])
    slices = ranking.head_and_tail(counts, head=0.4)
    assert slices["head"].tolist() == [True, False, True, False, False]
    qrels = one_each(np.array([0, 1, 2]))
    found = ranking.by_slice(np.array([[0], [0], [0]]), qrels, slices, cutoffs=(1,))
    np.testing.assert_array_equal(found["head"]["hit@1"], [1, np.nan, 0])
    np.testing.assert_array_equal(found["tail"]["hit@1"], [np.nan, 0, np.nan])
    slices = ranking.seen_and_unseen(np.array([3, 3]), 5)
    assert np.flatnonzero(slices["seen"]).tolist() == [3] and (slices["seen"] != slices["unseen"]).all()


def test_means_of_slices_stand_beside_those_of_all_queries():
    ranked, qrels = np.array([[0], [0], [2]]), one_each(np.array([0, 1, 2]))
    slices = ranking.head_and_tail(np.array([9, 1, 0]), head=1 / 3)
    found = ranking.means_by_slice("bm25", ranked, qrels, slices, cutoffs=(1,))
    assert {name: values["hit@1"] for name, values in found.items()} == {"bm25": 2 / 3, "bm25, head": 1.0, "bm25, tail": 0.5}
    none = ranking.seen_and_unseen(np.zeros(0, np.int64), 3)
    assert list(ranking.means_by_slice("bm25", ranked, qrels, none, cutoffs=(1,))) == ["bm25"]


def test_twenty_thousand_users_in_a_moment():
    """Vectorised: no Python per query; the values of the first users are those they have alone."""
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 9000, 12000)
    ranked = np.argsort(rng.random((20000, 60)), axis=1)[:, :20] * 200
    qrels = one_each(rng.integers(0, 60, 20000) * 200)
    scores = ranking.evaluate(ranked, qrels, cutoffs=(5, 10), groups=groups)
    alone = ranking.evaluate(ranked[:3], qrels.take(np.arange(3)), cutoffs=(5, 10), groups=groups)
    for name, values in alone.items():
        np.testing.assert_array_equal(scores[name][:3], values)
