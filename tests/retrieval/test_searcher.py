"""Searching a part of the documents, with different results, with the way to them, and from many threads at a time."""

import concurrent.futures
import dataclasses
import json
import sys

import numpy as np
import pytest
import retrievers

from lmindexer_jax import search as command
from lmindexer_jax.errors import UserError
from lmindexer_jax.evaluation.id_quality import prefix_ids
from lmindexer_jax.retrieval import kept, near
from lmindexer_jax.retrieval.searcher import Searcher, parse_category
from lmindexer_jax.retrieval.temper import TEMPERATURE

ALL = retrievers.DOCUMENTS  # at k = 60 the beams hold every document, and a search is exact
QUERIES = ["t0w1 s00w2", "t1w3", "t2w2 t2w4 s21w1", "t3w0 <b>"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return retrievers.make(tmp_path_factory.mktemp("searcher"))


@pytest.fixture(scope="module")
def searcher(workdir):
    return Searcher.load(workdir)


def same(one, other):
    """Hits alike, though scores may differ by rounding, and then by a place."""
    assert {hit.document for hit in one} == {hit.document for hit in other}
    np.testing.assert_allclose([hit.log_prob for hit in one], [hit.log_prob for hit in other], atol=1e-4)


def test_a_subset_is_the_whole_without_the_rest(searcher):
    whole = searcher.search(QUERIES, k=ALL)
    assert all(len({hit.document for hit in hits}) == ALL for hits in whole)
    names = searcher.table.ids.to_pylist()
    paths = dict(zip(names, (searcher.corpus.path(row) for row in range(ALL)), strict=True))
    kinds = {
        "category": ({"category": ["topic 1"]}, lambda name: paths[name][0] == "topic 1"),
        "deeper": ({"category": ["topic 1", "sub 1.2"]}, lambda name: paths[name] == ("topic 1", "sub 1.2")),
        "only": ({"only": names[3:20]}, lambda name: name in names[3:20]),
        "exclude": ({"exclude": names[::2]}, lambda name: name not in names[::2]),
        "all three": (
            {"category": ["topic 2"], "only": names[:50], "exclude": names[::3]},
            lambda name: paths[name][0] == "topic 2" and name in names[:50] and name not in names[::3],
        ),
    }
    for kind, (options, wanted) in kinds.items():
        found = searcher.search(QUERIES, k=ALL, within=searcher.subset(**options))
        for hits, every in zip(found, whole, strict=True):
            kept = [hit for hit in every if wanted(hit.document)]
            assert 0 < len(kept) < ALL, kind
            same(hits, kept)
    assert [hit.path for hit in whole[0]] == [paths[hit.document] for hit in whole[0]]


def test_what_cannot_be_searched_is_one_line(searcher):
    for options, line in (
        ({"category": ["topic 1", "sub 2.0"]}, "begins with 'topic 1 > sub 2.0'"),
        ({"category": ["a", "b", "c"]}, "begins with 'a > b > c'"),
        ({"only": ["d0-3", "nobody", "none"]}, "document 'nobody' is not in the ID table of 60 documents"),
        ({"exclude": ["nobody"]}, "document 'nobody' is not in"),
        ({"only": ["d0-3"], "exclude": ["d0-3"]}, "no document is left"),
        ({"only": []}, "no document is left"),
    ):
        with pytest.raises(UserError, match=line):
            searcher.subset(**options)
    for options in ({"groups": 0}, {"groups": 21}, {"k": 0}, {"beams": 0}):
        with pytest.raises(UserError, match="search: "):
            searcher.search(["t0w1"], **options)
    with pytest.raises(UserError, match="not empty"):
        searcher.trace(["t0w1", " \n"])
    with pytest.raises(UserError, match="names no category"):
        parse_category(" > ")


def test_groups_give_other_documents_of_the_same_scores(searcher):
    whole = [{hit.document: hit.log_prob for hit in hits} for hits in searcher.search(QUERIES, k=ALL)]
    plain = searcher.search(QUERIES, k=8)
    groups = searcher.search(QUERIES, k=8, groups=4)
    names = [[[hit.document for hit in hits] for hits in found] for found in (plain, groups)]
    assert names[0] != names[1]
    for hits, scores in zip(groups, whole, strict=True):
        assert len({hit.document for hit in hits}) == len(hits)
        np.testing.assert_allclose([hit.log_prob for hit in hits], [scores[hit.document] for hit in hits], atol=1e-4)


def test_groups_of_a_model_that_is_sure_find_as_many_as_are_wanted(searcher, workdir):
    known = kept.load(workdir, searcher.table)
    sure = {name: 30 * value if name.startswith("codebook") else value for name, value in known.params.items()}
    sure = Searcher(dataclasses.replace(known, params=sure), searcher.table, searcher.corpus)
    few = searcher.subset(only=searcher.table.ids.to_pylist()[:7])
    for within, there in ((None, ALL), (few, 7)):
        for hits in sure.search(QUERIES, k=10, groups=5, within=within):
            assert len({hit.document for hit in hits}) == len(hits) == min(10, there)


def test_a_trace_is_the_search_with_what_every_position_kept(searcher):
    codes, numbers = searcher.table.codes, prefix_ids(searcher.table.codes)
    for options in ({}, {"groups": 4}, {"within": searcher.subset(category=["topic 3"])}):
        found = searcher.search(QUERIES, k=10, **options)
        for trace, hits in zip(searcher.trace(QUERIES, k=10, **options), found, strict=True):
            assert trace.hits == hits
            assert [step.codes.shape[1] for step in trace.steps] == [1, 2, 3]
            for t, step in enumerate(trace.steps):
                exists = {tuple(row): number for row, number in zip(codes[:, : t + 1].tolist(), numbers[:, t].tolist())}
                assert step.nodes.tolist() == [exists[tuple(row)] for row in step.codes.tolist()]
                assert len(set(step.nodes.tolist())) == len(step.nodes) <= 100
                assert (np.diff(step.log_probs) <= 0).all() and np.exp(step.log_probs).sum() <= 1 + 1e-5
                if t:
                    above = dict(zip(map(tuple, trace.steps[t - 1].codes.tolist()), trace.steps[t - 1].log_probs))
                    assert all(score <= above[tuple(row[:-1])] + 1e-6 for row, score in zip(step.codes.tolist(), step.log_probs))
            ends = {"-".join(map(str, row)) for row in trace.steps[-1].codes.tolist()}
            assert {"-".join(hit.full_id.split("-")[:3]) for hit in hits} <= ends
    first = searcher.trace(QUERIES, k=10)[0].steps[0]
    np.testing.assert_allclose(np.exp(first.log_probs).sum(), 1, atol=1e-5)  # there are but four first codes


def test_vectors_order_what_the_beams_found(tmp_path):
    workdir = retrievers.make(tmp_path, gist=True)
    searcher = Searcher.load(workdir)
    by_id, both = (searcher.search(QUERIES, k=ALL, by_id=flag) for flag in (True, False))
    for one, other in zip(by_id, both, strict=True):
        assert (np.diff([hit.log_prob for hit in one]) <= 0).all() and one != other
        scores = {hit.document: hit.log_prob + hit.similarity / TEMPERATURE for hit in one}
        assert [hit.document for hit in other] == sorted(scores, key=lambda name: -scores[name])
        assert all(-1 <= hit.similarity <= 1 for hit in other)
    ranked = searcher.rank(QUERIES, k=5)
    names = searcher.table.ids.to_pylist()
    assert [[names[row] for row in rows] for rows in ranked.rows] == [[hit.document for hit in hits[:5]] for hits in both]

    # A document says what it is compared with: its own vector.
    texts = searcher.corpus.texts([3, 41])
    nearest = [max(hits, key=lambda hit: hit.similarity) for hits in searcher.search(texts, k=ALL)]
    assert [hit.document for hit in nearest] == [names[3], names[41]] and all(hit.similarity > 0.999 for hit in nearest)

    # Documents of a later piece have none until it is there, and then stand neither up nor down.
    pieces = workdir / kept.HOME / kept.VECTORS
    vectors = np.load(pieces / "0.npy")
    np.save(pieces / "0.npy", vectors[:50])
    missing = Searcher.load(workdir).search(QUERIES[:1], k=ALL)[0]
    assert {hit.document for hit in missing if hit.similarity is None} == set(names[50:])
    kept.extend(workdir, vectors[50:].astype(np.float32), first=50)
    assert Searcher.load(workdir).search(QUERIES, k=ALL) == both
    (pieces / "0.npy").write_bytes(b"nothing")
    with pytest.raises(UserError, match="0.npy: damaged; run `python -m lmindexer_jax.finetune"):
        Searcher.load(workdir)
    (pieces / "0.npy").unlink()
    with pytest.raises(UserError, match="0.npy: missing; run `python -m lmindexer_jax.finetune"):
        Searcher.load(workdir)


def test_vectors_propose_what_the_beams_miss(tmp_path, monkeypatch):
    workdir = retrievers.make(tmp_path, gist=True)
    searcher = Searcher.load(workdir)
    every = [{hit.document: hit for hit in hits} for hits in searcher.search(QUERIES, k=ALL)]
    part = searcher.subset(category=["topic 1"])
    for within in (None, part):
        few = searcher.search(QUERIES, k=4, beams=4, within=within)
        by_id = searcher.search(QUERIES, k=4, beams=4, within=within, by_id=True)
        for hits, beams, known in zip(few, by_id, every, strict=True):
            least = min(hit.log_prob for hit in beams)
            allowed = {name for name, hit in known.items() if within is None or hit.path[0] == "topic 1"}
            likeness = {name: known[name].similarity / TEMPERATURE for name in allowed}
            reached = {hit.document: hit.log_prob for hit in beams}
            wanted = {name: reached.get(name, least) + likeness[name] for name in sorted(allowed, key=lambda name: -likeness[name])[:32]}
            wanted |= {name: reached[name] + likeness[name] for name in reached}
            assert [hit.document for hit in hits] == sorted(wanted, key=lambda name: -wanted[name])[:4]
            assert all((hit.log_prob is None) == (hit.document not in reached) for hit in hits)
    rows, log_probs, similarities = searcher.proposed(QUERIES)
    assert rows.shape == log_probs.shape == similarities.shape and all(len(set(row[row >= 0])) == ALL for row in rows)

    kept.balance(workdir, 1e9)
    again = Searcher.load(workdir)
    names = [[hit.document for hit in hits] for hits in again.search(QUERIES, k=ALL)]
    assert names == [[hit.document for hit in hits] for hits in searcher.search(QUERIES, k=ALL, by_id=True)], "the IDs alone count"
    again.balance(TEMPERATURE)
    assert again.search(QUERIES, k=ALL) == searcher.search(QUERIES, k=ALL)
    monkeypatch.setattr(near, "SCANNED", ALL - 1)
    kept.balance(workdir, TEMPERATURE)
    large = Searcher.load(workdir)
    for within in (None, part):
        options = {"k": 4, "beams": 4, "within": within}
        assert large.search(QUERIES, **options) == searcher.search(QUERIES, **options), "below all prefixes are all documents"


def test_many_threads_and_mixed_batches_find_what_one_thread_finds(searcher):
    rng = np.random.default_rng(0)
    part = searcher.subset(category=["topic 0"])
    asked = []
    for _ in range(60):
        size = rng.choice([1, 2, 5, 8, 9, 40])
        queries = [f"t{rng.integers(4)}w{rng.integers(6)} s{rng.integers(4)}{rng.integers(3)}w1" for _ in range(size)]
        asked.append((queries, {"k": int(rng.choice([1, 5, 10])), "within": part if rng.random() < 0.3 else None}))
    alone = [searcher.search(queries, **options) for queries, options in asked]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda each: searcher.search(each[0], **each[1]), asked))
    assert together == alone


