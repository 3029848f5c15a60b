"""The retriever's loss is -log p of the ID among those that exist."""

import catalogues
import jax
import jax.numpy as jnp
import numpy as np

from lmindexer_jax.retrieval.build import build
from lmindexer_jax.retrieval.finetune import log_probs


def test_log_probs_are_those_of_enumeration():
    rng = np.random.default_rng(0)
    codes = catalogues.catalogue(rng, 200, length=3, variable=False)
    ids = np.unique(codes, axis=0)
    trie = build(codes, catalogues.SIZES[:3])
    model = catalogues.tables(rng, 1, trie.sizes)
    logits = tuple(jnp.asarray(table[0][catalogues.kinds(ids[:, :t], t)]) for t, table in enumerate(model))
    wanted = catalogues.enumerate_scores(ids, model, ends=[None] * 3, over_children=True)[0]
    np.testing.assert_allclose(log_probs(logits, trie, jnp.asarray(ids)), wanted, atol=1e-5)
    assert np.isclose(np.exp(wanted).sum(), 1)


def test_its_gradient_is_finite_and_leaves_alone_what_cannot_follow():
    codes = np.array([[0, 1], [0, 2], [3, 0]], np.int32)
    trie = build(codes, (4, 3))
    logits = tuple(jnp.zeros((3, size)) for size in trie.sizes)
    first, second = jax.grad(lambda logits: log_probs(logits, trie, jnp.asarray(codes)).sum())(logits)
    assert np.isfinite(first).all() and np.isfinite(second).all()
    assert (first[:, [1, 2]] == 0).all() and (second[2] == 0).all() and (second[:2, 0] == 0).all()
    assert (second[:2, 1:] != 0).all()
