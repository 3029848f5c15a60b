"""Typical and borderline documents against the plain definition."""

import numpy as np
import pytest

from lmindexer_jax.evaluation import examples
from lmindexer_jax.evaluation.examples import borderline, fit, typical
from lmindexer_jax.evaluation.text_space import text_space

TEXTS = ["red lipstick lips", "pink lipstick lips", "lipstick lips gloss", "dry hair shampoo", "oily hair shampoo"]
TEXTS += ["shampoo lips hair", "lipstick hair lips shampoo"]
CHILD = np.array([5, 5, 5, 9, 9, 9, 5])
SPACE = text_space(TEXTS)


def by_hand(rows, child):
    """Own and best other cosine of every document."""
    found = []
    for i, mine in enumerate(child):
        centre = {c: rows[[j for j in range(len(child)) if child[j] == c and j != i]].sum(0) for c in set(child.tolist())}
        cosine = {c: rows[i] @ v / (np.linalg.norm(v) or 1) for c, v in centre.items()}
        own = cosine.pop(mine)
        found.append((own, max(cosine.values(), default=-1), max(cosine, key=cosine.get, default=-1)))
    return found


@pytest.mark.parametrize("cells", [1 << 22, 3])
def test_nearness_is_by_the_definition(monkeypatch, cells):
    monkeypatch.setattr(examples, "_CELLS", cells)
    found = fit(SPACE, np.arange(7), CHILD)
    expected = by_hand(SPACE.vectors.toarray(), CHILD)
    np.testing.assert_allclose(found.own, [own for own, _, _ in expected], atol=1e-5)
    np.testing.assert_allclose(found.other, [other for _, other, _ in expected], atol=1e-5)
    assert found.sibling.tolist() == [sibling for _, _, sibling in expected]


def test_some_documents_of_many():
    rng = np.random.default_rng(0)
    words = [f"{a}{b}" for a in "abcdefgh" for b in "abcdefgh"]
    space = text_space(" ".join(rng.choice(words, 6)) for _ in range(90))
    members = np.sort(rng.permutation(90)[:40])
    child = rng.integers(0, 6, 40)
    found = fit(space, members, child)
    expected = by_hand(space.vectors.toarray()[members], child)
    np.testing.assert_allclose(found.own, [own for own, _, _ in expected], atol=1e-5)
    np.testing.assert_allclose(found.other, [other for _, other, _ in expected], atol=1e-5)


def test_the_core_is_typical_and_the_mixed_is_borderline():
    found = fit(SPACE, np.arange(7), CHILD)
    lips = np.flatnonzero(CHILD == 5)
    mine = type(found)(*(part[lips] for part in found))
    assert set(lips[typical(mine, most=3)]) == {0, 1, 2}
    assert lips[borderline(mine, most=3)].tolist() == [6]


def test_an_only_child_has_no_borderline_and_a_lone_document_no_centre():
    found = fit(SPACE, np.arange(3), np.zeros(3, np.int64))
    assert (found.sibling == -1).all() and len(borderline(found, most=3)) == 0 and found.own.min() > 0
    alone = fit(SPACE, np.array([0, 3]), np.array([1, 2]))
    assert alone.own.tolist() == [0, 0] and alone.sibling.tolist() == [2, 1]