def test_the_command_restricts_and_excludes(workdir, tmp_path, monkeypatch, capsys):
    def found(*flags):
        monkeypatch.setattr(sys, "argv", ["lmindexer-search", "--workdir", str(workdir), "t1w3", "--json", *map(str, flags)])
        command.main()
        return [hit["document"] for hit in json.loads(capsys.readouterr().out)["hits"]]

    below = found("--category", "topic 1 > sub 1.1", "-k", 60)
    assert below and all(Searcher.load(workdir).table.id_of(name).startswith("1-1-") for name in below)
    (tmp_path / "ids.txt").write_text("d0-1\n\n d0-2 \n")
    assert sorted(found("--only", f"@{tmp_path}/ids.txt", "--only", "d0-7")) == ["d0-1", "d0-2", "d0-7"]
    assert sorted(found("--only", f"@{tmp_path}/ids.txt", "--only", "d0-7", "--exclude", "d0-2")) == ["d0-1", "d0-7"]
    assert len(found("--groups", 4, "--beams", 20, "-k", 5)) == 5
    for flags, line in (
        (("--only", "@nowhere"), "nowhere: cannot be read as a list of ids"),
        (("--category", ">"), "names no category"),
        (("--category", "topic 9"), "no document has a category path"),
    ):
        with pytest.raises(UserError, match=line):
            found(*flags)
