"""Retrieval tasks: queries, and which documents of a corpus answer them, by split.

A folder in the layout of BEIR (Thakur et al., 2021), every file also with `.gz`:

    corpus.jsonl        read by `documents.py` with id_field="_id" and template="{title} {text}"
    queries.jsonl       {"_id" or "query_id": ..., "text": ...}
    qrels/<split>.tsv   header and rows: query-id, corpus-id, score
    qrels/<split>.trec  or without a header: query, 0, document, grade
    qrels.tsv           or in place of that folder all splits in one file: split, query_id, doc_id, relevance
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from lmindexer_jax.data import prepared, readers, trec
from lmindexer_jax.data.cache import cache_root
from lmindexer_jax.data.documents import CorpusConfig, OnBad
from lmindexer_jax.data.qrels import Qrels, make_qrels
from lmindexer_jax.data.records import Dropped, shown
from lmindexer_jax.errors import UserError

TRAIN = "train"  # the split that retrievers learn from
_QUERY, _DOCUMENT, _GRADE = ("query_id", "query-id"), ("doc_id", "corpus-id"), ("relevance", "score")


@dataclasses.dataclass
class RelevanceConfig:
    """Where queries and judgements come from. Give either `path` or `name`."""

    path: str = ""  # a folder with queries.jsonl and qrels
    name: str = ""  # esci/beauty_queries, nq320k/queries, msmarco/queries, ...
    on_bad: OnBad = OnBad.FAIL  # DROP leaves out judgements of documents that the corpus does not hold
    relevant_from: int = 0  # makes grades binary: relevant from here on; 0 leaves them as they are
    cache_dir: str = ""  # as for the corpus


@dataclasses.dataclass(frozen=True, eq=False)
class Queries:
    """Q queries and their judgements."""

    ids: list[str]
    texts: list[str]
    qrels: Qrels

    def __len__(self) -> int:
        """Queries."""
        return len(self.ids)

    def take(self, queries: Int[np.ndarray, " P"]) -> "Queries":
        """Some of the queries, in the order given."""
        return Queries([self.ids[q] for q in queries], [self.texts[q] for q in queries], self.qrels.take(queries))

    def answerable(self) -> "Queries":
        """The queries that some document answers; the others have no score under any metric."""
        return self.take(np.flatnonzero(self.qrels.relevant > 0))


@dataclasses.dataclass(frozen=True, eq=False)
class RetrievalTask:
    """Queries over a corpus of N documents.

    Attributes:
        documents: ids of the corpus; `qrels.rows` counts in them.
        splits: the judged queries of each split, in the order of the query file.
        missing: judgements left out because the corpus does not hold their document, by split.
    """

    documents: Sequence[str]
    splits: dict[str, Queries]
    missing: dict[str, int]

    def split(self, name: str) -> Queries:
        """The queries of one split; a UserError names those there are where it is not one of them."""
        if name not in self.splits:
            raise UserError(f"no split {shown(name)} among the judgements; there are {', '.join(self.splits)}")
        return self.splits[name]


def open_task(config: RelevanceConfig, documents: Sequence[str]) -> RetrievalTask:
    """Reads and validates queries and judgements.

    Args:
        config: where they are.
        documents: ids of the corpus.

    Raises:
        UserError: neither or both of path and name are given; `relevant_from` is below 0; a file is missing or damaged; a line
            of it is unfit (a query id twice, an empty query, a grade that is no whole number from 0, a document judged twice
            for a query with different grades, an unknown query, or, unless `on_bad` is DROP, an unknown document); or nothing
            is left.
    """
    if bool(config.path) == bool(config.name):
        raise UserError("give exactly one of relevance.path (a folder with queries.jsonl and qrels) and relevance.name")
    if config.relevant_from < 0:
        raise UserError(f"relevance.relevant_from: a grade from 1 on makes judgements binary, not {config.relevant_from}")
    if config.path:
        source, queries, judgements = _read_folder(Path(config.path).expanduser())
    else:
        source, queries, judgements = _read_prepared(config)
    number_of = {name: number for number, name in enumerate(queries)}
    row_of = {name: row for row, name in enumerate(documents)}
    grades: dict[str, dict[tuple[int, int], int]] = {}
    missing: dict[str, int] = {}
    for where, split, query, document, grade in judgements:
        if query not in number_of:
            raise UserError(f"{where}: unknown query {shown(query)}; it is not among the queries of {source}")
        if document not in row_of:
            if config.on_bad == OnBad.FAIL:
                raise UserError(
                    f"{where}: no corpus holds document {shown(document)}; give the corpus that was judged, or leave such "
                    "judgements out by --drop"
                )
            missing[split] = missing.get(split, 0) + 1
            continue
        pair = (number_of[query], row_of[document])
        before = grades.setdefault(split, {}).setdefault(pair, grade)
        if before != grade:
            raise UserError(f"{where}: document {shown(document)} has grades {before} and {grade} for query {shown(query)}; keep one")
    if not grades:
        raise UserError(f"{source}: no judgement is left; the corpus holds none of the judged documents")
    names, texts = list(queries), list(queries.values())
    splits = {}
    for split, pairs in grades.items():
        columns = np.asarray([(*pair, grade) for pair, grade in pairs.items()], np.int64).T
        judged = np.unique(columns[0])
        qrels = make_qrels(np.searchsorted(judged, columns[0]), columns[1], columns[2], queries=len(judged))
        qrels = qrels.at_least(config.relevant_from) if config.relevant_from else qrels
        splits[split] = Queries([names[q] for q in judged], [texts[q] for q in judged], qrels)
    return RetrievalTask(documents, splits, missing)


def folder_corpus(path: str, **settings: object) -> CorpusConfig:
    """The corpus of a folder in BEIR's layout: title and text, ids from `_id` or `doc_id`; other settings as given."""
    file = _find(Path(path).expanduser(), "corpus.jsonl")
    first = next(readers.read_rows(file, columns=frozenset()), None)
    id_field = "doc_id" if isinstance(first, readers.Row) and "_id" not in first.fields else "_id"
    return CorpusConfig(**{"path": str(file), "id_field": id_field, "template": "{title} {text}"} | settings)


