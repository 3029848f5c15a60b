"""TREC's files: what is written is read again, by ours and by ir-measures."""

import urllib.parse

import ir_measures
import numpy as np
import pytest

from lmindexer_jax.data import trec
from lmindexer_jax.data.qrels import make_qrels
from lmindexer_jax.errors import UserError
from lmindexer_jax.evaluation import ranking

QUERIES, DOCUMENTS = ["q1", "q2", "q3"], ["d0", "d1", "d2", "d3"]
ROWS = np.array([[3, 1, 0], [2, -1, -1], [-1, -1, -1]])
SCORES = np.array([[2.5, 0.1, 0.1], [-7.0, -np.inf, -np.inf], [-np.inf] * 3], np.float32)
NAMES = {"queries": QUERIES, "documents": DOCUMENTS}


def test_a_run_comes_back(tmp_path):
    trec.write_run(tmp_path / "run", ROWS, SCORES, tag="ours", **NAMES)
    assert (tmp_path / "run").read_text().splitlines()[0] == "q1 Q0 d3 1 2.5 ours"
    rows, scores = trec.read_run(tmp_path / "run", **NAMES)
    np.testing.assert_array_equal(rows, ROWS)
    np.testing.assert_array_equal(scores.astype(np.float32), SCORES)


def test_other_tools_read_them(tmp_path):
    qrels = make_qrels([0, 0, 1], [1, 0, 3], [2, 1, 1], queries=3)
    scores = SCORES - np.arange(3, dtype=np.float32)  # no ties, which trec_eval orders by name
    trec.write_run(tmp_path / "run", ROWS, scores, tag="ours", **NAMES)
    trec.write_qrels(tmp_path / "qrels", qrels, **NAMES)
    measure = ir_measures.nDCG @ 10
    judged, run = ir_measures.read_trec_qrels(str(tmp_path / "qrels")), ir_measures.read_trec_run(str(tmp_path / "run"))
    wanted = {value.query_id: value.value for value in ir_measures.iter_calc([measure], judged, run)}
    again = trec.read_qrels(tmp_path / "qrels", **NAMES)
    found = ranking.evaluate(trec.read_run(tmp_path / "run", **NAMES)[0], again, cutoffs=(10,))["ndcg@10"]
    assert found[0] == pytest.approx(wanted["q1"], abs=1e-9) and found[1] == wanted["q2"] == 0 and np.isnan(found[2])


def test_a_run_is_ordered_by_score(tmp_path):
    (tmp_path / "run").write_text("q1\tQ0 d0 1 0.5 x\nq1 Q0 d1 2 1e1 x\nq1 Q0 d2 3 0.5 x\n")
    rows, scores = trec.read_run(tmp_path / "run", **NAMES)
    assert rows[0].tolist() == [1, 0, 2] and scores[0].tolist() == [10, 0.5, 0.5] and (rows[1:] == -1).all()


def test_negative_grades_are_junk(tmp_path):
    (tmp_path / "qrels").write_text("q1 0 d0 -2\nq1 0 d1 3\n")
    assert trec.read_qrels(tmp_path / "qrels", **NAMES).grades.tolist() == [0, 3]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1 Q0 d0 1 0.5", "run:2: 5 fields; write `query Q0 document rank score tag`"),
        ("q9 Q0 d0 1 0.5 x", "run:2: unknown query 'q9'"),
        ("q1 Q0 d9 1 0.5 x", "run:2: unknown document 'd9'"),
        ("q1 Q0 d3 1 0.5 x", "run:2: document 'd3' stands twice under query 'q1'"),
        ("q1 Q0 d0 1 high x", "run:2: score 'high' is no number"),
        ("q1 Q0 d0 1 nan x", "run:2: score 'nan' is no number"),
    ],
)
def test_an_unfit_line_of_a_run_is_named(tmp_path, line, message):
    (tmp_path / "run").write_text(f"q1 Q0 d3 1 2.5 x\n{line}\n")
    with pytest.raises(UserError, match=message):
        trec.read_run(tmp_path / "run", **NAMES)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1 0 d0", "qrels:2: 3 fields"),
        ("q1 0 d0 1.5", "qrels:2: grade '1.5' is no whole number"),
        ("q1 0 d0 --1", "qrels:2: grade '--1'"),
        ("q1 0 d3 0", "qrels:2: document 'd3' is judged twice for query 'q1'"),
        ("q1 0 d9 1", "qrels:2: unknown document 'd9'"),
    ],
)
def test_an_unfit_judgement_is_named(tmp_path, line, message):
    (tmp_path / "qrels").write_text(f"q1 0 d3 1\n{line}\n")
    with pytest.raises(UserError, match=message):
        trec.read_qrels(tmp_path / "qrels", **NAMES)


def test_white_space_in_ids_can_be_written(tmp_path):
    plain, spaced = ["d%20", "d", "50%"], ["d%20", "d ", "d\u2003\t1"]
    assert trec.escaped(plain) == plain
    written = trec.escaped(spaced)
    assert written == ["d%2520", "d%20", "d%E2%80%83%091"] and list(map(urllib.parse.unquote, written)) == spaced
    trec.check_names(written)
    trec.write_run(tmp_path / "run", ROWS[:2, :1] - 1, SCORES[:2, :1], queries=["a", "b"], documents=written, tag="ours")
    assert [each.doc_id for each in ir_measures.read_trec_run(str(tmp_path / "run"))] == [written[2], written[1]]
    for names in (spaced, ["d", ""]):
        with pytest.raises(UserError, match="cannot stand in a TREC file"):
            trec.check_names(names)


def test_what_tools_would_misread_is_not_written(tmp_path):
    with pytest.raises(UserError, match="'a b' cannot stand in a TREC file"):
        trec.write_run(tmp_path / "run", ROWS, SCORES, tag="x", queries=["a b", "q2", "q3"], documents=DOCUMENTS)
    for scores in (SCORES[:, ::-1], np.where(SCORES == 2.5, np.nan, SCORES)):
        with pytest.raises(ValueError, match="scores must"):
            trec.write_run(tmp_path / "run", ROWS, scores, tag="x", **NAMES)
    with pytest.raises(ValueError, match="must fall"):
        trec.write_run(tmp_path / "run", ROWS[:1], np.array([[0.1, 0.2, 0.0]]), tag="x", queries=["q"], documents=DOCUMENTS)
    assert not (tmp_path / "run").exists()
