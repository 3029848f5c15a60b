"""TFDS builder `esci`: shopping queries and the products that match them exactly."""

import html
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tensorflow_datasets as tfds

from lmindexer_jax.data.builders import amazon_reviews
from lmindexer_jax.data.builders.judged import manual_files, query_features, query_records
from lmindexer_jax.errors import UserError

_LOCALES = ("us", "es", "jp")
_CATEGORIES = ("beauty", "sports", "toys")
_SITE = "https://github.com/amazon-science/esci-data"
_QUERIES = "_queries"
_EXAMPLES, _PRODUCTS = "shopping_queries_dataset_examples.parquet", "shopping_queries_dataset_products.parquet"
_EXACT = "E"  # of the labels exact, substitute, complement, irrelevant: the one that counts as relevant
_TAG = re.compile(r"<[^<>]*>")


class Esci(tfds.core.GeneratorBasedBuilder):
    """Shopping Queries Data Set (Reddy et al., 2022), made from the two Parquet files that the user downloads.

    Configurations `us`, `es`, `jp` hold the products of a locale: `id` (ASIN), `title`, `description`, `bullets`,
    `brand`, `color`, and `text` as `amazon_reviews.item_text` writes it.

    Configurations `us_queries`, ... hold its queries with their exact matches (label E; the large version), splits
    `train` and `test` as published. `beauty_queries`, `sports_queries`, `toys_queries` hold the queries of the US that
    an item of that `amazon_reviews` corpus matches exactly, with those items alone; they need the files of
    `amazon_reviews` too.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        *(tfds.core.BuilderConfig(name=name) for name in _LOCALES),
        *(tfds.core.BuilderConfig(name=name + _QUERIES) for name in _LOCALES + _CATEGORIES),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"Put {_EXAMPLES} and {_PRODUCTS} from {_SITE} here."

    def _info(self) -> tfds.core.DatasetInfo:
        if self.builder_config.name.endswith(_QUERIES):
            features = query_features()
        else:
            names = ("id", "title", "description", "bullets", "brand", "color", "text")
            features = tfds.features.FeaturesDict(dict.fromkeys(names, tfds.features.Text()))
        return tfds.core.DatasetInfo(builder=self, features=features, homepage=_SITE, disable_shuffling=True)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        config, folder = self.builder_config.name, Path(dl_manager.manual_dir)
        place = {"dataset": f"esci/{config}", "site": _SITE}
        if not config.endswith(_QUERIES):
            (products,) = manual_files(folder, (_PRODUCTS,), **place)
            return {"train": self._generate_examples(read_products(products, locale=config))}
        (examples,) = manual_files(folder, (_EXAMPLES,), **place)
        name = config.removesuffix(_QUERIES)
        items = corpus_items(name, folder) if name in _CATEGORIES else None
        locale = "us" if items is not None else name
        splits = read_queries(examples, locale=locale, items=items)
        if not splits:
            raise UserError(f"esci/{config}: {examples} holds no exact match for it; download the file again from {_SITE}")
        return {split: self._generate_examples(iter(records)) for split, records in splits.items()}

    def _generate_examples(self, records: Iterator[dict]) -> Iterator[tuple[int, dict]]:
        yield from enumerate(records)


def corpus_items(category: str, folder: Path) -> set[str]:
    """The items of an `amazon_reviews` corpus that have a text."""
    metadata, reviews = amazon_reviews.manual_files(category, folder)
    wanted = {item for items in amazon_reviews.read_histories(reviews).values() for item in items}
    return {item["id"] for item in amazon_reviews.read_items(metadata, wanted) if item["text"]}


def read_queries(examples: Path, *, locale: str, items: set[str] | None) -> dict[str, list[dict]]:
    """Queries of a locale with their exact matches, in the order of the file, by split; a split without any is left out.

    Args:
        examples: the published Parquet file.
        locale: us, es or jp; a product may be sold in several, a query belongs to one.
        items: keep matches among these alone, and no query without one; None keeps all.
    """
    columns = ("query", "query_id", "product_id", "product_locale", "esci_label", "split")
    texts: dict[str, dict[str, str]] = {"train": {}, "test": {}}
    judgements: dict[str, list[tuple[str, str, int]]] = {split: [] for split in texts}
    for batch in _batches(examples, columns, {"product_locale": locale, "esci_label": _EXACT}):
        for row in batch.to_pylist():
            if items is None or row["product_id"] in items:
                query = str(row["query_id"])
                texts[row["split"]].setdefault(query, row["query"].strip())
                judgements[row["split"]].append((query, row["product_id"], 1))
    return {split: list(query_records(texts[split], judgements[split])) for split in texts if texts[split]}


def read_products(products: Path, *, locale: str) -> Iterator[dict]:
    """Products of a locale in the order of the file; absent fields are empty, HTML in descriptions becomes plain text."""
    names = {"title": "title", "description": "description", "bullets": "bullet_point", "brand": "brand", "color": "color"}
    columns = ("product_id", "product_locale", *(f"product_{name}" for name in names.values()))
    for batch in _batches(products, columns, {"product_locale": locale}):
        for row in batch.to_pylist():
            record = {name: _plain(row[f"product_{column}"]) for name, column in names.items()}
            yield {"id": row["product_id"], **record, "text": amazon_reviews.item_text(record)}


def _batches(path: Path, columns: tuple[str, ...], wanted: dict[str, str]) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(path) as file:
            missing = set(columns) - set(file.schema_arrow.names)
            if missing:
                raise UserError(f"{path}: no column {', '.join(sorted(missing))}; download the file again from {_SITE}")
            for batch in file.iter_batches(columns=list(columns)):
                for name, value in wanted.items():
                    batch = batch.filter(pc.equal(batch[name], value))
                yield batch
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a readable Parquet file ({reason}); download it again from {_SITE}") from error


def _plain(value: str | None) -> str:
    return " ".join(html.unescape(_TAG.sub(" ", value or "")).split())
