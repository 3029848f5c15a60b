"""Whole runs of the recommender: they learn a planted pattern, resume to the bit, and answer only what may be answered."""

import concurrent.futures
import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmindexer_jax import protocol
from lmindexer_jax.compare import compare
from lmindexer_jax.console import Console, Mode
from lmindexer_jax.data import trec
from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing import id_lines, id_table
from lmindexer_jax.models.recommender import Head, Histories, RecommenderConfig
from lmindexer_jax.next_item import Method, RecommendConfig, check, execute, open_table
from lmindexer_jax.retrieval.objective import item_loss
from lmindexer_jax.retrieval.recommender import Recommender, histories_of, make
from lmindexer_jax.training.checkpoint import load_tree
from lmindexer_jax.training.optim import paths

ITEMS = 40
QUIET = Console(Mode.QUIET)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A catalogue in which two items share every pair of codes, and users who go round one fixed cycle."""
    home = tmp_path_factory.mktemp("recommend")
    codes = np.stack([np.arange(ITEMS) // 10, np.arange(ITEMS) % 5], 1).astype(np.int32)
    names = [f"i{n}" for n in range(ITEMS)]
    id_table.build(names, codes, id_table.Manifest({}, "corpus", "model", (4, 5))).save(home / "ids")
    rng = np.random.default_rng(0)
    lines = []
    for user in range(200):
        first, length = rng.integers(ITEMS), rng.integers(4, 10)
        lines.append(f"u{user}\t" + " ".join(f"i{following(int(first), n)}" for n in range(length)))
    (home / "users.tsv").write_text("\n".join(lines) + "\n")
    np.save(home / "text.npy", rng.normal(size=(ITEMS, 6)).astype(np.float32))
    return home


def following(item: int, steps: int = 1) -> int:
    """A cycle through all items that leaps over the tree."""
    return (item + 13 * steps) % ITEMS


def config(home, method: Method) -> RecommendConfig:
    out = RecommendConfig(str(home / "ids"), str(home / "users.tsv"), str(home / "text.npy"), method, exact_users=16)
    read = {"read_id": method != Method.FLATTENED, "read_text": method == Method.GENERATIVE, "read_codes": method != Method.SASREC}
    out.model = RecommenderConfig(**read, width=16, layers=1, heads=2, hidden=16, dropout=0.1, length=8)
    out.training.epochs, out.training.batch_size, out.training.validate_every = 16, 16, 8
    out.training.optim.learning_rate = 2e-2
    return out


@pytest.fixture(scope="module")
def finished(home):
    execute(config(home, Method.GENERATIVE), home / "generative", console=QUIET)
    return home / "generative"


@pytest.mark.parametrize("method", [Method.GENERATIVE, Method.FLATTENED])
def test_a_pattern_is_learned_by_generating_ids(home, finished, method):
    summary = execute(config(home, method), home / method, console=QUIET)
    finished = home / method
    assert summary["test"]["history kept"]["items"]["recall@5"] > 0.95
    assert summary["beam"] == {"users": 16, "same_first": 1.0, "same_10": 1.0}, "30 beams over 20 prefixes miss nothing"
    lines = (finished / "test-history-kept.run").read_text().splitlines()
    assert len(lines) == 200 * 10


def test_the_run_file_says_what_the_summary_says_of_all_and_of_often_and_seldom_met_items(finished):
    run, summary = finished / "test-history-kept.run", json.loads((finished / "summary.json").read_text())
    levels = summary["test"]["history kept"]
    assert list(levels) == ["items", "items, head", "items, tail", "ids"]
    rows = compare(finished / "test.qrels", [[run], [run]], metrics=protocol.shown())["rows"]
    assert {row["metric"]: row["first"] for row in rows} == pytest.approx(levels["items"])


def test_what_ids_lead_to_is_ordered_by_vectors_too(home):
    """The scores are those that the two heads give apart, and the order is that of their sum."""
    dense = config(home, Method.GENERATIVE)
    dense.model.dense = True
    summary = execute(dense, home / "dense", console=QUIET)
    assert summary["test"]["history kept"]["items"]["recall@5"] > 0.95
    both = Recommender.load(home / "dense")
    module = dataclasses.replace(both.functions.module, config=dataclasses.replace(dense.model, dense=False))
    by_id = dataclasses.replace(both, functions=dataclasses.replace(both.functions, module=module))
    items, offsets = np.array([3, 16, 29, 7, 20]), np.array([0, 3, 5])
    count = 30  # as many as there are beams
    found, kept = (one.rank(items, offsets, count=count, exclude_seen=True) for one in (both, by_id))
    for user in range(2):
        history = items[offsets[user] : offsets[user + 1]]
        read = Histories(jnp.asarray(history)[None], jnp.ones((1, len(history)), jnp.int32))
        query = both.functions.queries(both.params, both.functions.states(both.params, read, both.catalogue)[0, -1])
        vectors = both.functions.item_vectors(both.params, kept.rows[user], both.catalogue)
        wanted = kept.scores[user] + np.asarray(vectors @ query)
        wanted -= np.log(np.exp(wanted - wanted.max()).sum()) + wanted.max()
        order = np.argsort(-wanted)
        np.testing.assert_array_equal(found.rows[user], kept.rows[user][order])
        np.testing.assert_allclose(found.scores[user], wanted[order], atol=1e-4)
        assert not np.array_equal(found.rows[user], kept.rows[user])
        assert not set(found.rows[user]) & set(history)


def test_a_pattern_is_learned_by_sasrec_and_popularity_is_the_floor(home):
    scores = {}
    for method in (Method.SASREC, Method.POPULARITY):
        summary = execute(config(home, method), home / method, console=QUIET)
        scores[method] = summary["test"]["history kept"]["items"]["recall@5"]
    assert scores[Method.SASREC] > 0.95
    assert 0 <= scores[Method.POPULARITY] < 0.5


def test_drawn_negatives_are_a_part_of_the_softmax(home):
    table = id_table.load(home / "ids")
    sasrec = make(config(home, Method.SASREC).model, Head.ITEMS, table, None, beams=1)
    functions, catalogue = sasrec.functions, sasrec.catalogue
    params = functions.init(jax.random.key(0), catalogue)
    states, targets = jax.random.normal(jax.random.key(1), (5, 16)), jnp.arange(5)

    def loss(negatives, key=0):
        key = jax.random.key(key)
        return np.asarray(item_loss(functions, params, states, targets, catalogue, negatives=negatives, key=key))

    whole = loss(0)
    np.testing.assert_allclose(loss(ITEMS), whole, atol=1e-6)
    drawn = np.stack([loss(20, key) for key in range(8)])
    assert (drawn > 0).all() and (drawn.std(0) > 0).all()
    np.testing.assert_allclose(np.mean(np.expm1(drawn), 0) / np.expm1(whole), 20 / ITEMS, atol=0.15)


def test_a_finished_run_is_read_not_run(home, finished):
    before = (finished / "metrics.jsonl").read_bytes()
    assert execute(config(home, Method.GENERATIVE), finished, console=QUIET)["users"] == 200
    assert (finished / "metrics.jsonl").read_bytes() == before


def test_ids_from_anywhere_are_a_catalogue(home, tmp_path):
    table = id_table.load(home / "ids")
    id_lines.write(tmp_path / "ids.jsonl", table, table.ids.to_pylist())
    read = open_table(str(tmp_path / "ids.jsonl"))
    assert read.ids.to_pylist() == table.ids.to_pylist() and read.manifest.codebook_sizes == (4, 5)
    np.testing.assert_array_equal(read.full_ids, table.full_ids)
    foreign = config(home, Method.GENERATIVE)
    foreign.ids, foreign.embeddings = str(tmp_path / "ids.jsonl"), ""
    with pytest.raises(UserError, match="no indexer's run, so no encoder; give --config.embeddings"):
        execute(foreign, tmp_path / "run", console=QUIET)


def test_items_whose_ids_hold_white_space_are_written_without(home, tmp_path):
    """Such a history is written by row numbers."""
    names = [f"item {n}" for n in range(10)]
    codes = np.stack([np.arange(10) // 5, np.arange(10) % 5], 1).astype(np.int32)
    id_table.build(names, codes, id_table.Manifest({}, "corpus", "model", (4, 5))).save(tmp_path / "ids")
    (tmp_path / "users.tsv").write_text("".join(f"u{user}\t{user + 1} 9 10 {user + 2}\n" for user in range(6)))
    spaced = RecommendConfig(str(tmp_path / "ids"), str(tmp_path / "users.tsv"), method=Method.POPULARITY)
    assert execute(spaced, tmp_path / "run", console=QUIET)["users"] == 6
    written = [f"item%20{n}" for n in range(10)]
    users = [line.split()[0] for line in (tmp_path / "run" / "test.qrels").read_text().splitlines()]
    judged = trec.read_qrels(tmp_path / "run" / "test.qrels", queries=users, documents=written)
    assert judged.rows.tolist() == [user + 1 for user in range(6)]
    rows, _ = trec.read_run(tmp_path / "run" / "test-history-kept.run", queries=users, documents=written)
    assert rows[:, 0].tolist() == [8] * 6, "what was trained on most, by its number again"


class Killed(BaseException):
    """Stands in for a kill: nothing in the code may catch it."""


class Mortal(Console):
    """A console that kills the run at the n-th metric shown."""

    def __init__(self, lives: int):
        super().__init__(Mode.QUIET)
        self.lives = lives

    def _open_lines(self, description, unit, meter):
        report, close = super()._open_lines(description, unit, meter)

        def count(metrics):
            self.lives -= 1
            if self.lives == 0:
                raise Killed
            report(metrics)

        return count, close


@pytest.mark.parametrize("method", [Method.GENERATIVE, Method.FLATTENED])
def test_killed_and_started_again_ends_alike(home, method):
    finished, killed = home / method, home / f"{method}-killed"
    execute(config(home, method), finished, console=QUIET)
    other = config(home, method)
    other.checkpoint_seconds = 0.0
    deaths = 0
    for lives in itertools.chain((7, 40), itertools.repeat(10**6)):
        try:
            execute(other, killed, console=Mortal(lives))
            break
        except Killed:
            deaths += 1
    assert deaths == 2
    one, two = (paths(load_tree(folder / "recommender" / "params")) for folder in (finished, killed))
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
    journals = [
        [
            {name: value for name, value in json.loads(line).items() if name not in ("time", "seconds")}
            for line in (folder / "metrics.jsonl").read_text().splitlines()
        ]
        for folder in (finished, killed)
    ]
    assert journals[0] == journals[1]


def test_two_lines_to_a_recommendation(finished):
    recommender = Recommender.load(finished)
    best = recommender.recommend([f"i{item}" for item in (0, following(0), following(0, 2))], k=3)
    assert best[0].document == f"i{following(0, 3)}"
    assert best[0].semantic_id == recommender.table.id_of(best[0].document)
    assert -0.5 < best[0].log_prob < 0 and best[0].log_prob > best[1].log_prob > best[2].log_prob


@pytest.mark.parametrize("method", ["generative", "flattened", pytest.param("sasrec", marks=pytest.mark.slow)])
def test_only_items_that_exist_and_were_not_seen(home, finished, method):
    if not (home / method / "summary.json").exists():
        execute(config(home, method), home / method, console=QUIET)
    recommender = Recommender.load(home / method)
    names = set(recommender.table.ids.to_pylist())
    rng = np.random.default_rng(1)
    histories = [[f"i{item}" for item in rng.permutation(ITEMS)[: rng.integers(1, ITEMS)]] for _ in range(20)]
    for history, found in zip(histories, recommender.recommend(histories, k=ITEMS), strict=True):
        documents = [each.document for each in found]
        assert set(documents) == names - set(history), "all that is left, each once"
        assert len(documents) == len(set(documents))
        assert all(np.isfinite(each.log_prob) for each in found)
    kept = recommender.recommend(histories, k=ITEMS, exclude_seen=False)
    assert all({each.document for each in found} == names for found in kept)
    total = np.exp([[each.log_prob for each in found] for found in kept]).sum(1)
    np.testing.assert_allclose(total, 1.0, atol=1e-4)


def test_a_wide_beam_is_the_whole_catalogue(home):
    """For histories longer than what is read too."""
    if not (home / Method.FLATTENED / "summary.json").exists():
        execute(config(home, Method.FLATTENED), home / Method.FLATTENED, console=QUIET)
    recommender = dataclasses.replace(Recommender.load(home / Method.FLATTENED), beams=ITEMS)
    rng = np.random.default_rng(2)
    lengths = rng.integers(1, 20, 20)
    offsets = np.r_[0, np.cumsum(lengths)]
    items = rng.integers(0, ITEMS, offsets[-1])
    for exclude in (False, True):
        beam, every = (recommender.rank(items, offsets, count=10, exclude_seen=exclude, every_id=exact) for exact in (False, True))
        np.testing.assert_array_equal(beam.rows, every.rows)
        np.testing.assert_allclose(beam.scores, every.scores, atol=1e-4)


def test_histories_end_in_the_last_column():
    found = histories_of(np.arange(12), np.array([0, 2, 7, 12]), np.array([2, 0]))
    assert found.shape == (2, 16)
    np.testing.assert_array_equal(found[:, -6:], [[-1, 7, 8, 9, 10, 11], [-1, -1, -1, -1, 0, 1]])
    assert (found[:, :-6] == -1).all()


def test_one_history_is_answered_alike_alone_in_a_batch_and_from_many_threads(finished):
    recommender = Recommender.load(finished)
    histories = [[f"i{following(n, step)}" for step in range(1 + n % 4)] for n in range(12)]
    batch = recommender.recommend(histories, k=4)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        alone = list(pool.map(lambda history: recommender.recommend(history, k=4), histories))
    for one, other in zip(batch, alone, strict=True):
        assert [each.document for each in one] == [each.document for each in other]
        np.testing.assert_allclose([each.log_prob for each in one], [each.log_prob for each in other], atol=1e-4)
    assert recommender.recommend([]) == []


def test_bad_input_is_one_line(home, finished, tmp_path):
    recommender = Recommender.load(finished)
    with pytest.raises(UserError, match="item 'x' is not in the catalogue of 40 items"):
        recommender.recommend(["i1", "x"])
    with pytest.raises(UserError, match="an empty history"):
        recommender.recommend([["i1"], []])
    with pytest.raises(UserError, match="let `lmindexer_jax.recommend` finish first"):
        Recommender.load(tmp_path)

    def refused(change, match):
        wrong = config(home, Method.GENERATIVE)
        change(wrong)
        with pytest.raises(UserError, match=match):
            execute(wrong, finished, console=QUIET)

    refused(lambda c: setattr(c, "seed", 5), "seed=0, now it is 5")
    refused(lambda c: setattr(c.model, "dropout", 0.2), "model.dropout=0.1, now it is 0.2")
    refused(lambda c: setattr(c, "interactions", ""), "--config.interactions=")
    refused(lambda c: setattr(c, "embeddings", ""), "give --config.embeddings")
    refused(lambda c: setattr(c, "embeddings", str(tmp_path / "no.npy")), "no such file")
    refused(lambda c: setattr(c.model, "heads", 3), "does not divide")
    with pytest.raises(UserError, match="set model.read_codes"):
        check(RecommendConfig("i", "u", method=Method.FLATTENED, model=RecommenderConfig(read_codes=False)))
    with pytest.raises(UserError, match="model.dense is for methods"):
        check(RecommendConfig("i", "u", method=Method.SASREC, model=RecommenderConfig(dense=True)))
