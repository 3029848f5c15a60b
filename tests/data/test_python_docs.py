"""`python_docs`: one document per public object of the installed packages, with true references between them."""

import re

import pytest

from lmindexer_jax.data.builders import python_docs, walk
from lmindexer_jax.data.builders.python_docs import make_records
from lmindexer_jax.data.corpus import open_corpus
from lmindexer_jax.data.documents import CorpusConfig

LONG = "A text that is long enough to be kept because it has some more words."


def test_re_exports_are_one_document_under_the_shortest_name():
    records = make_records([(["p.sub.deep.f", "p.sub.f"], f"First. {LONG}"), (["p.g"], f"f(x)\n\nFirst. {LONG}")])
    assert [(record["id"], record["path"]) for record in records] == [("p.g", ["p"])]


def test_short_texts_are_left_out():
    assert make_records([(["p.f"], "Too short after all.\n\n>>> " + LONG)]) == []


def test_references_are_resolved_from_the_inside_out():
    see = "\n\nSee Also\n--------\n"
    records = make_records(
        [
            (["p.m.f"], f"F. {LONG}{see}g, h, p.k, unknown, f"),
            (["p.m.g"], f"G. {LONG}"),
            (["p.g"], f"Outer g. {LONG}"),
            (["p.h", "p.m.n.h"], f"H. {LONG}"),
            (["p.k"], f"K. {LONG}"),
        ]
    )
    assert {record["id"]: record["see_also"] for record in records}["p.m.f"] == ["p.m.g", "p.h", "p.k"]


def test_modules_are_their_own_category_and_ids_are_unique():
    records = make_records(
        [(["p.m"], f"Module. {LONG}"), (["p.m"], f"Function that hides it. {LONG}"), (["p.m.f"], f"F. {LONG}")]
    )
    assert [(record["id"], record["path"]) for record in records] == [("p.m", ["p", "m"]), ("p.m.f", ["p", "m"])]


def test_walk_finds_public_objects_only(tmp_path, monkeypatch):
    package = tmp_path / "walked"
    (package / "tests").mkdir(parents=True)
    (package / "tests" / "__init__.py").write_text(f'"""{LONG} test"""')
    (package / "_hidden.py").write_text(f'"""{LONG} hidden"""\ndef f():\n    """{LONG} f"""')
    (package / "broken.py").write_text("import a_package_that_is_not_there")
    (package / "listed.py").write_text(f'__all__ = ["g"]\ndef g():\n    """{LONG} g"""\ndef h():\n    """{LONG} h"""')
    (package / "__init__.py").write_text(
        f'"""{LONG}"""\nfrom json import dumps\nfrom walked._hidden import f\nx = 3\ndef short():\n    """Short."""'
    )
    monkeypatch.syspath_prepend(tmp_path)
    names = {name for found in walk.walk(["walked"]).values() for name in found}
    assert names == {"walked", "walked.f", "walked.listed.g"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return open_corpus(CorpusConfig(name="python_docs", cache_dir=str(tmp_path_factory.mktemp("cache"))))


def test_the_installed_packages_give_about_five_thousand_documents(corpus):
    assert 4500 < len(corpus) < 6000
    assert not corpus.dropped
    assert {name[0] for name in corpus.label_names(1)} == set(python_docs.PACKAGES)
    ids = corpus.ids().to_pylist()
    assert ids == sorted(set(ids))
    assert {"numpy.linalg.svd", "scipy.signal.convolve", "scipy.stats.norm", "jax.numpy.sort", "optax.adam"} <= set(ids)
    for index in range(len(corpus)):
        path = corpus.path(index)
        assert path and (ids[index] + ".").startswith(".".join(path) + ".")


def test_texts_are_prose(corpus):
    texts = corpus.texts(range(len(corpus)))
    assert len(set(texts)) == len(texts) and min(map(len, texts)) >= 60
    for mark in (r">>> ", r"``", r":func:`", r"\.\. math::", r"object at 0x", r"-----"):
        assert not [text for text in texts if re.search(mark, text)], mark
    index = corpus.ids().to_pylist().index("numpy.linalg.svd")
    assert corpus.text(index).startswith("Singular Value Decomposition.")
    assert corpus.path(index) == ("numpy", "linalg")
    assert "scipy.linalg.svd" in corpus.field("see_also")[index].as_py()
    assert corpus.field("summary")[index].as_py() == "Singular Value Decomposition."


def test_references_lead_to_other_documents(corpus):
    ids = set(corpus.ids().to_pylist())
    links = corpus.field("see_also").to_pylist()
    assert sum(map(bool, links)) > 1000
    for own, targets in zip(corpus.ids().to_pylist(), links, strict=True):
        assert set(targets) <= ids - {own} and len(set(targets)) == len(targets)


@pytest.mark.slow
def test_the_same_packages_give_the_same_corpus(corpus, tmp_path):
    assert open_corpus(CorpusConfig(name="python_docs", cache_dir=str(tmp_path))).hash == corpus.hash
