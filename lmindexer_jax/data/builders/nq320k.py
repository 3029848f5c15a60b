"""TFDS builder `nq320k`: questions to Google and the Wikipedia pages that answer them."""

import json
import re
import unicodedata
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import tensorflow_datasets as tfds

from lmindexer_jax.data.builders.judged import manual_files, query_features, query_records
from lmindexer_jax.data.readers import text_lines
from lmindexer_jax.errors import UserError

_SITE = "https://ai.google.com/research/NaturalQuestions/download"
_TRAIN = ("v1.0-simplified_simplified-nq-train.jsonl.gz", "simplified-nq-train.jsonl.gz")
_DEV = ("v1.0-simplified_nq-dev-all.jsonl.gz", "nq-dev-all.jsonl.gz")
_TAG = re.compile(r"<[^<>]+>")
_HEADING = re.compile(r"<H1>(.*?)</H1>", re.DOTALL)


class Page(NamedTuple):
    """One line of Natural Questions."""

    split: str
    example: str
    question: str
    title: str
    text: str


class Nq320k(tfds.core.GeneratorBasedBuilder):
    """Natural Questions (Kwiatkowski et al., 2019) as document retrieval, in the way of NCI (Wang et al., 2022).

    Made from the simplified training file and the development file, which the user downloads. Pages of one title are one
    document (versions of a page differ by date), the first met of training, then development. Configuration `documents`
    holds `id` and `title` (the page's title) and `text`: the title and the page from its first paragraph on. `queries`
    holds every question with its page: `train` (307,373) is the training file, `test` (7,830) the development file.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in ("documents", "queries")]
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"Put {_TRAIN[0]} and {_DEV[0]} from {_SITE} here."

    def _info(self) -> tfds.core.DatasetInfo:
        features = query_features()
        if self.builder_config.name == "documents":
            features = tfds.features.FeaturesDict(dict.fromkeys(("id", "title", "text"), tfds.features.Text()))
        return tfds.core.DatasetInfo(builder=self, features=features, homepage=_SITE, disable_shuffling=True)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        config = self.builder_config.name
        files = manual_files(dl_manager.manual_dir, _TRAIN, _DEV, dataset=f"nq320k/{config}", site=_SITE)
        if config == "documents":
            return {"train": self._generate_examples(read_documents(*files))}
        return {split: self._generate_examples(iter(records)) for split, records in read_queries(*files).items()}

    def _generate_examples(self, records: Iterator[dict]) -> Iterator[tuple[int, dict]]:
        yield from enumerate(records)


def read_documents(train: Path, dev: Path) -> Iterator[dict]:
    """The first page of every title."""
    seen: set[str] = set()
    for page in read_pages(train, dev):
        if (key := title_key(page.title)) not in seen:
            seen.add(key)
            yield {"id": page.title, "title": page.title, "text": page.text}


def read_queries(train: Path, dev: Path) -> dict[str, list[dict]]:
    """Every question with the document of its page's title, by split."""
    first: dict[str, str] = {}
    texts: dict[str, dict[str, str]] = {"train": {}, "test": {}}
    judgements: dict[str, list[tuple[str, str, int]]] = {"train": [], "test": []}
    for page in read_pages(train, dev):
        document = first.setdefault(title_key(page.title), page.title)
        texts[page.split][page.example] = page.question
        judgements[page.split].append((page.example, document, 1))
    return {split: list(query_records(texts[split], judgements[split])) for split in texts}


def read_pages(train: Path, dev: Path) -> Iterator[Page]:
    """The lines of both files.

    The training file has a page as one string of tokens with its tags between them; the development file has it in the
    original format, as a list of tokens, and names the title. A page without a heading is called as its address says.

    Raises:
        UserError: a line is no such record.
    """
    for split, path in (("train", train), ("test", dev)):
        for where, line in text_lines(path):
            try:
                record = json.loads(line)
                example, question = str(record["example_id"]), record["question_text"].strip()
                if "document_text" in record:
                    marked = record["document_text"]
                else:
                    marked = " ".join(token["token"] for token in record["document_tokens"])
                heading = _HEADING.search(marked)
                title = record.get("document_title") or (_plain(heading[1]) if heading else "")
                title = title or _title_of(record["document_url"])
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{where}: no record of Natural Questions ({error}); download the file again") from error
            yield Page(split, example, question, title, f"{title}. {_body(marked)}".strip())


def title_key(title: str) -> str:
    """Equal for spellings of one title: the two files differ in case, accents and the spaces around punctuation."""
    letters = unicodedata.normalize("NFKD", title.casefold())
    return "".join(letter for letter in letters if not letter.isspace() and not unicodedata.combining(letter)) or title


def _body(marked: str) -> str:
    """The page's text from its first paragraph on: before it stand boxes and links."""
    start = marked.find("<P>")
    return _plain(marked[start:] if start >= 0 else _HEADING.sub(" ", marked))


def _plain(marked: str) -> str:
    return " ".join(_TAG.sub(" ", marked).split())


def _title_of(address: str) -> str:
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(address.replace("&amp;", "&")).query)
    return query.get("title", [address])[0].replace("_", " ")
