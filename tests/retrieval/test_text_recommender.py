"""A recommender that reads what items say: it learns a rule of words, and answers as the other recommenders do."""

import json

import numpy as np
import pytest
from finished import finish

from lmindexer_jax.console import Console, Mode
from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing import id_table
from lmindexer_jax.next_item import Method, RecommendConfig, check, execute
from lmindexer_jax.retrieval.recommender import Recommender
from lmindexer_jax.retrieval.text_recommender import TextRecommender

ITEMS = 24
QUIET = Console(Mode.QUIET)


def following(item, steps=1):
    """A cycle through all items that leaps over the tree."""
    return (item + 7 * steps) % ITEMS


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Items that a word tells apart, two of which share their codes, and users who go round a cycle."""
    home = tmp_path_factory.mktemp("text")
    words = [a + b + c for a in "bdf" for b in "aeiu" for c in "mn"]
    lines = [{"id": f"i{n}", "text": f"a {words[n]} to buy", "path": ["things"]} for n in range(ITEMS)]
    (home / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    codes = np.stack([np.arange(ITEMS) // 6, np.arange(ITEMS) % 5], 1).astype(np.int32)
    finish(home / "run", home / "items.jsonl", home / "cache", codes=codes, sizes=(4, 5))
    rng = np.random.default_rng(0)
    users = [(int(rng.integers(ITEMS)), int(rng.integers(4, 12))) for _ in range(150)]
    lines = [f"u{user}\t" + " ".join(f"i{following(first, n)}" for n in range(length)) for user, (first, length) in enumerate(users)]
    (home / "users.tsv").write_text("\n".join(lines) + "\n")
    return home


def config(home):
    out = RecommendConfig(str(home / "run"), str(home / "users.tsv"), method=Method.TEXT, exact_users=8)
    out.reader.language_model, out.reader.vocabulary, out.reader.item_tokens, out.reader.tokens = "tiny", 300, 12, 24
    out.training.epochs, out.training.batch_size, out.training.optim.learning_rate = 16, 32, 5e-3
    return out


@pytest.fixture(scope="module")
def finished(home):
    execute(config(home), home / "text", console=QUIET)
    return home / "text"


def test_a_rule_of_words_is_learned(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["test"]["history kept"]["items"]["recall@5"] > 0.95
    assert summary["test"]["history kept"]["items"]["ndcg@5"] > 0.9
    assert summary["beam"] == {"users": 8, "same_first": 1.0, "same_10": 1.0}
    assert len((finished / "test-history-excluded.run").read_text().splitlines()) <= 150 * 10


def test_two_lines_to_a_recommendation(finished):
    recommender = Recommender.load(finished)
    assert isinstance(recommender, TextRecommender) and len(recommender) == ITEMS
    best = recommender.recommend([f"i{item}" for item in (0, following(0), following(0, 2))], k=3)
    assert best[0].document == f"i{following(0, 3)}"
    assert best[0].semantic_id == recommender.table.id_of(best[0].document)
    assert 0 > best[0].log_prob > best[1].log_prob > best[2].log_prob


def test_all_items_but_those_seen_are_ranked_alike_alone_and_in_a_batch(finished):
    recommender = Recommender.load(finished)
    rng = np.random.default_rng(1)
    histories = [[f"i{item}" for item in rng.permutation(ITEMS)[: rng.integers(1, 16)]] for _ in range(4)]
    batch = recommender.recommend(histories, k=ITEMS)
    names = {f"i{n}" for n in range(ITEMS)}
    for history, found in zip(histories, batch, strict=True):
        assert {each.document for each in found} == names - set(history)
        alone = recommender.recommend(history, k=ITEMS)
        np.testing.assert_allclose([each.log_prob for each in alone], [each.log_prob for each in found], atol=1e-4)
    kept = recommender.recommend(histories, k=ITEMS, exclude_seen=False)
    np.testing.assert_allclose(np.exp([[each.log_prob for each in found] for found in kept]).sum(1), 1.0, atol=1e-4)
    with pytest.raises(UserError, match="not in the catalogue of 24 items"):
        recommender.recommend(["x"])


def test_a_finished_run_is_read_and_other_settings_are_refused(home, finished):
    before = (finished / "metrics.jsonl").read_bytes()
    unread = config(home)
    unread.model.width, unread.training.validate_every = 64, 3
    assert execute(unread, finished, console=QUIET)["users"] == 150
    assert (finished / "metrics.jsonl").read_bytes() == before
    other = config(home)
    other.reader.tokens = 16
    with pytest.raises(UserError, match="reader.tokens=24, now it is 16"):
        execute(other, finished, console=QUIET)


def test_bad_input_is_one_line(home, finished, tmp_path):
    id_table.load(home / "run" / "ids").save(tmp_path / "table")
    bare = config(home)
    bare.ids = str(tmp_path / "table")
    with pytest.raises(UserError, match="no indexer's run, so no texts"):
        execute(bare, tmp_path / "out", console=QUIET)
    bare.reader.tokens = 2
    with pytest.raises(UserError, match="reader.tokens=2"):
        check(bare)
