"""Every kind of step on three meshes of eight devices against one. Run by test_meshes.py with JAX_NUM_CPU_DEVICES=8."""

import functools

import catalogues
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from jax.sharding import AxisType

from lmindexer_jax.console import Console, Mode
from lmindexer_jax.indexing import kmeans as clustering
from lmindexer_jax.indexing import rqvae
from lmindexer_jax.indexing.assign import corpus_codes, corpus_vectors
from lmindexer_jax.indexing.estimate import standing_in
from lmindexer_jax.indexing.objective import make_objective
from lmindexer_jax.indexing.runner import Run, batches, start
from lmindexer_jax.models.quantiser import CodebookUpdate, Similarity
from lmindexer_jax.models.retriever import Retriever, RetrieverConfig, RetrieverFunctions
from lmindexer_jax.models.rqvae import RqVae, RqVaeConfig, RqVaeFunctions
from lmindexer_jax.models.t5 import T5Config
from lmindexer_jax.prepare import prepare
from lmindexer_jax.retrieval.beam import BeamConfig
from lmindexer_jax.retrieval.build import build
from lmindexer_jax.retrieval.finetune import make_objective as retrieval_objective
from lmindexer_jax.retrieval.generate import make_generator
from lmindexer_jax.training import losses, sharding
from lmindexer_jax.training.optim import OptimConfig, make_optimiser, split
from lmindexer_jax.training.sharding import MeshConfig, make_mesh, place, put_batch, replicate, tree_shardings
from lmindexer_jax.training.steps import State, make_step

QUIET = Console(Mode.QUIET)
MESHES = [MeshConfig(8, 1), MeshConfig(2, 4), MeshConfig(1, 8)]
STAGES = {
    "ours": ["position-1/continuous", "position-1/quantised", "position-2/continuous", "position-2/quantised"],
    "published": [
        "warm-up", "position-1/continuous", "position-1/quantised", "position-2/continuous", "position-2/quantised",
    ],
    "looped": ["position-2/quantised"],
}  # fmt: skip
on_meshes = pytest.mark.parametrize("config", MESHES, ids=lambda config: f"{config.data}x{config.fsdp}")


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch):
    monkeypatch.setattr(sharding, "SMALL", 64)
    monkeypatch.setattr(clustering, "SPLIT_FROM", 1)


def one():
    """A mesh of one device."""
    return jax.make_mesh((1, 1), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:1])


def gaps(tree, other):
    """How far the leaves of two trees are apart, as a share of the largest number of each."""
    found = {}
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(other), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        found[jax.tree_util.keystr(path)] = np.max(np.abs(a - b), initial=0.0) / max(1.0, np.max(np.abs(a), initial=0.0))
    return found


def close(tree, other, tolerance=1e-6):
    """Equal to a share of the largest number of each leaf."""
    far = {name: gap for name, gap in gaps(tree, other).items() if gap > tolerance}
    assert not far, far


@functools.cache
def prepared(name, home):
    config = getattr(runs, name)(home / "corpus.jsonl", home / "cache")
    return config, prepare(config, home / name, console=QUIET)


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("meshes")
    runs.write_corpus(home / "corpus.jsonl", documents=60)
    return home


def run_on(name, home, mesh, nudge=None):
    """A run that stands before its first stage, its codes made up; its parameters are its own, since steps take them over.
    With a nudge half of them have another last bit."""
    config, ready = prepared(name, home)
    rng = np.random.default_rng(nudge)

    def own(leaf):
        leaf = np.array(leaf)
        return leaf if nudge is None else np.where(rng.random(leaf.shape) < 0.5, np.nextafter(leaf, np.float32(np.inf)), leaf)

    params = place(jax.tree.map(own, ready.params), mesh)
    ready.inputs.codes[:] = np.random.default_rng(0).integers(0, 4, ready.inputs.codes.shape)
    return Run(
        home / name, ready.functions, config.recipe, ready.stages, ready.inputs, params, mesh, 0, QUIET,
        lambda moment: {}, 60.0, "",
    )  # fmt: skip


@functools.cache
def alone(name, stage_name, home, nudge=None):
    return stepped(name, stage_name, home, one(), nudge)


