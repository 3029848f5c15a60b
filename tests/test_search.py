"""From a finished run to answers: a retriever learns, resumes to the bit, and finds documents that came later."""

import json
import shutil
import sys

import jax
import numpy as np
import pytest
import retrievers
import runs

from lmindexer_jax import finetune
from lmindexer_jax import search as command
from lmindexer_jax.compare import compare
from lmindexer_jax.console import Console, Mode
from lmindexer_jax.data import trec
from lmindexer_jax.data.documents import CorpusConfig, OnBad
from lmindexer_jax.data.qrels import one_each
from lmindexer_jax.data.relevance import RelevanceConfig
from lmindexer_jax.errors import UserError
from lmindexer_jax.evaluation.ranking import USUAL
from lmindexer_jax.finetune import execute
from lmindexer_jax.index import index, keep
from lmindexer_jax.indexing import id_table
from lmindexer_jax.retrieval.finetune import FinetuneConfig
from lmindexer_jax.retrieval.query_pairs import Held
from lmindexer_jax.retrieval.searcher import Searcher
from lmindexer_jax.retrieval.temper import LEAST, MOST, TEMPERATURE
from lmindexer_jax.run import execute as learn
from lmindexer_jax.training.checkpoint import load_tree

CONFIG = FinetuneConfig(epochs=30, batch_size=32, max_length=16, language_model=1.0)
QUIET = Console(Mode.QUIET)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("search")
    runs.write_corpus(home / "corpus.jsonl", documents=60)
    config = runs.ours(home / "corpus.jsonl", home / "cache")
    config.checkpoint_seconds = 0.5
    learn(config, home / "run", console=QUIET)
    shutil.copytree(home / "run", home / "untouched")
    return home


@pytest.fixture(scope="module")
def summary(home):
    return execute(home / "run", config=CONFIG, runs=home / "found", console=QUIET)


@pytest.mark.slow
def test_it_learns_and_never_returns_a_document_twice(home, summary):
    assert summary["queries"] == {"held-out pseudo-queries": 6}
    assert summary["held_out"]["held-out pseudo-queries"]["retriever"]["recall@10"] >= 0.5, "chance is 10 in 60"
    searcher = Searcher.load(home / "run")
    texts = searcher.corpus.texts(range(60))
    found = searcher.search(texts, k=25)
    names = [[hit.document for hit in hits] for hits in found]
    assert all(len(set(row)) == len(row) == 25 for row in names)
    assert set(sum(names, [])) <= set(searcher.table.ids.to_pylist())
    near = searcher.by_vectors(60).search(texts[:5], k=60)
    for row, scores, hits in zip(near.rows, near.scores, found):
        cosines = dict(zip(searcher.table.ids.take(row).to_pylist(), scores.tolist()))
        assert all(abs(hit.similarity - cosines[hit.document]) < 1e-3 for hit in hits), "without IDs the same cosines, of all"
    first = [row[0] for row in names]
    assert np.mean([a == b for a, b in zip(first, searcher.table.ids.to_pylist())]) > 0.5, "chance is 1 in 60"
    assert all(hit.full_id == searcher.table.id_of(hit.document) for hit in found[0])
    alone = searcher.search(texts[:1], k=25)[0]
    np.testing.assert_allclose([hit.log_prob for hit in alone], [hit.log_prob for hit in found[0]], atol=1e-4)
    assert len(searcher.search(["t0w1"], k=100)[0]) == 60, "all there are"


@pytest.mark.slow
def test_run_files_say_what_the_summary_says(home, summary):
    (source,) = summary["held_out"]
    stem = home / "found" / source.replace(" ", "-")
    systems = [[stem.with_name(f"{stem.name}-{name}.run")] for name in ("bm25", "retriever", "by-id-alone", "vectors-alone")]
    found = compare(stem.with_suffix(".qrels"), systems)["rows"]
    wanted = summary["held_out"][source]
    assert {row["metric"]: row["first"] for row in found} == pytest.approx({name: wanted["bm25"][name] for name in USUAL})
    seconds = [row["second"] for row in found]
    assert seconds == pytest.approx([wanted[name][metric] for name in ("retriever", "by ID alone", "vectors alone") for metric in USUAL])


