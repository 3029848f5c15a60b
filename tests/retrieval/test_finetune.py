"""The retriever's loss is -log p of the ID among those that exist."""

import catalogues
import jax
import jax.numpy as jnp
import numpy as np
import runs

from lmindexer_jax.console import Console, Mode
from lmindexer_jax.data.corpus import open_corpus
from lmindexer_jax.data.tokenizer import train_tokenizer
from lmindexer_jax.data.tokens import open_tokens
from lmindexer_jax.indexing.encode import encode_corpus
from lmindexer_jax.models.indexer import Indexer, IndexerConfig, IndexerFunctions
from lmindexer_jax.models.retriever import Retriever, RetrieverConfig, RetrieverFunctions
from lmindexer_jax.models.t5 import T5Config
from lmindexer_jax.retrieval.build import build
from lmindexer_jax.retrieval.finetune import Examples, in_batch, log_probs, make_objective


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


def test_in_batch_chances_are_those_of_other_documents():
    rng = np.random.default_rng(0)
    gists, vectors = (rng.normal(size=(6, 8)).astype(np.float32) for _ in range(2))
    rows = np.array([4, 7, 4, 1, 7, 7])
    for i, found in enumerate(in_batch(jnp.asarray(gists), jnp.asarray(vectors), jnp.asarray(rows), temperature=0.5)):
        rivals = [i, *(j for j in range(6) if rows[j] != rows[i])]
        scores = gists[i] @ vectors[rivals].T / 0.5
        np.testing.assert_allclose(found, scores[0] - np.log(np.exp(scores).sum()), atol=1e-5)


def test_a_frozen_encoders_states_stand_for_the_texts(tmp_path):
    """The loss of kept states is that of the encoder at work, but for their half precision; so are its gradients."""
    path = runs.write_corpus(tmp_path / "corpus.jsonl", documents=12)
    corpus = open_corpus(runs.ours(path, tmp_path / "cache").corpus)
    tokenizer = train_tokenizer(corpus, vocab_size=300)
    store = open_tokens(corpus, tokenizer, max_length=16, cache_dir=tmp_path)
    model = T5Config(vocab_size=300, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 4, (12, 2)).astype(np.int32)
    trie = build(ids, (4, 4))
    functions = RetrieverFunctions(Retriever(RetrieverConfig(gist=True), model, trie.sizes))
    params = jax.jit(functions.init)(jax.random.key(0))
    params = params | {"turn": params["turn"] + 0.1 * rng.normal(size=(16, 16)), "gain": np.ones(2)}
    indexer = IndexerFunctions(Indexer(IndexerConfig(codebook_sizes=(4, 4)), model))
    whole = jax.jit(indexer.init)(jax.random.key(1)) | {name: params[name] for name in ("encoder", "shared")}
    encoded = encode_corpus(indexer, whole, store, directory=tmp_path, console=Console(Mode.QUIET))
    objective = make_objective(functions, frozen=True)
    losses, learned = [], []
    for each in (None, encoded):
        examples = Examples(store, np.arange(12), ids, each, encoded.pooled)
        batch = examples.fetch(np.arange(12), np.arange(3, 11), rng)
        assert ("tokens" in batch) == (each is None)
        assert batch["mask"].shape[1] % 8 == 0

        def loss(params, trie, batch):
            if "states" in batch:
                read = functions.read(params, batch["states"], batch["mask"], batch["pooled"])
            else:
                read = functions.encode(params, batch["tokens"], batch["mask"])
            chances = in_batch(read.gist, batch["vectors"], batch["rows"], temperature=0.05)
            return -jnp.mean(log_probs(functions.logits(params, read, codes=batch["codes"]), trie, batch["codes"])) - jnp.mean(chances)

        losses.append(jax.jit(jax.value_and_grad(loss))(params, trie, batch))
        total, outcome = jax.jit(objective)(params, {"trie": trie}, batch, jax.random.key(0))
        assert np.isclose(total, outcome.metrics["ids"] + outcome.metrics["vectors"])
        learned.append(total)
    np.testing.assert_allclose(*learned, atol=2e-3, err_msg="the same dropout, of the decoder alone")
    np.testing.assert_allclose(losses[0][0], losses[1][0], atol=2e-3)
    for name in ("turn", "codebook_0", "gain"):
        np.testing.assert_allclose(losses[0][1][name], losses[1][1][name], atol=5e-3)
