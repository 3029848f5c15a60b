"""The paper's largest steps, compiled for eight devices of which there are none. Run by test_paper_configs.py."""

import paper_runs
import pytest

from lmindexer_jax.indexing.footprint import footprint, largest_batch, on_one_device, trace_step
from lmindexer_jax.training.sharding import MeshConfig, make_mesh

CHIP = 16 * 10**9  # bytes of a TPU v5e


@pytest.mark.parametrize("name, stage", [("beauty", "position-1/quantised"), ("macro1m", "position-2/quantised")])
def test_a_step_fits_a_v5e(name, stage):
    """Memory as XLA plans it for eight CPUs; the TPU compiler's figures, which are lower, stand in the configs."""
    config = paper_runs.config_of(name)
    functions, params = paper_runs.model(config.indexer.codebook_sizes)
    (stage,) = [each for each in paper_runs.training_stages(config) if each.name == stage]
    batch, mesh = paper_runs.batch_of(config, stage), make_mesh(MeshConfig())
    step = trace_step(functions, params, stage, recipe=config.recipe, batch=batch, mesh=mesh)
    rows = [leaf.sharding.shard_shape(leaf.shape)[0] * mesh.size for leaf in (step.state.memory["counts"],)]
    assert rows == [config.indexer.codebook_sizes[stage.position] * mesh.size], "whole on every device"
    needed = footprint(step)
    print(name, stage.name, needed)
    assert on_one_device(step.state) < needed.state < needed.total < CHIP
    size = stage.settings.batch_size
    assert largest_batch(needed, batch_size=size, limit=CHIP, devices=mesh.size) >= size
