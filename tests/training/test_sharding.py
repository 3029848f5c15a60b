"""The mesh and the rule by shape on one device; everything else on eight simulated ones, in a process of their own."""

import pathlib

import numpy as np
import pytest
from devices import run_on_eight
from processes import Group

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


LOOKS = """
import jax, numpy as np
from lmindexer_jax.training import hosts, sharding
hosts.start(hosts.HostsConfig())
sharding.SMALL = 1
mesh = sharding.make_mesh(sharding.MeshConfig(data=1, fsdp=2))
params = sharding.place({name: np.full((8, 4), 7.0, np.float32) for name in "ab"}, mesh)
assert not params["a"].is_fully_addressable
compiled = []
jax.monitoring.register_event_duration_secs_listener(lambda event, seconds, **_: compiled.append(event))
for _ in range(3):
    seen = sharding.here(params)
assert all((np.asarray(leaf) == 7.0).all() and leaf.is_fully_addressable for leaf in seen.values())
print("compiled:", sum("backend_compile" in event for event in compiled))
"""


@pytest.mark.slow
def test_a_look_at_parameters_of_several_processes_is_compiled_once():
    """Two leaves of one shape, looked at three times."""
    group = Group(LOOKS, [], count=2, devices=1)
    assert group.wait(300) == [0, 0], group.said()
    assert "compiled: 1" in group.output(0), group.said()