def stepped(name, stage_name, home, mesh, nudge=None):
    """Moments after the first step of a stage, which are its gradients, and the metrics of the first two."""
    run = run_on(name, home, mesh, nudge)
    stage = next(stage for stage in run.stages if stage.name == stage_name)
    run = standing_in(run, stage)
    state, optimiser, rules = start(run, stage)
    layout = tree_shardings(state, mesh)
    step = make_step(make_objective(run.functions, stage, run.recipe), optimiser, rules, layout=layout)
    source, key, seen = batches(run, stage, None), run.key(stage, "train"), []
    for _ in range(2):
        state, metrics = step(state, put_batch(next(source), mesh), key)
        seen.append(jax.device_get(metrics))
        if len(seen) == 1:
            moments, memory = jax.device_get((state.moments, state.memory))
    spread = [leaf for leaf in jax.tree.leaves(state.params) if not leaf.sharding.is_fully_replicated]
    assert bool(spread) == (mesh.shape["fsdp"] > 1)
    assert all(leaf.sharding == wanted for leaf, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(layout), strict=True))
    return {"moments": moments, "memory": memory, "metrics": seen}


@on_meshes
@pytest.mark.parametrize("name, stage", [(name, stage) for name in STAGES for stage in STAGES[name]])
def test_training_steps(name, stage, config, home):
    """To 1e-6, or twice what other last bits of the parameters change of the same leaf on one device, since a unit of a
    ReLU that stands at zero moves gradients by more; the gradient norms of both steps count as one leaf."""
    lonely = alone(name, stage, home)
    far = {leaf: gap for leaf, gap in gaps(lonely, stepped(name, stage, home, make_mesh(config))).items() if gap > 1e-6}
    nudged = [gaps(lonely, alone(name, stage, home, nudge)) for nudge in range(4)] if far else []

    def bound(leaf):
        like = [other for other in nudged[0] if other == leaf or "gradient_norm" in leaf and "gradient_norm" in other]
        return max(1e-6, 2 * max(each[other] for each in nudged for other in like))

    far = {leaf: (gap, bound(leaf)) for leaf, gap in far.items() if gap > bound(leaf)}
    assert not far, far


def test_negatives_are_those_of_the_global_batch():
    """Sixteen equal vectors, two on each device: log 16 if each is compared with all, log 2 if only with its device's."""
    mesh = make_mesh(MeshConfig())
    same = put_batch(np.ones((16, 4), np.float32), mesh)
    values, _ = jax.jit(lambda x: losses.in_batch_contrast(x, x, jnp.ones(16), temperature=1.0))(same)
    np.testing.assert_allclose(values, np.log(16), rtol=1e-6)


@pytest.mark.parametrize("similarity", [Similarity.COSINE, Similarity.L2])
def test_k_means(similarity, monkeypatch):
    rng = np.random.default_rng(0)
    middles = 3 * rng.normal(size=(20, 16))
    vectors = (middles[rng.integers(20, size=3000)] + rng.normal(size=(3000, 16))).astype(np.float32)
    split = clustering.kmeans(vectors, 24, key=jax.random.key(0), similarity=similarity)
    monkeypatch.setattr(clustering, "SPLIT_FROM", 2**40)
    whole = clustering.kmeans(vectors, 24, key=jax.random.key(0), similarity=similarity)
    close(whole.centres, split.centres, 2e-6)
    np.testing.assert_array_equal(whole.codes, split.codes)
    assert split.iterations == whole.iterations > 2


@on_meshes
def test_assignment(config, home, monkeypatch):
    """On as many devices as there are the bits are those of one, where parameters are whole; else they are close."""
    found = []
    for mesh in (one(), make_mesh(config)):
        monkeypatch.setattr(jax, "local_devices", lambda: list(mesh.devices.flat))
        monkeypatch.setattr(jax, "local_device_count", lambda: mesh.size)
        run = run_on("published", home, mesh)
        vectors = corpus_vectors(run.functions, run.params, run.inputs, position=1, console=QUIET)
        wanted = {"position": 1, "similarity": Similarity.INNER, "console": QUIET}
        found.append((vectors, corpus_codes(run.functions, run.params, run.inputs, **wanted)))
    (vectors, codes), (others, their_codes) = found
    np.testing.assert_array_equal(codes, their_codes)
    close(vectors, others)
    if config.fsdp == 1:
        np.testing.assert_array_equal(vectors, others)


