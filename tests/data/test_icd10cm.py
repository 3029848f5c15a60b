"""`icd10cm`: the diagnoses with their true tree."""

import pytest

from lmindexer_jax.data.builders import icd10cm
from lmindexer_jax.data.corpus import open_corpus
from lmindexer_jax.data.documents import CorpusConfig


@pytest.fixture(scope="module")
def records():
    return {code: (text, path) for code, text, path in icd10cm._walk()}


def test_48903_diagnoses_without_encounter_variants(records):
    assert len(records) == 48_903
    assert not {"1", "A00-A09", "S72.001A", "T36.0X1S"} & set(records)
    assert {"A00", "A00.0", "S72.001", "O31.01X1", "Z99.89"} <= set(records)
    assert all(text.strip() for text, _ in records.values())


def test_paths_go_from_the_chapter_to_the_parent(records):
    text, path = records["A00.0"]
    assert text == "Cholera due to Vibrio cholerae 01, biovar cholerae"
    assert path == [
        "1 Certain infectious and parasitic diseases (A00-B99)",
        "A00-A09 Intestinal infectious diseases (A00-A09)",
        "A00 Cholera",
    ]
    # A block of one category has its code: two levels with one name, as in the classification itself.
    assert [part.partition(" ")[0] for part in records["B99.8"][1]] == ["1", "B99", "B99"]
    assert records["B99.8"][1][1:] == ["B99 Other infectious diseases (B99)", "B99 Other and unspecified infectious diseases"]


def test_paths_are_one_tree(records):
    by_code = {code: tuple(path) for code, (_, path) in records.items()}
    assert len({path[0] for path in by_code.values()}) == 22
    for code, path in by_code.items():
        parent = path[-1].partition(" ")[0]
        if parent in by_code:
            assert path[:-1] == by_code[parent], code


@pytest.mark.slow
def test_as_a_corpus(tmp_path):
    corpus = open_corpus(CorpusConfig(name="icd10cm", cache_dir=str(tmp_path)))
    assert len(corpus) == 48_903 and not corpus.dropped
    assert len(corpus.label_names(1)) == 22
    assert (corpus.labels(2) >= 0).all()
    assert corpus.text(0) == "Cholera" and corpus.ids()[0].as_py() == "A00"
