"""`esci`, `nq320k` and `msmarco` on small files with the quirks of the true ones."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmindexer_jax.data import prepared
from lmindexer_jax.data.builders import esci, msmarco, nq320k
from lmindexer_jax.data.corpus import open_corpus
from lmindexer_jax.data.documents import CorpusConfig
from lmindexer_jax.data.relevance import RelevanceConfig, open_task
from lmindexer_jax.errors import UserError


@pytest.fixture
def manual(tmp_path):
    folder = tmp_path / "tfds" / "downloads" / "manual"
    folder.mkdir(parents=True)
    return folder


def corpus_and_task(cache, corpus, queries):
    documents = open_corpus(CorpusConfig(name=corpus, cache_dir=str(cache)))
    return documents, open_task(RelevanceConfig(name=queries, cache_dir=str(cache)), documents.ids().to_pylist())


def answers(task, split):
    """The judged documents and grades of every query of a split."""
    queries = task.split(split)
    found = {(name, text): [] for name, text in zip(queries.ids, queries.texts, strict=True)}
    for query, row, grade in zip(queries.qrels.query, queries.qrels.rows, queries.qrels.grades, strict=True):
        found[queries.ids[query], queries.texts[query]].append((task.documents[row], grade))
    return found


# As published: one row per judged pair, three locales in one file, a product in several, a pandas index.
EXAMPLES = [
    (0, " !qscreen fence ", 7, "B001", "us", "E", 0, 1, "train"),
    (1, " !qscreen fence ", 7, "B002", "us", "S", 0, 1, "train"),
    (2, " !qscreen fence ", 7, "B999", "us", "E", 0, 1, "train"),
    (3, "crema", 8, "B001", "es", "E", 1, 1, "train"),
    (4, "oil", 9, "B002", "us", "E", 1, 1, "test"),
    (5, "oil", 9, "B001", "us", "E", 1, 1, "test"),
    (6, "nothing", 10, "B001", "us", "I", 1, 1, "test"),
    (7, "no text", 11, "B004", "us", "E", 1, 1, "test"),
]
COLUMNS = "example_id query query_id product_id product_locale esci_label small_version large_version split".split()
PRODUCTS = [
    ("B001", "Soft Cream", "<p>For <b>skin</b> &amp; hair</p>", None, "Zoë", None, "us"),
    ("B001", "Crema", None, None, None, None, "es"),
    ("B002", "Oil", None, "Pure\nCold", None, "gold", "us"),
    ("B999", None, None, None, None, None, "us"),
]
PRODUCT_COLUMNS = [f"product_{name}" for name in "id title description bullet_point brand color locale".split()]


def write_esci(folder):
    for name, columns, rows in (
        ("examples", COLUMNS, EXAMPLES),
        ("products", PRODUCT_COLUMNS, PRODUCTS),
    ):
        table = pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True)))
        table = table.append_column("__index_level_0__", pa.array(range(len(rows))))
        pq.write_table(table, folder / f"shopping_queries_dataset_{name}.parquet")


def test_esci_products_and_their_queries(tmp_path, manual):
    write_esci(manual)
    # B999 has no text, so that the corpus drops it and the task says so.
    with pytest.raises(UserError, match="no corpus holds document 'B999'"):
        corpus_and_task(tmp_path, "esci/us", "esci/us_queries")
    documents, task = corpus_and_task(tmp_path, "esci/es", "esci/es_queries")
    assert documents.texts(range(1)) == ["title: Crema"] and answers(task, "train") == {("8", "crema"): [("B001", 1)]}
    documents = open_corpus(CorpusConfig(name="esci/us", cache_dir=str(tmp_path)))
    assert documents.text(0) == "title: Soft Cream, description: For skin & hair, brand: Zoë"
    assert documents.field("brand").to_pylist() == ["Zoë", ""] and documents.dropped == {"empty text": 1}


def test_esci_restricted_to_an_amazon_corpus(tmp_path, manual):
    write_esci(manual)
    meta = "".join(f"{{'asin': '{name}', 'title': 'T {name}'}}\n" for name in ("B001", "B002")) + "{'asin': 'B004'}\n"
    (manual / "meta_Beauty.json.gz").write_bytes(gzip.compress(meta.encode()))
    reviews = [{"reviewerID": "u", "asin": name, "unixReviewTime": 1} for name in ("B001", "B002", "B004")]
    (manual / "reviews_Beauty_5.json.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, reviews)).encode()))
    _, task = corpus_and_task(tmp_path, "amazon_reviews/beauty", "esci/beauty_queries")
    assert answers(task, "train") == {("7", "!qscreen fence"): [("B001", 1)]}
    assert answers(task, "test") == {("9", "oil"): [("B002", 1), ("B001", 1)]}


def test_esci_refuses_other_files(tmp_path, manual):
    write_esci(manual)
    with pytest.raises(UserError, match="esci/jp_queries: .* holds no exact match"):
        prepared.prepare("esci/jp_queries", tmp_path)
    (manual / "shopping_queries_dataset_examples.parquet").unlink()
    with pytest.raises(UserError, match="esci/us_queries: put shopping_queries_dataset_examples.parquet into .*manual"):
        prepared.prepare("esci/us_queries", tmp_path)
    pq.write_table(pa.table({"query": ["x"]}), manual / "a.parquet")
    with pytest.raises(UserError, match="no column esci_label, product_id"):
        esci.read_queries(manual / "a.parquet", locale="us", items=None)
    (manual / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        list(esci.read_products(manual / "a.parquet", locale="us"))


# The training file holds a page as one string; the development file as tokens, in the original format.
TRAIN_PAGES = [
    ("what is e mail", 5655493461695504401, "<Table> box </Table> <H1> E-mail <I> ( system ) </I> </H1> Jump to : "
     "navigation <P> E-mail is <B> mail </B> . </P> <Ul> <Li> links </Li> </Ul>", "Email_(system)"),
    ("who sends it", 2, "<H1> E-mail ( system ) </H1> <P> A later version . </P>", "Email_(system)"),
    ("no heading", 3, "<P> Only a paragraph . </P>", "A_%26_B"),
]  # fmt: skip
DEV_PAGES = [
    ("dev of a known page", 4, "<P> Known . </P>", "E-MAIL (system)"),
    ("dev of its own", 5, "<H1> Été </H1> no paragraph", "Été"),
]


def write_nq(folder):
    train = [
        {"question_text": question, "example_id": number, "document_text": text,
         "document_url": f"https://en.wikipedia.org//w/index.php?title={title}&amp;oldid=8", "annotations": []}
        for question, number, text, title in TRAIN_PAGES
    ]  # fmt: skip
    dev = [
        {"question_text": question, "example_id": number, "document_title": title, "document_html": "<html>",
         "document_tokens": [{"token": token, "html_token": token[0] == "<"} for token in text.split()]}
        for question, number, text, title in DEV_PAGES
    ]  # fmt: skip
    for name, rows in (("simplified-nq-train", train), ("v1.0-simplified_nq-dev-all", dev)):
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))


def test_nq320k_makes_one_document_of_a_title(tmp_path, manual):
    write_nq(manual)
    documents, task = corpus_and_task(tmp_path, "nq320k/documents", "nq320k/queries")
    assert documents.ids().to_pylist() == ["E-mail ( system )", "A & B", "Été"]
    assert documents.text(0) == "E-mail ( system ). E-mail is mail . links"
    assert documents.text(1) == "A & B. Only a paragraph ." and documents.text(2) == "Été. no paragraph"
    assert answers(task, "train") == {
        ("5655493461695504401", "what is e mail"): [("E-mail ( system )", 1)],
        ("2", "who sends it"): [("E-mail ( system )", 1)],
        ("3", "no heading"): [("A & B", 1)],
    }
    assert answers(task, "test") == {
        ("4", "dev of a known page"): [("E-mail ( system )", 1)],
        ("5", "dev of its own"): [("Été", 1)],
    }


def test_nq320k_names_a_bad_line(tmp_path, manual):
    write_nq(manual)
    (manual / "simplified-nq-train.jsonl.gz").unlink()
    with pytest.raises(UserError, match="put v1.0-simplified_simplified-nq-train.jsonl.gz into"):
        prepared.prepare("nq320k/queries", tmp_path)
    path = manual / "dev.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"example_id": 1, "question_text": "q"}\n'))
    with pytest.raises(UserError, match="dev.jsonl.gz:1: no record of Natural Questions .'document_tokens'"):
        list(nq320k.read_pages(path, path))


# As published: no header, no quoting, empty titles, a carriage return within a body; qrels by blanks in a ".tsv".
DOCS = 'D1\thttp://a\tA "title\tbody with "one quote\nD2\thttp://b\t\tline\rreturn \x0b feed\nD3\thttp://c\t.\t.\n'


def write_msmarco(folder):
    files = {
        "msmarco-docs.tsv.gz": DOCS,
        "msmarco-doctrain-queries.tsv.gz": '3\t what "is a\n4\tunjudged\n',
        "msmarco-doctrain-qrels.tsv.gz": "3 0 D2 1\n",
        "msmarco-docdev-queries.tsv.gz": "5\tdev\n",
        "msmarco-docdev-qrels.tsv.gz": "5\t0\tD1\t1\n",
        "msmarco-test2019-queries.tsv.gz": "6\tgraded\n",
    }
    for name, text in files.items():
        (folder / name).write_bytes(gzip.compress(text.encode()))
    (folder / "2019qrels-docs.txt").write_text("6 0 D1 0\n6 0 D2 3\n6 0 D3 2\n")


def test_msmarco(tmp_path, manual):
    write_msmarco(manual)
    documents, task = corpus_and_task(tmp_path, "msmarco/documents", "msmarco/queries")
    assert documents.ids().to_pylist() == ["D1", "D2", "D3"]
    assert documents.text(0) == 'A "title body with "one quote' and documents.text(1) == "line\rreturn \x0b feed"
    assert list(task.splits) == ["train", "validation", "trec_dl_2019"]
    assert answers(task, "train") == {("3", 'what "is a'): [("D2", 1)]}
    assert answers(task, "validation") == {("5", "dev"): [("D1", 1)]}
    assert answers(task, "trec_dl_2019") == {("6", "graded"): [("D1", 0), ("D2", 3), ("D3", 2)]}


def test_msmarco_names_what_is_wrong(tmp_path, manual):
    with pytest.raises(UserError, match="put msmarco-doctrain-queries.tsv.gz and msmarco-doctrain-qrels.tsv.gz into"):
        prepared.prepare("msmarco/queries", tmp_path)
    (manual / "docs.tsv").write_text("D1\thttp://a\ttitle\n")
    with pytest.raises(UserError, match="docs.tsv:1: 3 fields instead of 4"):
        list(msmarco.read_documents(manual / "docs.tsv"))
    (manual / "queries.tsv").write_text("1\t \n")
    with pytest.raises(UserError, match="queries.tsv:1: no `id TAB question`"):
        list(msmarco.read_queries(manual / "queries.tsv", manual / "queries.tsv"))


def test_queries_are_not_documents_and_documents_not_queries(tmp_path, manual):
    write_msmarco(manual)
    with pytest.raises(UserError, match="msmarco/documents: holds no queries; name a configuration that does"):
        open_task(RelevanceConfig(name="msmarco/documents", cache_dir=str(tmp_path)), ["D1"])
    queries = open_corpus(CorpusConfig(name="msmarco/queries", cache_dir=str(tmp_path)))
    assert queries.ids().to_pylist() == ["3"]
