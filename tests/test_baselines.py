"""The command `lmindexer-baselines`: from a folder to a table and run files, or one clear line."""

import json
import sys

import ir_measures
import pytest
from ir_measures import RR, R, nDCG

from lmindexer_jax import baselines
from lmindexer_jax.errors import UserError

CORPUS = {"d1": "apples and pears", "d2": "bread with butter", "d3": "a pear tree", "d4": "cold water"}
QUERIES = {"q1": "pears", "q2": "butter bread", "q3": "water", "q4": "stone", "q5": "tree"}
JUDGED = ["test q1 d1 2", "test q1 d3 1", "test q2 d2 2", "test q3 d4 1", "test q4 d4 2", "train q5 d3 1"]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "task"
    folder.mkdir()
    for name, field, rows in (("corpus", "_id", CORPUS), ("queries", "_id", QUERIES)):
        lines = (json.dumps({field: key, "title": "", "text": text}) for key, text in rows.items())
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    (folder / "qrels.tsv").write_text("\n".join(["split query_id doc_id relevance", *JUDGED]).replace(" ", "\t"))
    return folder


def call(monkeypatch, tmp_path, *arguments):
    flags = ["baselines", *map(str, arguments), "--encoder=", "--console=json", f"--cache-dir={tmp_path / 'cache'}"]
    monkeypatch.setattr(sys, "argv", flags)
    baselines.main()


def test_table_and_run_files_agree(folder, tmp_path, monkeypatch, capsys):
    call(monkeypatch, tmp_path, folder, "--runs", tmp_path / "runs")
    (shown,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert shown["title"] == "test: 4 queries, 4 documents"
    judged = ir_measures.read_trec_qrels(str(tmp_path / "runs" / "qrels"))
    run = ir_measures.read_trec_run(str(tmp_path / "runs" / "bm25.run"))
    measures = {"recall@1": R @ 1, "recall@10": R @ 10, "ndcg@10": nDCG @ 10, "mrr@10": RR @ 10}
    wanted = ir_measures.calc_aggregate(list(measures.values()), judged, run)
    for name, measure in measures.items():
        assert shown["rows"][0][name] == pytest.approx(wanted[measure], abs=1e-9)
    assert 0 < shown["rows"][0]["recall@1"] < 1


def test_grades_made_binary_and_queries_without_an_answer_left_out(folder, tmp_path, monkeypatch, capsys):
    call(monkeypatch, tmp_path, folder, "--relevant-from", 2)
    *said, shown = map(json.loads, capsys.readouterr().out.splitlines())
    assert shown["title"] == "test: 3 queries, 4 documents"
    assert any("queries have no relevant document" in event["text"] for event in said)
    with pytest.raises(UserError, match="no query of split 'train' has a relevant document"):
        call(monkeypatch, tmp_path, folder, "--relevant-from", 2, "--split", "train")


def test_faults_are_said_aloud(folder, tmp_path, monkeypatch, capsys):
    with (folder / "qrels.tsv").open("a") as file:
        file.write("\ntest\tq5\td9\t1\ntest\tq5\td3\t1")
    call(monkeypatch, tmp_path, folder, "--drop")
    said = [event["text"] for event in map(json.loads, capsys.readouterr().out.splitlines()) if event["event"] == "warning"]
    assert len(said) == 3 and any("1 of 7 judgements name documents that the corpus does not hold" in text for text in said)
    with pytest.raises(UserError, match="no corpus holds document 'd9'"):
        call(monkeypatch, tmp_path, folder)


@pytest.mark.parametrize("where", ["corpus", "queries"])
def test_ids_that_no_run_file_can_hold_are_refused_before_the_search(folder, tmp_path, monkeypatch, where):
    name = {"corpus": "d4", "queries": "q3"}[where]
    for path in (folder / f"{where}.jsonl", folder / "qrels.tsv"):
        path.write_text(path.read_text().replace(name, " ".join(name)))
    call(monkeypatch, tmp_path, folder)
    monkeypatch.setattr(baselines, "Bm25", None)
    with pytest.raises(UserError, match="[dq] [34]' cannot stand in a TREC file"):
        call(monkeypatch, tmp_path, folder, "--runs", tmp_path / "runs")


@pytest.mark.parametrize("flags", [[], ["--corpus=a"], ["x", "--corpus=a", "--queries=b"], ["x", "--queries=b"]])
def test_a_folder_or_two_names(flags, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="give a folder, or both --corpus and --queries"):
        call(monkeypatch, tmp_path, *flags)
