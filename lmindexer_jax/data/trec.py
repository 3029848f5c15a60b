"""TREC's files: judgements (`query 0 document grade`) and runs (`query Q0 document rank score tag`), in and out."""

import pathlib
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

from lmindexer_jax.data.qrels import Qrels, make_qrels
from lmindexer_jax.data.readers import text_lines
from lmindexer_jax.data.records import shown
from lmindexer_jax.errors import UserError
from lmindexer_jax.files import replacing


def check_names(names: Iterable[str]) -> None:
    """Refuses ids that cannot stand in a TREC file: to be asked before the work whose results are written as one.

    Raises:
      UserError: an id is empty or holds white space.
    """
    for name in names:
        _word(name)


def escaped(names: Sequence[str]) -> list[str]:
    """Ids as they can stand in a TREC file: where one of them holds white space, that and every % are percent-encoded in all
    (`urllib.parse.unquote` gives them back), so that no two become one; else as they are."""
    if not any(re.search(r"\s", name) for name in names):
        return list(names)
    return [re.sub(r"[%\s]", lambda found: urllib.parse.quote(found[0]), name) for name in names]


def write_run(
    path: pathlib.Path,
    rows: Int[np.ndarray, "Q k"],
    scores: Float[np.ndarray, "Q k"],
    *,
    queries: Sequence[str],
    documents: Sequence[str],
    tag: str,
) -> None:
    """Writes ranked documents as a run file, for any TREC tool to read.

    Args:
      path: the file.
      rows: of the corpus, best first; -1 where there is none.
      scores: falling along each row; tools order by them, so that documents of equal score are a tie to them.
      queries: ids of the queries.
      documents: ids of the corpus.
      tag: name of the run.

    Raises:
      UserError: an id or the tag holds white space, which separates the fields.
      ValueError: a score is not a number, or a row of scores rises.
    """
    held = rows >= 0
    if not np.isfinite(scores[held]).all():
        raise ValueError("a run's scores must be finite numbers")
    falling = np.where(held, scores, -np.inf)
    falling = np.where(held, falling, np.minimum.accumulate(np.where(held, scores, np.inf), axis=1))
    if (falling[:, 1:] > falling[:, :-1]).any():
        raise ValueError("a run's scores must fall along each row")
    _word(tag)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for query, found, values in zip(queries, rows, scores, strict=True):
            _word(query)
            for rank, place in enumerate(np.flatnonzero(found >= 0), start=1):
                document = _word(documents[int(found[place])])
                file.write(f"{query} Q0 {document} {rank} {float(values[place])!r} {tag}\n")


def read_run(
    path: pathlib.Path, *, queries: Sequence[str], documents: Sequence[str]
) -> tuple[Int[np.ndarray, "Q k"], Float[np.ndarray, "Q k"]]:
    """Reads a run file; a query that the file lacks has no documents.

    Documents are ordered by falling score, equal ones as they stand in the file.

    Returns:
      rows of the corpus, -1 where there is none, and their scores, -inf there.

    Raises:
      UserError: a line is not of six fields, names an unknown query or document or one twice, or its score is no number.
    """
    query_of = {name: number for number, name in enumerate(queries)}
    row_of = {name: row for row, name in enumerate(documents)}
    found: list[dict[int, float]] = [{} for _ in queries]
    for where, (query, _, document, _, score, _) in _run_lines(path):
        number, row = _known(query, query_of, where, "query"), _known(document, row_of, where, "document")
        if row in found[number]:
            raise UserError(f"{where}: document {shown(document)} stands twice under query {shown(query)}; keep one of the lines")
        try:
            value = float(score)
        except ValueError:
            value = np.nan
        if not np.isfinite(value):
            raise UserError(f"{where}: score {shown(score)} is no number")
        found[number][row] = value
    width = max(map(len, found), default=0)
    rows, scores = np.full((len(found), width), -1, np.int64), np.full((len(found), width), -np.inf)
    for number, scored in enumerate(found):
        ranked = sorted(scored.items(), key=lambda item: -item[1])
        rows[number, : len(ranked)] = [row for row, _ in ranked]
        scores[number, : len(ranked)] = [score for _, score in ranked]
    return rows, scores


def ranked_documents(path: pathlib.Path) -> Iterator[str]:
    """The documents of a run file, line by line; see `read_run`."""
    for _, (_, _, document, *_) in _run_lines(path):
        yield document


def write_qrels(path: pathlib.Path, qrels: Qrels, *, queries: Sequence[str], documents: Sequence[str]) -> None:
    """Writes judgements as a TREC file.

    Raises:
      UserError: an id holds white space.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for query, row, grade in zip(qrels.query, qrels.rows, qrels.grades, strict=True):
            file.write(f"{_word(queries[int(query)])} 0 {_word(documents[int(row)])} {grade}\n")


def read_qrels(path: pathlib.Path, *, queries: Sequence[str], documents: Sequence[str]) -> Qrels:
    """Reads a TREC file of judgements; a negative grade is TREC's mark of junk and counts as 0.

    Raises:
      UserError: see `judgements`; or a line names an unknown query or document.
    """
    query_of = {name: number for number, name in enumerate(queries)}
    row_of = {name: row for row, name in enumerate(documents)}
    found = [
        (_known(query, query_of, where, "query"), _known(document, row_of, where, "document"), grade)
        for where, query, document, grade in judgements(path)
    ]
    columns = np.asarray(found, np.int64).reshape(-1, 3).T
    return make_qrels(*columns, queries=len(queries))


def judgements(path: pathlib.Path) -> Iterator[tuple[str, str, str, int]]:
    """The lines of a TREC file of judgements: place in the file, query, document, grade.

    Raises:
      UserError: a line is not of four fields, its grade is no whole number, or a document is judged twice for a query.
    """
    seen = set()
    for where, (query, _, document, grade) in _fields(path, count=4, form="query 0 document grade"):
        if not re.fullmatch("-?[0-9]{1,3}", grade):
            raise UserError(f"{where}: grade {grade[:20]!r} is no whole number below 1000")
        if (query, document) in seen:
            raise UserError(f"{where}: document {shown(document)} is judged twice for query {shown(query)}; keep one of the lines")
        seen.add((query, document))
        yield where, query, document, max(0, int(grade))


def _run_lines(path: pathlib.Path) -> Iterator[tuple[str, list[str]]]:
    return _fields(path, count=6, form="query Q0 document rank score tag")


def _fields(path: pathlib.Path, *, count: int, form: str) -> Iterator[tuple[str, list[str]]]:
    for where, line in text_lines(path):
        fields = line.split()
        if len(fields) != count:
            raise UserError(f"{where}: {len(fields)} fields; write `{form}`")
        yield where, fields


def _known(name: str, numbers: dict[str, int], where: str, kind: str) -> int:
    if name not in numbers:
        raise UserError(f"{where}: unknown {kind} {shown(name)}")
    return numbers[name]


def _word(name: str) -> str:
    if not name or len(name.split()) != 1 or name.split()[0] != name:
        raise UserError(f"{shown(name)} cannot stand in a TREC file, whose fields are separated by white space; use another id")
    return name
