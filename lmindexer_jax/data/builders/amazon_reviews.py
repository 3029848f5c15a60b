"""TFDS builder `amazon_reviews`: items and user histories of the 2014 Amazon reviews, 5-core, leave-one-out."""

import ast
import gzip
import html
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from lmindexer_jax.errors import UserError

_CATEGORIES = {"beauty": "Beauty", "sports": "Sports_and_Outdoors", "toys": "Toys_and_Games"}
_SITE = "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html"
_SEQUENCES = "_sequences"
_FEWEST = 3  # items of a user: one each to train on, to validate with and to test with


class AmazonReviews(tfds.core.GeneratorBasedBuilder):
    """Amazon product data of 2014 (McAuley et al., 2015), made from two files per category that the user downloads.

    Configurations `beauty`, `sports`, `toys` hold the items that occur in the 5-core reviews, in order of their ASIN:
    `id` (ASIN), `title`, `description`, `brand`, `price`, `categories` (flat), `path` (the first category list, root
    first) and `text`, the published item text of LMIndexer (`item_text`).

    Configurations `beauty_sequences`, ... hold `user` and `items`, a user's item ids in order of time. The last item
    is the target in each split: `test` has the whole history, `validation` leaves out its last item, `train` its last two.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name + kind) for kind in ("", _SEQUENCES) for name in _CATEGORIES]
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"Put meta_<category>.json.gz and reviews_<category>_5.json.gz from {_SITE} here."

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        texts = tfds.features.Sequence(text)
        if self.builder_config.name.endswith(_SEQUENCES):
            features = {"user": text, "items": texts}
        else:
            features = dict.fromkeys(("id", "title", "description", "brand", "price", "text"), text)
            features |= {"categories": texts, "path": texts}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), homepage=_SITE, disable_shuffling=True
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        config = self.builder_config.name
        metadata, reviews = manual_files(config, dl_manager.manual_dir)
        histories = read_histories(reviews)
        if config.endswith(_SEQUENCES):
            ends = {"train": -2, "validation": -1, "test": None}
            return {split: self._generate_examples(_sequences(histories, end=end)) for split, end in ends.items()}
        wanted = {item for items in histories.values() for item in items}
        return {"train": self._generate_examples(read_items(metadata, wanted))}

    def _generate_examples(self, records: Iterator[dict]) -> Iterator[tuple[int, dict]]:
        yield from enumerate(records)


def manual_files(config: str, folder: Path) -> tuple[Path, Path]:
    """The metadata and review files of a configuration.

    Raises:
        UserError: one of them is missing.
    """
    category = _CATEGORIES[config.removesuffix(_SEQUENCES)]
    files = (Path(folder) / f"meta_{category}.json.gz", Path(folder) / f"reviews_{category}_5.json.gz")
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise UserError(f"amazon_reviews/{config}: put {' and '.join(missing)} into {folder}; they come from {_SITE}")
    return files


def item_text(record: dict) -> str:
    """The item text as LMIndexer published it: `title: T, description: D, brand: B, price: P, category: C1, C2, ...`.

    A field that the metadata lacks or leaves empty is left out with its name; the category is the first list, root first.
    """
    parts = [f"{name}: {record[name]}" for name in ("title", "description", "brand", "price") if record.get(name)]
    first = (record.get("categories") or [[]])[0]
    return ", ".join([*parts, *([f"category: {', '.join(first)}"] if first else [])])


def read_items(metadata: Path, wanted: set[str]) -> Iterator[dict]:
    """The records of the wanted items, in order of ASIN; an item without metadata has empty fields.

    The lines of the metadata are Python literals, not JSON (single quotes, `\\x` escapes), with HTML entities in texts.
    """
    found: dict[str, dict] = {}
    for where, line in _lines(metadata):
        asin = _between(line, "'asin': '", "'")
        if asin and asin not in wanted:
            continue  # parsing a line costs far more than this look at it, and most items are outside the 5-core
        try:
            record = ast.literal_eval(line)
            if record["asin"] in wanted:
                found[record["asin"]] = _unescape(record)
        except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError) as error:
            raise UserError(f"{where}: no Python literal with 'asin'; download the file again from {_SITE}") from error
    for asin in sorted(wanted):
        record = found.get(asin, {})
        categories = record.get("categories") or [[]]
        yield {
            "id": asin,
            **{name: str(record.get(name, "")) for name in ("title", "description", "brand", "price")},
            "categories": list(dict.fromkeys(name for path in categories for name in path)),
            "path": categories[0],
            "text": item_text(record),
        }


def read_histories(reviews: Path) -> dict[str, list[str]]:
    """Each user's items in order of time (equal times: in order of the file); users in order of first appearance."""
    histories: dict[str, list[tuple[int, str]]] = {}
    for where, line in _lines(reviews):
        try:
            review = json.loads(line)
            user, event = review["reviewerID"], (int(review["unixReviewTime"]), review["asin"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{where}: no JSON review with reviewerID, asin and unixReviewTime; download it again") from error
        histories.setdefault(user, []).append(event)
    return {
        user: [item for _, item in sorted(events, key=lambda event: event[0])] for user, events in histories.items()
    }


def _sequences(histories: dict[str, list[str]], *, end: int | None) -> Iterator[dict]:
    for user, items in histories.items():
        if len(items) >= _FEWEST:
            yield {"user": user, "items": items[:end]}


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines of a gzip file, each with its place."""
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}:{number}", line
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}:{number + 1}: damaged ({error}); download it again from {_SITE}") from error


def _between(line: str, before: str, after: str) -> str:
    return line.partition(before)[2].partition(after)[0]


def _unescape(value):
    """HTML entities (`&amp;`, `&quot;`) as the characters they stand for, throughout a record."""
    if isinstance(value, str):
        return html.unescape(value)
    if isinstance(value, list):
        return [_unescape(part) for part in value]
    return {key: _unescape(part) for key, part in value.items()} if isinstance(value, dict) else value
