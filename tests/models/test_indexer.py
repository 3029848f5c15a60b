"""What a document's vector starts from, before anything is learned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmindexer_jax.models.bert import BertConfig
from lmindexer_jax.models.indexer import Indexer, IndexerConfig, IndexerFunctions
from lmindexer_jax.models.t5 import T5Config

BERT = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
T5 = T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_decoder_layers=1, num_heads=2)


def length_one(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("model", [BERT, T5], ids=["bert", "t5"])
@pytest.mark.parametrize("lexical", [0.0, 1.5])
def test_vectors_start_as_the_pooled_vector_less_the_centre(model, lexical):
    config = IndexerConfig(codebook_sizes=(4, 4), lexical_weight=lexical, residual_weight=1.5)
    functions = IndexerFunctions(Indexer(config, model))
    params = functions.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    tokens, lengths = rng.integers(0, 50, (3, 6)), np.array([6, 2, 4])
    mask = np.arange(6) < lengths[:, None]
    centres = rng.normal(size=(3, 2, 16)).astype(np.float32)
    encoded = functions.encode(params, tokens, mask)
    vectors = functions.vectors(params, encoded, tokens, mask, codes=jnp.zeros((3, 1), jnp.int32), centres=centres)

    words = params["shared"]["embedding"] if model is T5 else params["encoder"]["embeddings"]["word"]["embedding"]
    for row, length in enumerate(lengths):
        pooled = length_one(np.asarray(encoded[row, :length]).mean(0))
        pooled = pooled + lexical * length_one(np.asarray(words)[tokens[row, :length]].mean(0))
        np.testing.assert_allclose(vectors[row, 0], pooled - centres[row, 0], atol=1e-6)
        np.testing.assert_allclose(vectors[row, 1], 1.5 * (pooled - centres[row, 1]), atol=1e-6)


def test_what_one_position_has_learned_to_say_is_not_said_at_the_next():
    functions = IndexerFunctions(Indexer(IndexerConfig(codebook_sizes=(4, 4, 4)), BERT))
    params = functions.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    tokens, mask = rng.integers(0, 50, (3, 6)), np.ones((3, 6), bool)
    given = (functions.encode(params, tokens, mask), tokens, mask)
    more = {"codes": jnp.zeros((3, 2), jnp.int32), "centres": np.zeros((3, 3, 16), np.float32)}
    output = np.zeros((3, 16, 16), np.float32)
    output[0] = rng.normal(size=(16, 16))
    before, after = (np.asarray(functions.vectors(params | change, *given, **more)) for change in ({}, {"output": output}))
    np.testing.assert_array_equal(before[:, 1:], after[:, 1:])
    assert (before[:, 0] != after[:, 0]).any()


@pytest.mark.parametrize("pooled", [0.0, 1.0])
def test_product_codes_read_blocks_of_one_vector_whatever_the_codes_before(pooled):
    config = IndexerConfig(codebook_sizes=(4, 3, 5), pooled_weight=pooled, product=True)
    functions = IndexerFunctions(Indexer(config, BERT))
    params = functions.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    tokens, mask = rng.integers(0, 50, (3, 6)), np.ones((3, 6), bool)
    centres = rng.normal(size=(3, 3, 16)).astype(np.float32)
    encoded = functions.encode(params, tokens, mask)

    def vectors(codes):
        return functions.vectors(params, encoded, tokens, mask, codes=jnp.asarray(codes), centres=centres)

    found = vectors(np.zeros((3, 2), np.int32))
    np.testing.assert_array_equal(found, vectors(np.full((3, 2), 2, np.int32)))
    whole = np.asarray(found).sum(1)
    np.testing.assert_array_equal(np.count_nonzero(found, axis=-1), [[6, 5, 5]] * 3)
    for position, part in enumerate((slice(0, 6), slice(6, 11), slice(11, 16))):
        np.testing.assert_array_equal(found[:, position, part], whole[:, part])
