"""The command that measures runs: what it prints and writes, and what it refuses."""

import json
import sys

import numpy as np
import pytest
import runs
from finished import finish, places

from lmindexer_jax import evaluate as command
from lmindexer_jax.console import Console, Mode
from lmindexer_jax.errors import UserError
from lmindexer_jax.evaluate import evaluate
from lmindexer_jax.finished import open_finished
from lmindexer_jax.indexing import id_lines


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("evaluate")
    corpus = finish(home / "good", runs.write_corpus(home / "corpus.jsonl", documents=150), home / "cache")
    codes = np.random.default_rng(0).integers(0, (4, 3, 8), (150, 3))
    finish(home / "random", home / "corpus.jsonl", home / "cache", codes=codes)
    finish(home / "other", runs.write_corpus(home / "other.jsonl", documents=90), home / "cache")
    topics = places(corpus)[:, 0]
    rng, ids = np.random.default_rng(0), corpus.ids().to_pylist()
    users = (rng.permutation(np.flatnonzero(topics == rng.integers(4)))[:5] for _ in range(50))
    lines = [f"u{number}\t" + " ".join(ids[item] for item in items) for number, items in enumerate(users)]
    (home / "users.tsv").write_text("\n".join(lines) + "\n")
    return home


def call(monkeypatch, capsys, *flags):
    """Exit code, standard output and standard error of the command."""
    monkeypatch.setattr(sys, "argv", ["lmindexer-evaluate", *map(str, flags)])
    with pytest.raises(SystemExit) as end:
        command.run()
    said = capsys.readouterr()
    return end.value.code, said.out, said.err


def test_one_run(home, monkeypatch, capsys):
    out = home / "results" / "good.json"
    flags = ["--workdir", home / "good", "-o", out, "--replicates", 30, "--interactions", home / "users.tsv", "--console", "plain"]
    code, said, _ = call(monkeypatch, capsys, *flags)
    assert code == 0 and "150 documents" in said
    measures = json.loads(out.read_text())
    assert measures["workdir"] == str(home / "good") and measures["replicates"] == 30
    rows = {(row["codes"], row["labels"]): row for row in measures["agreement"]}
    assert rows["c1", "depth 1"]["ami"] == pytest.approx(1) and rows["c1..c2", "depth 2"]["ami"] == pytest.approx(1)
    assert measures["prefixes"][0]["co_occurrence"]["lift"] > 2 and measures["prefixes"][0]["bow_gain"] > 0.1
    for title in ("positions", "prefixes", "agreement with the categories"):
        assert title in said
    assert "co occurrence lift" in said and "ami over reference" in said


def test_two_runs_side_by_side(home, monkeypatch, capsys):
    out = home / "both.json"
    flags = ["--workdir", home / "random", "--against", home / "good", "-o", out, "--replicates", 60, "--console", "plain"]
    code, said, _ = call(monkeypatch, capsys, *flags)
    found = json.loads(out.read_text())
    rows = {(row["codes"], row["labels"], row["measure"]): row for row in found["differences"]}
    ami = rows["c1", "depth 1", "ami"]
    assert code == 0 and "second less first" in said and "p_value" in said
    assert ami["p_value"] == pytest.approx(1 / 61) and ami["low"] > 0.5 and ami["second"] == pytest.approx(1)
    assert found["first"]["agreement"][0]["ami"] == pytest.approx(0, abs=0.1)
    back = evaluate(home / "good", home / "random", replicates=60, console=Console(Mode.QUIET))
    assert [row["difference"] for row in back["differences"]] == pytest.approx([-row["difference"] for row in found["differences"]])


def test_ids_from_anywhere_are_compared_by_their_lines(home, tmp_path):
    run = open_finished(home / "random")
    id_lines.write(tmp_path / "ids.jsonl", run.table, run.corpus().ids().to_pylist()[::-1])
    by_line = evaluate(home / "good", tmp_path / "ids.jsonl", replicates=20, console=Console(Mode.QUIET))
    by_run = evaluate(home / "good", home / "random", replicates=20, console=Console(Mode.QUIET))
    assert by_line["differences"] == by_run["differences"]


def test_runs_of_different_corpora_are_refused_in_one_line(home, monkeypatch, capsys):
    code, said, error = call(monkeypatch, capsys, "--workdir", home / "good", "--against", home / "other")
    assert code == 2 and said == "" and error.count("\n") == 1 and "different corpora" in error


def test_a_workdir_without_a_table_is_one_line(home, monkeypatch, capsys):
    code, _, error = call(monkeypatch, capsys, "--workdir", home / "nothing")
    assert code == 2 and error.count("\n") == 1 and "let the run finish first" in error
    code, _, error = call(monkeypatch, capsys, "--workdir", home / "good", "--replicates", 1)
    assert code == 2 and "at least 2" in error


def test_a_wrong_seed_or_output_is_one_line_before_the_work(home, monkeypatch, capsys):
    (home / "file").touch()
    for flag, value, words in (
        ("--seed", -1, "--seed -1: give 0 or more"),
        ("-o", home, "a folder; give a file by -o"),
        ("-o", home / "file" / "new" / "out.json", "file is no folder to write to"),
    ):
        code, said, error = call(monkeypatch, capsys, "--workdir", home / "good", flag, value)
        assert code == 2 and said == "" and error.count("\n") == 1 and words in error


def test_a_changed_corpus_is_refused(home, tmp_path):
    path = runs.write_corpus(tmp_path / "corpus.jsonl", documents=40)
    finish(tmp_path / "run", path, tmp_path / "cache")
    runs.write_corpus(path, documents=41)
    with pytest.raises(UserError, match="has changed since the run"):
        open_finished(tmp_path / "run").corpus()


def test_documents_added_later_do_not_count(home, tmp_path):
    corpus = finish(tmp_path / "run", home / "corpus.jsonl", home / "cache")
    table = open_finished(tmp_path / "run").table
    table.append(["new"], np.array([[3, 2, 1]])).save(tmp_path / "run" / "ids")
    measures = evaluate(tmp_path / "run", replicates=5, console=Console(Mode.QUIET))
    assert measures["documents"] == len(corpus) == 150
