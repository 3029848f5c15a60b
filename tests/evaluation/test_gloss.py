"""The gloss says of every prefix what the explanation of that prefix says."""

import dataclasses

import numpy as np
import pytest
import runs
from finished import finish

from lmindexer_jax.evaluation.explain import explain_prefix, name_of
from lmindexer_jax.evaluation.gloss import Gloss
from lmindexer_jax.evaluation.id_quality import prefix_ids
from lmindexer_jax.evaluation.text_space import text_space
from lmindexer_jax.indexing import id_table


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    home = tmp_path_factory.mktemp("gloss")
    corpus = finish(home / "run", runs.write_corpus(home / "corpus.jsonl", documents=80), home / "cache")
    return corpus, id_table.load(home / "run" / "ids")


def test_words_sizes_and_categories_of_every_prefix(made):
    corpus, table = made
    gloss, space = Gloss(table, corpus), text_space(corpus.texts(range(80)))
    numbers = prefix_ids(table.codes)
    for t in range(3):
        for number, row in zip(*np.unique(numbers[:, t], return_index=True)):
            prefix = tuple(table.codes[row, : t + 1].tolist())
            found, told = dict(gloss.look_up(t + 1, int(number))), explain_prefix(prefix, table, corpus, space)
            assert found.pop("document", None) == (table.ids[int(row)].as_py() if told["documents"] == 1 else None)
            assert found == {name: told[name] for name in ("documents", "words", "categories")}, name_of(prefix)
            np.testing.assert_array_equal(np.sort(gloss.rows(t + 1, int(number))), table.documents_of(prefix))


def test_documents_that_came_later_count_but_say_nothing(made):
    corpus, table = made
    longer = table.append(["new", "newer"], np.array([[1, 1, 7], [0, 0, 0]]))
    short, long = Gloss(table, corpus), Gloss(longer, corpus)
    numbers = prefix_ids(longer.codes)
    first = numbers[80, 0]
    one, other = short.look_up(1, int(first)), long.look_up(1, int(first))
    assert other == one | {"documents": one["documents"] + 1}
    for t in range(3):
        for row in range(80):
            kept = short.look_up(t + 1, int(prefix_ids(table.codes)[row, t]))
            assert long.look_up(t + 1, int(numbers[row, t]))["words"] == kept["words"]


def test_without_a_corpus_there_are_sizes(made):
    _, table = made
    found = Gloss(dataclasses.replace(table), None).look_up(1, 0)
    assert found == {"documents": int((table.codes[:, 0] == 0).sum()), "words": [], "categories": []}