@pytest.mark.slow
def test_given_queries_are_learned_from_balance_it_and_measure_it(home):
    shutil.copytree(home / "untouched", home / "asked")
    task = runs.write_task(home / "task", home / "corpus.jsonl")
    summary = execute(home / "asked", queries=RelevanceConfig(str(task)), config=CONFIG, runs=home / "answers", console=QUIET)
    means = summary["held_out"]["queries of split test"]
    parts = [f"{name}{part}" for name in ("bm25", "retriever", "by ID alone", "vectors alone") for part in ("", ", seen", ", unseen")]
    assert list(means) == parts and summary["queries"] == {"queries of split test": 10}
    kept = json.loads((home / "asked" / "retriever" / "retriever.json").read_text())["temperature"]
    assert kept != TEMPERATURE and LEAST <= kept <= MOST
    judged = home / "answers" / "queries-of-split-test.qrels"
    found = compare(judged, [[judged.with_name(f"queries-of-split-test-{name}.run")] for name in ("retriever", "bm25")], metrics=["ndcg@10"])
    assert found["rows"][0]["first"] == pytest.approx(means["retriever"]["ndcg@10"])
    rows = Searcher.load(home / "asked").rank([json.loads(line)["text"] for line in (task / "queries.jsonl").read_text().splitlines()[-10:]], k=1).rows
    assert np.mean(rows[:, 0] == np.arange(50, 60)) == pytest.approx(means["retriever"]["recall@1"]), "a searcher that is loaded is balanced"


@pytest.mark.slow
def test_killed_and_resumed_it_ends_with_the_same_bits(home, summary, monkeypatch):
    with pytest.raises(runs.Killed):
        execute(home / "untouched", config=CONFIG, console=runs.Mortal(40, "finetune"))
    with pytest.raises(UserError, match="no retriever yet"):
        Searcher.load(home / "untouched")
    assert execute(home / "untouched", config=CONFIG, console=QUIET) == summary
    whole, resumed = (load_tree(home / name / "retriever" / "params") for name in ("run", "untouched"))
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    monkeypatch.setattr(finetune, "from_language_model", None)  # the corpus is not encoded before it is refused
    with pytest.raises(UserError, match="other settings"):
        execute(home / "untouched", config=FinetuneConfig(epochs=1), console=QUIET)


@pytest.mark.slow
def test_a_document_that_was_added_is_found(home, summary, monkeypatch, capsys):
    grown = home / "grown"
    shutil.copytree(home / "run", grown)
    line = json.loads((home / "corpus.jsonl").read_text().splitlines()[7])
    (home / "new.jsonl").write_text(json.dumps(line | {"id": "new"}) + "\n")
    new, table = index(grown, CorpusConfig(path=str(home / "new.jsonl"), cache_dir=str(home / "cache")), console=QUIET)
    keep(grown, new, table, console=QUIET)
    monkeypatch.setattr(sys, "argv", ["search", "--workdir", str(grown), "-k", "61", "--json", line["text"]])
    command.main()
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert len(hits) == 61 and "new" in [hit["document"] for hit in hits]


def test_documents_that_were_added_are_not_measured(tmp_path):
    """All that is compared searches the corpus."""
    workdir = retrievers.make(tmp_path)
    table = id_table.load(workdir / "ids")
    table.append([f"new {row}" for row in range(30)], table.codes[::2]).save(workdir / "ids")
    searcher = Searcher.load(workdir)
    assert len(searcher.table) == 90 and len(searcher.corpus) == 60
    held = Held(["a", "b"], searcher.corpus.texts([3, 41]), one_each(np.array([3, 41])), "queries")
    assert any(hit.document.startswith("new") for hits in searcher.search(held.texts) for hit in hits)
    finetune.measure(searcher, searcher.corpus, [held], runs=tmp_path)
    for name in ("bm25", "retriever", "by-id-alone"):
        found = set(trec.ranked_documents(tmp_path / f"queries-{name}.run"))
        assert found <= set(table.ids.to_pylist()) and len(found) >= 10, name


def test_flags_say_which_queries():
    call = ["--workdir", "w"]
    assert finetune.judged(finetune.parse(call)) is None
    named = finetune.judged(finetune.parse([*call, "--queries", "esci/beauty_queries", "--relevant-from", "3", "--drop"]))
    assert named == RelevanceConfig(name="esci/beauty_queries", on_bad=OnBad.DROP, relevant_from=3)
    with pytest.raises(UserError, match="give the set by --queries"):
        finetune.judged(finetune.parse([*call, "--drop"]))


def test_no_run_is_one_line(tmp_path):
    with pytest.raises(UserError, match="let the run finish first"):
        Searcher.load(tmp_path)
    with pytest.raises(UserError, match="let the run finish first"):
        execute(tmp_path, console=QUIET)
