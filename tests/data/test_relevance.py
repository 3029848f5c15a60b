"""Queries and judgements in BEIR's and TREC's layouts: read alike, refused by line, and checked for leaks."""

import gzip
import json

import numpy as np
import pytest

from lmindexer_jax.data import alignment
from lmindexer_jax.data.alignment import Fault
from lmindexer_jax.data.corpus import open_corpus
from lmindexer_jax.data.documents import OnBad
from lmindexer_jax.data.qrels import make_qrels
from lmindexer_jax.data.relevance import RelevanceConfig, folder_corpus, open_task
from lmindexer_jax.errors import UserError

DOCUMENTS = ["d1", "d2", "7"]
QUERIES = [{"_id": "q1", "text": "first?"}, {"_id": 2, "text": "second"}, {"_id": "q3", "text": "third", "split": "x"}]
JUDGED = [("train", "q1", "d1", 1), ("test", "q3", "7", 2), ("test", "2", "d2", 1), ("test", "q3", "d1", 0)]


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(folder, *, queries=QUERIES, judged=JUDGED, corpus=None):
    """The layout with one file of judgements."""
    folder.mkdir(exist_ok=True)
    (folder / "queries.jsonl").write_text(jsonl(queries))
    rows = ["split\tquery_id\tdoc_id\trelevance", *("\t".join(map(str, row)) for row in judged)]
    (folder / "qrels.tsv").write_text("\n".join(rows) + "\n")
    if corpus:
        (folder / "corpus.jsonl").write_text(jsonl(corpus))
    return folder


def read(folder, **settings):
    return open_task(RelevanceConfig(path=str(folder), **settings), DOCUMENTS)


def check_read(task):
    assert set(task.splits) == {"train", "test"} and not task.missing
    test = task.split("test")
    assert (test.ids, test.texts) == (["2", "q3"], ["second", "third"])  # in the order of the query file
    assert test.qrels.offsets.tolist() == [0, 1, 3]
    assert test.qrels.rows.tolist() == [1, 2, 0] and test.qrels.grades.tolist() == [1, 2, 0]
    assert task.split("train").ids == ["q1"]
    with pytest.raises(UserError, match="no split 'dev' among the judgements; there are t"):
        task.split("dev")


def test_one_file_of_judgements(tmp_path):
    check_read(read(write(tmp_path)))


def test_gzipped_with_a_byte_order_mark(tmp_path):
    write(tmp_path)
    for name in ("queries.jsonl", "qrels.tsv"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes()))
        (tmp_path / name).unlink()
    check_read(read(tmp_path))


@pytest.mark.parametrize("suffix", ["tsv", "trec"])
def test_a_file_of_judgements_per_split(tmp_path, suffix):
    write(tmp_path)
    (tmp_path / "qrels.tsv").unlink()
    (tmp_path / "qrels").mkdir()
    for split in ("train", "test"):
        rows = [(query, document, grade) for own, query, document, grade in JUDGED if own == split]
        lines = ["query-id\tcorpus-id\tscore"] if suffix == "tsv" else []
        lines += ["\t".join(map(str, row)) if suffix == "tsv" else f"{row[0]} 0 {row[1]} {row[2]}" for row in rows]
        (tmp_path / "qrels" / f"{split}.{suffix}").write_text("\n".join(lines) + "\n")
    check_read(read(tmp_path))
    (tmp_path / "qrels.tsv").write_text("split\tquery_id\tdoc_id\trelevance\n")
    with pytest.raises(UserError, match="both qrels.tsv and the folder qrels"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("test", "q1", "d9", 1), r"qrels.tsv:6: no corpus holds document 'd9'"),
        (("test", "q9", "d1", 1), r"qrels.tsv:6: unknown query 'q9'"),
        (("test", "q1", "d1", "1.0"), r"qrels.tsv:6: grade '1.0' is no whole number"),
        (("test", "q1", "d1", -1), r"qrels.tsv:6: grade '-1'"),
        (("test", "q1", "d1", "²"), r"qrels.tsv:6: grade '²'"),
        (("test", "q1", "d1", "9" * 5000), r"qrels.tsv:6: grade '999"),
        (("test", "q3", "d1", 1), r"qrels.tsv:6: document 'd1' has grades 0 and 1 for query 'q3'"),
        (("test", "q1", "", 1), r"qrels.tsv:6: doc_id '' is neither"),
        (("test", "q1", "d1"), r"qrels.tsv:6: invalid CSV \(3 fields, the header has 4\)"),
    ],
)
def test_an_unfit_judgement_is_named(tmp_path, extra, message):
    with pytest.raises(UserError, match=message):
        read(write(tmp_path, judged=[*JUDGED, extra]))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"_id": "q1", "text": "again"}, r"queries.jsonl:4: query id 'q1' stands at .*queries.jsonl:1 already"),
        ({"_id": 2.5, "text": "x"}, r"queries.jsonl:4: _id 2.5 is neither"),
        ({"_id": True, "text": "x"}, r"queries.jsonl:4: _id True"),
        ({"_id": "q4", "text": " "}, r"queries.jsonl:4: query 'q4' has no text"),
        ({"_id": "q4"}, r"queries.jsonl:4: query 'q4' has no text"),
        ({"_id": "q4", "text": "\ud800"}, r"queries.jsonl:4: bad UTF-8"),
        ({"name": "q4", "text": "x"}, r"queries.jsonl:4: no field '_id' or 'query_id'; it holds 'name', 'text'"),
        (["q4"], r"queries.jsonl:4: wrong type"),
    ],
)
def test_an_unfit_query_is_named(tmp_path, extra, message):
    with pytest.raises(UserError, match=message):
        read(write(tmp_path, queries=[*QUERIES, extra]))


