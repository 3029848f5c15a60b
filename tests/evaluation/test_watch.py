"""Reconstruction from true and from shuffled codes: every document of the sample counts once, in batches full or not."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmindexer_jax.evaluation.watch import BATCH, reconstruction_scores
from lmindexer_jax.indexing.inputs import Inputs
from lmindexer_jax.models.quantiser import Similarity
from lmindexer_jax.models.reconstructor import ReconstructorKind


class Reader:
    """Documents of one word, their number, whose vectors say it; the reader hears it, and misreads one document."""

    def __init__(self, kind, documents, *, misread=-1):
        config = types.SimpleNamespace(reconstructor=types.SimpleNamespace(kind=kind))
        self.module = types.SimpleNamespace(config=config, words=documents)
        self.misread = misread

    def encode(self, params, tokens, mask):
        return jax.nn.one_hot(tokens[:, :1], self.module.words)

    def vectors(self, params, encoded, tokens, mask, *, codes, centres):
        return encoded

    def reconstruct(self, params, queries, *, tokens=None, hints=None):
        heard = queries[:, -1]
        heard = jnp.where(jnp.argmax(heard, axis=-1, keepdims=True) == self.misread, jnp.roll(heard, 1, axis=-1), heard)
        return 50 * (heard if tokens is None else jnp.repeat(heard[:, None], tokens.shape[1], axis=1))


def scores(reader, *, seed=0):
    documents = reader.module.words

    def batch(indices, *, length):
        mask = np.tile(np.arange(length) < 1, (len(indices), 1))
        return np.where(mask, indices[:, None], 0).astype(np.int32), mask

    store = types.SimpleNamespace(lengths=np.ones(documents, np.int64), batch=batch)
    inputs = Inputs(store, (), np.zeros((documents, 1), np.int32))
    settings = {"position": 0, "quantised": False, "similarity": Similarity.INNER, "hidden": 0.5, "seed": seed}
    return reconstruction_scores(reader, {}, inputs, indices=np.arange(documents), **settings)[0]


@pytest.mark.parametrize("kind", ReconstructorKind)
@pytest.mark.parametrize("documents", [3, BATCH, BATCH + 1, 2 * BATCH + 30])
def test_shuffled_codes_are_other_documents_codes(kind, documents):
    found, drawn = scores(Reader(kind, documents)), np.random.default_rng(0).permutation(documents)
    assert found["true"].accuracy == found["true"].macro_f1 == 1
    own = np.mean(drawn == np.arange(documents))
    assert found["shuffled"].accuracy == pytest.approx(own)
    assert found["shuffled"].nats == pytest.approx(50 * (1 - own), rel=1e-4)


@pytest.mark.parametrize("kind", ReconstructorKind)
@pytest.mark.parametrize("misread", [0, BATCH])
def test_no_document_counts_more_than_another(kind, misread):
    found = scores(Reader(kind, BATCH + 1, misread=misread))["true"]
    assert found.accuracy == pytest.approx(BATCH / (BATCH + 1)) and found.nats == pytest.approx(50 / (BATCH + 1), rel=1e-4)