Judgement = tuple[str, str, str, str, int]  # place, split, query, document, grade


def _read_folder(folder: Path) -> tuple[str, dict[str, str], Iterator[Judgement]]:
    queries, stands = {}, {}
    for row in _rows(_find(folder, "queries.jsonl")):
        name, text = _identifier(row, ("_id", "query_id")), row.fields.get("text")
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{row.where}: query {shown(name)} has no text")
        if name in queries:
            raise UserError(f"{row.where}: query id {shown(name)} stands at {stands[name]} already; make the ids unique")
        queries[name], stands[name] = _unicode(text, row.where), row.where
    return str(folder), queries, _read_judgements(folder)


def _read_judgements(folder: Path) -> Iterator[Judgement]:
    single = [path for path in (folder / "qrels.tsv", folder / "qrels.tsv.gz") if path.exists()]
    by_split = sorted(path for path in (folder / "qrels").glob("[!.]*") if path.name.split(".")[1:2] in (["tsv"], ["trec"]))
    if not single and not by_split:
        raise UserError(f"{folder}: no qrels.tsv and no qrels/<split>.tsv; put the judgements there")
    if single and by_split:
        raise UserError(f"{folder}: both {single[0].name} and the folder qrels; keep one of them")
    for path in single or by_split:
        split = "" if single else path.name.split(".")[0]
        if path.name.split(".")[1] == "trec":
            for where, query, document, grade in trec.judgements(path):
                yield where, split, query, document, grade
        else:
            for row in _rows(path):
                own = split or _field(row, ("split",))
                yield row.where, own, _identifier(row, _QUERY), _identifier(row, _DOCUMENT), _grade(row)


def _read_prepared(config: RelevanceConfig) -> tuple[str, dict[str, str], Iterator[Judgement]]:
    directory = prepared.prepare(config.name, cache_root(config.cache_dir))
    queries: dict[str, str] = {}
    judgements: list[Judgement] = []
    for split in prepared.split_names(directory):
        for row in prepared.read_rows(directory, split):
            if isinstance(row, Dropped) or not {"id", "text", "documents", "grades"} <= row.fields.keys():
                raise UserError(f"{config.name}: holds no queries; name a configuration that does, as esci/beauty_queries")
            queries[row.fields["id"]] = row.fields["text"]
            pairs = zip(row.fields["documents"], row.fields["grades"], strict=True)
            judgements += [(row.where, split, row.fields["id"], document, int(grade)) for document, grade in pairs]
    return config.name, queries, iter(judgements)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise UserError(f"{folder}: no {name} or {name}.gz; a retrieval task is a folder with queries.jsonl and qrels")


def _rows(path: Path) -> Iterator[readers.Row]:
    """The records of a file, every one of them: an unfit line is an error."""
    for row in readers.read_rows(path, columns=frozenset()):
        if isinstance(row, Dropped):
            raise UserError(f"{row}; {row.reason.remedy}")
        yield row


def _field(row: readers.Row, names: tuple[str, ...]) -> object:
    for name in names:
        if name in row.fields:
            return row.fields[name]
    raise UserError(f"{row.where}: no field {' or '.join(map(repr, names))}; it holds {shown(list(row.fields))[1:-1]}")


def _identifier(row: readers.Row, names: tuple[str, ...]) -> str:
    value = _field(row, names)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise UserError(f"{row.where}: {names[0]} {shown(value)} is neither a string nor a whole number")
    return _unicode(str(value), row.where)


def _grade(row: readers.Row) -> int:
    value = str(_field(row, _GRADE)).strip()
    if not re.fullmatch("[0-9]{1,3}", value):
        raise UserError(f"{row.where}: grade {value[:20]!r} is no whole number from 0 to 999; 0 means not relevant")
    return int(value)


def _unicode(text: str, where: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # an undecodable byte that the reader of CSV has let through
        raise UserError(f"{where}: bad UTF-8; save the file as UTF-8") from error
    return text
