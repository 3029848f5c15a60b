"""What needs several devices. Run by test_sharding.py with JAX_NUM_CPU_DEVICES=8."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from lmindexer_jax.errors import UserError
from lmindexer_jax.training.checkpoint import Checkpoints
from lmindexer_jax.training.optim import OptimConfig, make_optimiser
from lmindexer_jax.training.sharding import MeshConfig, leaf_sharding, make_mesh, put_batch, tree_shardings
from lmindexer_jax.training.steps import State, make_step

MESHES = [MeshConfig(), MeshConfig(fsdp=4), MeshConfig(data=1, fsdp=8)]


def test_there_are_eight():
    assert jax.device_count() == 8


def test_mesh_takes_the_devices_that_are_left():
    assert dict(make_mesh(MeshConfig(fsdp=4)).shape) == {"data": 2, "fsdp": 4}
    with pytest.raises(UserError, match="8 devices"):
        make_mesh(MeshConfig(data=2, fsdp=2))


@pytest.mark.parametrize(
    "shape, spec",
    [
        ((512, 1024), PartitionSpec(None, "fsdp")),  # the largest axis
        ((1024, 512), PartitionSpec("fsdp", None)),
        ((1024, 513), PartitionSpec("fsdp", None)),
        ((512, 1026), PartitionSpec("fsdp", None)),  # 4 does not divide the largest
        ((515, 1027), PartitionSpec()),  # 4 divides nothing
        ((128, 128), PartitionSpec()),  # small
        ((), PartitionSpec()),
    ],
)
def test_rule_by_shape(shape, spec):
    assert leaf_sharding(shape, make_mesh(MeshConfig(fsdp=4))).spec == spec


def test_fsdp_divides_the_memory():
    mesh = make_mesh(MeshConfig(data=1, fsdp=8))
    tree = {"w": jnp.ones((1024, 256))}
    placed = jax.device_put(tree, tree_shardings(tree, mesh))
    assert [shard.data.shape for shard in placed["w"].addressable_shards] == [(128, 256)] * 8


@pytest.mark.parametrize("config", MESHES, ids=str)
def test_batches_are_split_over_all_devices_in_order(config):
    mesh = make_mesh(config)
    batch = put_batch({"tokens": np.arange(32).reshape(16, 2)}, mesh)
    np.testing.assert_array_equal(batch["tokens"], np.arange(32).reshape(16, 2))
    assert sorted(int(shard.data[0, 0]) for shard in batch["tokens"].addressable_shards) == list(range(0, 32, 4))
    with pytest.raises(UserError, match="12 rows"):
        put_batch({"tokens": np.zeros((12, 2))}, mesh)


def train(config, steps=4):
    """A few steps of a small regression, placed as the config says."""
    mesh = make_mesh(config)
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(512, 256)) * 0.05, jnp.float32), "b": jnp.zeros((256,))}
    rules = ((".*", 1.0),)
    optimiser = make_optimiser(OptimConfig(learning_rate=1e-2), rules, params, steps=steps)

    def objective(params, memory, batch, key):
        loss = jnp.mean((batch["x"] @ params["w"] + params["b"][None] - batch["y"]) ** 2)
        return loss, Outcome({"loss": loss}, memory, {})

    state = State(params, optimiser.init(params), {}, jnp.zeros((), jnp.int32))
    state = jax.device_put(state, tree_shardings(state, mesh))
    step = make_step(objective, optimiser, rules)
    losses = []
    for _ in range(steps):
        batch = {"x": rng.normal(size=(16, 512)).astype(np.float32), "y": rng.normal(size=(16, 256)).astype(np.float32)}
        state, metrics = step(state, put_batch(batch, mesh), jax.random.key(0))
        losses.append(float(metrics["loss"]))
    return state, losses


class Outcome:
    """What an objective returns beside its loss."""

    def __init__(self, metrics, memory, replaced):
        self.metrics, self.memory, self.replaced = metrics, memory, replaced


jax.tree_util.register_pytree_node(
    Outcome, lambda o: ((o.metrics, o.memory, o.replaced), None), lambda _, parts: Outcome(*parts)
)


@pytest.mark.parametrize("config", MESHES[1:], ids=str)
def test_training_does_not_depend_on_the_mesh(config):
    (whole, losses), (split, others) = train(MESHES[0]), train(config)
    assert not split.params["w"].sharding.is_fully_replicated, "parameters stay split after the steps"
    np.testing.assert_allclose(losses, others, rtol=1e-5)
    # Adam divides by the root of the second moment, so rounding shows in the smallest gradients.
    np.testing.assert_allclose(whole.params["w"], split.params["w"], atol=1e-5)


def test_a_checkpoint_moves_to_another_number_of_devices(tmp_path):
    state, _ = train(MeshConfig(data=1, fsdp=8))
    abstract = jax.eval_shape(lambda: state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, meta={})
        checkpoints.wait()
        for config in MESHES:
            shardings = tree_shardings(abstract, make_mesh(config))
            like = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, shardings)
            moved, _ = checkpoints.restore(1, like)
            assert moved.params["w"].sharding == shardings.params["w"]
            jax.tree.map(np.testing.assert_array_equal, moved, state)
        one = jax.tree.map(lambda a: jax.device_put(jnp.zeros(a.shape, a.dtype), jax.devices()[0]), abstract)
        single, _ = checkpoints.restore(1, one)
        assert single.params["w"].devices() == {jax.devices()[0]}
        jax.tree.map(np.testing.assert_array_equal, single, state)