@pytest.mark.parametrize("update", [CodebookUpdate.GRADIENT, CodebookUpdate.EMA])
def test_rq_vae_epoch(update):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(256, 24)).astype(np.float32)
    functions = RqVaeFunctions(RqVae(RqVaeConfig(hidden=(32,), latent=8, update=update), 24, (8, 8)))
    training = rqvae.RqVaeTraining(epochs=1, batch_size=256)  # of one step: its moments are its gradients
    found = []
    for mesh in (one(), *map(make_mesh, MESHES)):
        state, step = rqvae.start(functions, jnp.asarray(vectors), training, steps=1, key=jax.random.key(0))
        epoch = rqvae.make_epoch(functions, step, steps=1, batch_size=256, restart=True, mesh=mesh)
        state, metrics = epoch(place(state, mesh), replicate(vectors, mesh), jax.random.key(1))
        found.append(jax.device_get((state.moments, state.memory, metrics)))
    for other in found[1:]:
        close(found[0], other)


def retriever():
    model = T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_decoder_layers=1, num_heads=4)
    rng = np.random.default_rng(0)
    codes = catalogues.catalogue(rng, 100, length=3, variable=False)
    trie = build(codes, catalogues.SIZES[:3])
    functions = RetrieverFunctions(Retriever(RetrieverConfig(), model, trie.sizes, jnp.float32))
    tokens = rng.integers(2, 64, (16, 8)).astype(np.int32)
    mask = np.arange(8)[None] < rng.integers(1, 9, 16)[:, None]
    batch = {"tokens": tokens, "mask": mask, "codes": codes[rng.integers(len(codes), size=16)]}
    return functions, jax.jit(functions.init)(jax.random.key(0)), trie, batch


def test_retriever_step_and_beam_search():
    functions, params, trie, batch = retriever()
    rules = ((".*", 1.0),)
    optimiser = make_optimiser(OptimConfig(), rules, params, steps=10)
    generate = make_generator(functions, config=BeamConfig(beams=10))
    stepped, found = [], []
    for mesh in (one(), *map(make_mesh, MESHES)):
        moved = place(jax.tree.map(jnp.copy, params), mesh)
        placed = put_batch(batch, mesh)
        present = put_batch(np.ones(16, bool), mesh)
        found.append(jax.device_get(generate(moved, replicate(trie, mesh), placed["tokens"], placed["mask"], present)[0]))
        memory = {"trie": jax.tree.map(jnp.copy, trie)}
        state = place(State(moved, optimiser.init(split(params, rules)[0]), memory, jnp.zeros((), jnp.int32)), mesh)
        step = make_step(retrieval_objective(functions), optimiser, rules, layout=tree_shardings(state, mesh))
        state, metrics = step(state, placed, jax.random.key(0))
        stepped.append(jax.device_get((state.moments, metrics)))
    for other in stepped[1:]:
        close(stepped[0], other)
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].documents, other.documents)
        np.testing.assert_allclose(found[0].log_probs, other.log_probs, rtol=2e-6)


def test_memory_of_a_device_falls_with_their_number(home):
    """Parameters and moments of a device, as compiled: an eighth, but for leaves that eight does not divide."""
    held = []
    for mesh in (one(), make_mesh(MESHES[2])):
        run = run_on("published", home, mesh)
        stage = next(stage for stage in run.stages if stage.name == "position-1/continuous")
        state, optimiser, rules = start(run, stage)
        layout = tree_shardings(state, mesh)
        step = make_step(make_objective(run.functions, stage, run.recipe), optimiser, rules, layout=layout)
        batch = put_batch(next(batches(run, stage, None)), mesh)
        analysis = step.lower(state, batch, jax.random.key(0)).compile().memory_analysis()
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(batch)) / mesh.size
        held.append(analysis.argument_size_in_bytes - size)
    print(f"bytes of state on a device: {held[0]:,.0f} on one, {held[1]:,.0f} on eight")
    assert 1 / 8 <= held[1] / held[0] < 0.14
