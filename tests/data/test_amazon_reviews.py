"""`amazon_reviews` on small files with the quirks of the true ones."""

import gzip
import json

import pytest
import tensorflow_datasets as tfds

from lmindexer_jax.data import prepared
from lmindexer_jax.data.builders.amazon_reviews import item_text, read_histories, read_items
from lmindexer_jax.data.corpus import open_corpus
from lmindexer_jax.data.documents import CorpusConfig
from lmindexer_jax.errors import UserError

# As published: Python literals, either quote, escapes, entities, fields missing at will, and other lists of categories.
META = r"""
{'asin': 'B001', 'title': "Women's \"Soft\" Cream &amp; Oil", 'price': 9.99, 'brand': 'Zo\xeb', 'salesRank': {'Beauty': 7}, 'categories': [['Beauty', 'Skin Care'], ['Health &amp; Baby', 'Skin Care']], 'related': {'also_bought': ['B002']}}
{'related': {'also_viewed': ['B001']}, 'asin': 'B002', 'description': 'Line\none', 'categories': [['Beauty']]}
{'asin': 'B999', 'title': 'Nobody reviewed it', 'categories': [['Beauty']]}
{'asin': 'B003', 'title': '', 'imUrl': 'http://x', 'categories': [[]]}
"""  # noqa: E501
ITEMS = "B001 B002 B003 B004".split()


def reviews():
    """User u1 reviews out of order and twice at the same second; u2 has too few items."""
    events = [("u1", "B003", 30), ("u2", "B001", 5), ("u1", "B001", 10), ("u1", "B004", 20), ("u1", "B002", 20)]
    events += [("u2", "B002", 6), ("u3", "B001", 3), ("u3", "B002", 2), ("u3", "B003", 1)]
    return "".join(
        json.dumps({"reviewerID": user, "asin": item, "reviewText": "it's \"ok\"", "unixReviewTime": time}) + "\n"
        for user, item, time in events
    )


@pytest.fixture
def cache(tmp_path):
    manual = tmp_path / "tfds" / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "meta_Beauty.json.gz").write_bytes(gzip.compress(META.encode()))
    (manual / "reviews_Beauty_5.json.gz").write_bytes(gzip.compress(reviews().encode()))
    return tmp_path


def test_items_as_a_corpus(cache):
    corpus = open_corpus(CorpusConfig(name="amazon_reviews/beauty", cache_dir=str(cache)))
    assert corpus.ids().to_pylist() == ["B001", "B002"]
    assert corpus.dropped == {"empty text": 2}  # one of empty fields, one without metadata
    assert corpus.text(0) == "title: Women's \"Soft\" Cream & Oil, brand: Zoë, price: 9.99, category: Beauty, Skin Care"
    assert corpus.text(1) == "description: Line\none, category: Beauty"
    assert corpus.path(0) == ("Beauty", "Skin Care")
    assert corpus.field("brand").to_pylist() == ["Zoë", ""]


def test_other_templates_use_the_fields(cache):
    config = CorpusConfig(name="amazon_reviews/beauty", template="{title} {brand}", cache_dir=str(cache))
    corpus = open_corpus(config)
    assert corpus.texts(range(len(corpus))) == ["Women's \"Soft\" Cream & Oil Zoë"]


def test_sequences_leave_one_out(cache):
    folder = prepared.prepare("amazon_reviews/beauty_sequences", cache)
    source = tfds.builder_from_directory(folder).as_data_source()
    found = {
        split: [(row["user"].decode(), [item.decode() for item in row["items"]]) for row in rows]
        for split, rows in source.items()
    }
    whole = {"u1": ["B001", "B004", "B002", "B003"], "u3": ["B003", "B002", "B001"]}
    for split, end in (("test", None), ("validation", -1), ("train", -2)):
        assert found[split] == [(user, items[:end]) for user, items in whole.items()], split


def test_items_are_those_reviewed_in_order_of_asin(cache):
    records = list(read_items(cache / "tfds/downloads/manual/meta_Beauty.json.gz", set(ITEMS)))
    assert [record["id"] for record in records] == ITEMS
    assert records[0]["categories"] == ["Beauty", "Skin Care", "Health & Baby"]
    assert records[3] == dict.fromkeys(("title", "description", "brand", "price", "text"), "") | {
        "id": "B004",
        "categories": [],
        "path": [],
    }


def test_published_text_leaves_out_what_is_missing():
    assert item_text({}) == "" == item_text({"title": "", "categories": [[]]})
    assert item_text({"title": "T", "description": "D", "brand": "B", "price": 1.0, "categories": [["x", "y"], ["z"]]}) == (
        "title: T, description: D, brand: B, price: 1.0, category: x, y"
    )


def test_missing_files_say_what_to_put_where(tmp_path):
    with pytest.raises(UserError, match="put meta_Toys_and_Games.json.gz and reviews_Toys_and_Games_5.json.gz into .*manual"):
        prepared.prepare("amazon_reviews/toys", tmp_path)
    (tmp_path / "tfds/downloads/manual/meta_Toys_and_Games.json.gz").write_bytes(b"")
    with pytest.raises(UserError, match="put reviews_Toys_and_Games_5.json.gz into"):
        prepared.prepare("amazon_reviews/toys", tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        b"{'asin': 'B001', 'title': __import__('os').system('touch hacked')}",
        b"{'asin': 'B001', ",
        b"['B001']",
        b"{'title': 'no asin'}",
    ],
)
def test_a_bad_metadata_line_is_named_and_never_run(tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.json.gz").write_bytes(gzip.compress(b"{'asin': 'B999'}\n" + line + b"\n"))
    with pytest.raises(UserError, match="m.json.gz:2: no Python literal"):
        list(read_items(tmp_path / "m.json.gz", {"B001"}))
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("line", ["{", "[]", '{"asin": "B", "reviewerID": "u"}'])
def test_a_bad_review_line_is_named(tmp_path, line):
    (tmp_path / "r.json.gz").write_bytes(gzip.compress(line.encode()))
    with pytest.raises(UserError, match="r.json.gz:1: no JSON review"):
        read_histories(tmp_path / "r.json.gz")


def test_a_truncated_file_is_named(cache):
    path = cache / "tfds/downloads/manual/reviews_Beauty_5.json.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(UserError, match="reviews_Beauty_5.json.gz:.*damaged"):
        read_histories(path)