def test_bad_utf8_is_named_by_line(tmp_path):
    write(tmp_path)
    (tmp_path / "queries.jsonl").write_bytes((tmp_path / "queries.jsonl").read_bytes() + b'{"_id": "\xff", "text": "x"}\n')
    with pytest.raises(UserError, match=r"queries.jsonl:4: bad UTF-8"):
        read(tmp_path)
    write(tmp_path)
    (tmp_path / "qrels.tsv").write_bytes((tmp_path / "qrels.tsv").read_bytes() + b"test\tq1\t\xff\t1\n")
    with pytest.raises(UserError, match=r"qrels.tsv:6: bad UTF-8"):
        read(tmp_path)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(UserError, match="exactly one of relevance.path"):
        open_task(RelevanceConfig(), DOCUMENTS)
    with pytest.raises(UserError, match="no queries.jsonl or queries.jsonl.gz"):
        read(tmp_path)
    (tmp_path / "queries.jsonl").write_text(jsonl(QUERIES))
    with pytest.raises(UserError, match="no qrels.tsv and no qrels/<split>.tsv"):
        read(tmp_path)
    (tmp_path / "qrels.tsv").write_text("query\tdoc\n")
    with pytest.raises(UserError, match="no judgement is left"):
        read(tmp_path)


def test_judgements_of_unknown_documents_can_be_dropped_and_are_counted(tmp_path):
    task = read(write(tmp_path, judged=[*JUDGED, ("test", "q1", "d9", 1), ("dev", "q1", "d9", 1)]), on_bad=OnBad.DROP)
    assert task.missing == {"test": 1, "dev": 1} and set(task.splits) == {"train", "test"}
    found = {(finding.fault, finding.split): (finding.count, finding.of) for finding in alignment.check(task)}
    assert found == {(Fault.MISSING_DOCUMENT, "test"): (1, 4), (Fault.MISSING_DOCUMENT, "dev"): (1, 1)}


def test_grades_can_be_made_binary(tmp_path):
    folder = write(tmp_path)
    assert [read(folder, relevant_from=grade).split("test").qrels.grades.tolist() for grade in (0, 1, 2)] == [[1, 2, 0], [1, 1, 0], [0, 1, 0]]
    with pytest.raises(UserError, match="a grade from 1 on"):
        read(folder, relevant_from=-1)


def test_leaks_and_dead_ends_are_found(tmp_path):
    queries = [*QUERIES, {"_id": "q4", "text": " FIRST?"}, {"_id": "q5", "text": "fifth"}]
    judged = [*JUDGED, ("test", "q4", "d2", 1), ("test", "q1", "d1", 1), ("test", "q5", "d1", 0)]
    found = {finding.fault: finding for finding in alignment.check(read(write(tmp_path, queries=queries, judged=judged)))}
    assert set(found) == {Fault.LEAKED_QUERY, Fault.LEAKED_JUDGEMENT, Fault.UNANSWERABLE}
    assert (found[Fault.LEAKED_QUERY].count, found[Fault.LEAKED_QUERY].of) == (2, 5)
    assert str(found[Fault.LEAKED_JUDGEMENT]).startswith("test: 1 of 6 judgements of the same query and document")
    assert found[Fault.UNANSWERABLE].example == "'q5'"
    assert not alignment.check(read(write(tmp_path)))


def test_the_corpus_of_a_folder(tmp_path):
    for name in ("_id", "doc_id"):
        corpus = [{name: "d1", "title": "A", "text": "b"}, {name: "d2", "title": "", "text": "c"}, {name: "7", "text": "d"}]
        write(tmp_path / name, corpus=corpus)
        config = folder_corpus(str(tmp_path / name), cache_dir=str(tmp_path / "cache"))
        documents = open_corpus(config)
        assert documents.ids().to_pylist() == DOCUMENTS and documents.texts(range(3)) == ["A b", "c", "d"]
    assert folder_corpus(str(tmp_path / "_id"), template="{text}").template == "{text}"


def test_qrels_select_and_threshold():
    qrels = make_qrels([1, 0, 1, 3], [5, 6, 7, 8], [1, 2, 3, 0], queries=4)
    assert qrels.query.tolist() == [0, 1, 1, 3] and qrels.rows.tolist() == [6, 5, 7, 8]
    assert qrels.relevant.tolist() == [1, 2, 0, 0] and qrels.at_least(2).relevant.tolist() == [1, 1, 0, 0]
    taken = qrels.take(np.array([3, 1, 1]))
    assert taken.offsets.tolist() == [0, 1, 3, 5] and taken.rows.tolist() == [8, 5, 7, 5, 7]
    some = qrels.of(np.arange(9) != 7)
    assert len(some) == 4 and some.rows.tolist() == [6, 5, 8] and some.grades.tolist() == [2, 1, 0]
