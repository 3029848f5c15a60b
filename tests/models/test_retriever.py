"""The retriever: its steps are its teacher-forced forward pass, whichever way beams branch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from lmindexer_jax.models.bert import BertConfig
from lmindexer_jax.models.indexer import Indexer, IndexerConfig, IndexerFunctions
from lmindexer_jax.models.retriever import Retriever, RetrieverConfig, RetrieverFunctions, adopt
from lmindexer_jax.models.t5 import T5Config
from lmindexer_jax.retrieval import beam
from lmindexer_jax.retrieval.beam import BeamConfig
from lmindexer_jax.retrieval.build import build
from lmindexer_jax.retrieval.children import children_masks

SIZES = (6, 9, 4)
MODELS = {
    "t5": T5Config(vocab_size=30, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_decoder_layers=2, num_heads=3),
    "bert": BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=16,
    ),
}  # fmt: skip
MODELS["t5-gist"] = MODELS["t5"]
GIST = {"t5": False, "bert": True, "t5-gist": True}
TOKENS = jnp.asarray(np.random.default_rng(0).integers(2, 30, (3, 9)), jnp.int32)
MASK = jnp.arange(9)[None] < jnp.asarray([9, 4, 1])[:, None]


@functools.cache
def made(name: str, dtype=jnp.float32) -> tuple[RetrieverFunctions, dict]:
    functions = RetrieverFunctions(Retriever(RetrieverConfig(gist=GIST[name]), MODELS[name], SIZES, dtype))
    params = jax.jit(functions.init)(jax.random.key(0))
    rng = np.random.default_rng(3)
    moved = {key: params[key] + rng.normal(size=params[key].shape) for key in ("centre", "gain", "explained") if key in params}
    return functions, params | jax.tree.map(jnp.float32, moved)


@functools.cache
def forward(name: str):
    """The compiled teacher-forced pass, (params, codes, key) -> logits of every position."""
    functions, _ = made(name)

    def run(params, codes, key):
        read = functions.encode(params, TOKENS, MASK, key=key)
        return read, functions.logits(params, read, codes=codes, key=key)

    return jax.jit(run)


@pytest.mark.parametrize("beams", [1, 200], ids=["folded", "projected"])
@pytest.mark.parametrize("name", MODELS)
def test_steps_are_the_teacher_forced_pass(name, beams):
    functions, params = made(name)
    rng = np.random.default_rng(1)

    @jax.jit
    def stepped(params, first, second, parents):
        memory = functions.start_search(params, functions.encode(params, TOKENS, MASK), beams=beams)
        assert (memory.cache.cross is None) == (beams == 1)
        found = []
        for codes, above in ((jnp.zeros((3, 1, 0), jnp.int32), jnp.zeros((3, 1), jnp.int32)), first, (second, parents)):
            logits, memory = functions.step(params, memory, codes, above)
            found.append(logits)
        return found

    one = jnp.asarray(rng.integers(0, SIZES[0], (3, 5, 1)), jnp.int32)
    parents = jnp.asarray(rng.integers(0, 5, (3, 4)), jnp.int32)
    last = jnp.asarray(rng.integers(0, SIZES[1], (3, 4, 1)), jnp.int32)
    two = jnp.concatenate([jnp.take_along_axis(one, parents[..., None], axis=1), last], axis=-1)
    found = stepped(params, (one, jnp.zeros((3, 5), jnp.int32)), two, parents)
    for x in range(4):
        codes = jnp.pad(two[:, x], ((0, 0), (0, 1)))
        _, expected = forward(name)(params, codes, None)
        np.testing.assert_allclose(found[0][:, 0], expected[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found[1][np.arange(3), parents[:, x]], expected[1], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found[2][:, x], expected[2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_search_finds_the_most_probable_ids(name):
    """Scores are the masked cross-entropy of training, and probabilities of all IDs sum to one."""
    functions, params = made(name)
    rng = np.random.default_rng(2)
    ids = np.unique(rng.integers(0, (5, 8, 3), (25, 3)), axis=0)
    ids[1::4, 2] = -1
    ids = np.unique(ids, axis=0)
    trie = build(ids, (6, 9, 3))
    assert trie.sizes == SIZES

    @jax.jit
    def search(params, trie):
        memory = functions.start_search(params, functions.encode(params, TOKENS, MASK), beams=30)
        step = functools.partial(functions.step, params)
        return beam.search(step, memory, trie, config=BeamConfig(beams=30), present=jnp.ones(3, bool))

    def score(codes):
        _, logits = forward(name)(params, codes, None)
        total = 0.0
        for t, mask in enumerate(children_masks(trie, codes)):
            logs = scipy.special.log_softmax(np.where(mask, logits[t], -np.inf), axis=1)
            label = np.where(codes[:, t] < 0, SIZES[t] - 1, codes[:, t])
            total += np.take_along_axis(logs, label[:, None], axis=1)[:, 0]
        return total

    trie = jax.device_put(trie)
    found = search(params, trie)
    assert (found.valid.sum(1) == len(ids)).all()
    np.testing.assert_allclose(jnp.exp(found.log_probs).sum(1), 1.0, rtol=1e-5)
    for place in range(0, len(ids), 5):
        np.testing.assert_allclose(
            found.log_probs[:, place], score(found.codes[:, place]), rtol=1e-5, atol=1e-5
        )


def test_dropout_needs_a_key_and_reaches_encoder_and_decoder():
    functions, params = made("t5")
    codes = jnp.zeros((3, 3), jnp.int32)
    plain, dropped = (forward("t5")(params, codes, key) for key in (None, jax.random.key(1)))
    assert not np.allclose(plain[0].states, dropped[0].states)
    # The decoder's own: the same encoder states, with and without a key.
    decode = jax.jit(lambda key: functions.logits(params, plain[0], codes=codes, key=key)[0])
    assert not np.allclose(decode(jax.random.key(1)), plain[1][0])
    np.testing.assert_array_equal(decode(jax.random.key(1)), decode(jax.random.key(1)))


@pytest.mark.parametrize("name", MODELS)
def test_it_starts_from_an_indexer(name):
    functions, params = made(name)
    indexer = IndexerFunctions(Indexer(IndexerConfig(codebook_sizes=(6, 8)), MODELS[name]))
    trained = jax.jit(indexer.init)(jax.random.key(5))
    adopted = adopt(params, trained)
    for part in trained.keys() & {"shared", "encoder", "decoder", "start"}:
        assert adopted[part] is trained[part]
    rows, old = adopted["codebook_1"], trained["codebook_1"]
    assert rows.shape == (9, 16)
    np.testing.assert_allclose(jnp.linalg.norm(rows[:8], axis=1).mean(), 4.0, rtol=1e-6)
    np.testing.assert_allclose(rows[:8] / jnp.linalg.norm(rows[:8]), old / jnp.linalg.norm(old), rtol=1e-5)
    np.testing.assert_array_equal(rows[8], params["codebook_1"][8])
    np.testing.assert_array_equal(adopted["codebook_2"], params["codebook_2"])
    assert jax.tree.structure(adopted) == jax.tree.structure(params)


def test_parameters_of_another_model_are_refused():
    _, params = made("t5")
    wider = Retriever(RetrieverConfig(), T5Config(vocab_size=30, d_model=32, d_kv=8, d_ff=24, num_layers=1, num_heads=3), SIZES)
    other = jax.eval_shape(RetrieverFunctions(wider).init, jax.random.key(0))
    with pytest.raises(ValueError, match="two different models"):
        adopt({"decoder": params["decoder"]}, {"decoder": other["decoder"]})
