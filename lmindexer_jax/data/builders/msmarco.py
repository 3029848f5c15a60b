"""TFDS builder `msmarco`: web documents, questions to Bing, and TREC's graded judgements."""

from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from lmindexer_jax.data import trec
from lmindexer_jax.data.builders.judged import manual_files, query_features, query_records
from lmindexer_jax.data.readers import text_lines
from lmindexer_jax.errors import UserError

_SITE = "https://microsoft.github.io/msmarco/Datasets.html"
_DOCUMENTS = ("msmarco-docs.tsv.gz", "msmarco-docs.tsv")
# Queries and judgements of each split; those of TREC are used where they are there.
_SPLITS = {
    "train": (
        ("msmarco-doctrain-queries.tsv.gz", "msmarco-doctrain-queries.tsv"),
        ("msmarco-doctrain-qrels.tsv.gz", "msmarco-doctrain-qrels.tsv"),
    ),
    "validation": (
        ("msmarco-docdev-queries.tsv.gz", "msmarco-docdev-queries.tsv"),
        ("msmarco-docdev-qrels.tsv.gz", "msmarco-docdev-qrels.tsv"),
    ),
    "trec_dl_2019": (
        ("msmarco-test2019-queries.tsv.gz", "msmarco-test2019-queries.tsv"),
        ("2019qrels-docs.txt", "2019qrels-docs.txt.gz"),
    ),
    "trec_dl_2020": (
        ("msmarco-test2020-queries.tsv.gz", "msmarco-test2020-queries.tsv"),
        ("2020qrels-docs.txt", "2020qrels-docs.txt.gz"),
    ),
}
_OPTIONAL = ("trec_dl_2019", "trec_dl_2020")


class Msmarco(tfds.core.GeneratorBasedBuilder):
    """MS MARCO document ranking (Nguyen et al., 2016; Craswell et al., 2020), from the files that the user downloads.

    Configuration `documents` holds the 3.2 million pages: `id`, `url`, `title` and `text` (title and body). `queries`
    holds questions with their judged pages: `train` and `validation` (the published development set) with one relevant
    page each, `trec_dl_2019` and `trec_dl_2020` with grades from 0 to 3, where their files are there when it is built.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in ("documents", "queries")]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Put {_DOCUMENTS[0]} and, of doctrain, docdev and (optional) test2019 and test2020, queries and qrels from {_SITE} here."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        features = query_features()
        if self.builder_config.name == "documents":
            features = tfds.features.FeaturesDict(dict.fromkeys(("id", "url", "title", "text"), tfds.features.Text()))
        return tfds.core.DatasetInfo(builder=self, features=features, homepage=_SITE, disable_shuffling=True)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        folder, place = Path(dl_manager.manual_dir), {"dataset": f"msmarco/{self.builder_config.name}", "site": _SITE}
        if self.builder_config.name == "documents":
            (path,) = manual_files(folder, _DOCUMENTS, **place)
            return {"train": self._generate_examples(read_documents(path))}
        splits = {}
        for split, choices in _SPLITS.items():
            if split not in _OPTIONAL or any((folder / name).exists() for name in choices[0] + choices[1]):
                splits[split] = self._generate_examples(read_queries(*manual_files(folder, *choices, **place)))
        return splits

    def _generate_examples(self, records: Iterator[dict]) -> Iterator[tuple[int, dict]]:
        yield from enumerate(records)


def read_documents(path: Path) -> Iterator[dict]:
    """The pages: id, address, title and body, separated by tabs, without header, quoting or escapes.

    Raises:
        UserError: a line is not of four fields.
    """
    for where, line in text_lines(path):
        fields = line.split("\t")
        if len(fields) != 4:
            raise UserError(f"{where}: {len(fields)} fields instead of 4 (id, url, title, body); download the file again")
        name, url, title, body = (field.strip() for field in fields)
        yield {"id": name, "url": url, "title": title, "text": f"{title} {body}".strip()}


def read_queries(queries: Path, qrels: Path) -> Iterator[dict]:
    """Judged questions; the qrels are in TREC's format, whatever the name of the file says.

    Raises:
        UserError: a line is not of two fields, or see `trec.judgements`.
    """
    texts = {}
    for where, line in text_lines(queries):
        name, tab, text = line.partition("\t")
        if not tab or not text.strip():
            raise UserError(f"{where}: no `id TAB question`; download the file again")
        texts[name.strip()] = text.strip()
    yield from query_records(texts, ((query, document, grade) for _, query, document, grade in trec.judgements(qrels)))
