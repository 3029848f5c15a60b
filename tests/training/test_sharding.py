"""The mesh and the rule by shape on one device; everything else on eight simulated ones, in a process of their own."""

import pathlib

import numpy as np
import pytest
from devices import run_on_eight

from lmindexer_jax.errors import UserError
from lmindexer_jax.training.sharding import MeshConfig, make_mesh, put_batch, tree_shardings


@pytest.mark.parametrize("config", [MeshConfig(data=2), MeshConfig(data=3, fsdp=2), MeshConfig(fsdp=2), MeshConfig(fsdp=0)])
def test_a_mesh_that_is_not_all_devices_is_refused_in_one_line(config):
    with pytest.raises(UserError, match="device") as error:
        make_mesh(config)
    assert "\n" not in str(error.value)


def test_on_one_device_everything_is_whole():
    mesh = make_mesh(MeshConfig())
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1}
    leaf = np.zeros((512, 512))
    assert tree_shardings({"w": leaf}, mesh)["w"].is_fully_replicated
    np.testing.assert_array_equal(put_batch({"x": np.arange(3)}, mesh)["x"], np.arange(3))


def test_on_eight_devices():
    """Runs `eight_devices.py`, whose tests need JAX to start with more devices than the others have."""
    run_on_eight(pathlib.Path(__file__).with_name("eight_devices.py"))
