"""All that the code knows about devices: the mesh, where parameters lie, where batches go.

The mesh has two axes. `data` splits the batch; `fsdp` splits the batch and the parameters (fully sharded data
parallelism, Rajbhandari 2020). Computation is placed by jit from the shardings of its inputs.
"""

import dataclasses
import math

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lmindexer_jax.errors import UserError

SMALL = 2**16  # numbers; a smaller parameter is cheaper to copy than to gather


@dataclasses.dataclass
class MeshConfig:
    """Sizes of the mesh axes; -1 takes the devices that are left."""

    data: int = -1
    fsdp: int = 1


def make_mesh(config: MeshConfig) -> Mesh:
    """The mesh over all devices.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    devices = jax.device_count()
    data = devices // max(config.fsdp, 1) if config.data == -1 else config.data
    if data < 1 or config.fsdp < 1 or data * config.fsdp != devices:
        # jax.make_mesh would take a subset of the devices without a word.
        raise UserError(f"mesh.data={config.data} x mesh.fsdp={config.fsdp} does not make {devices} devices")
    return jax.make_mesh((data, config.fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))


def describe(tree, mesh: Mesh):
    """Shapes, types and shardings of a state that is not there yet, for compiling ahead of time."""
    return jax.tree.map(lambda leaf, sharding: _shape(leaf.shape, leaf.dtype, sharding), tree, tree_shardings(tree, mesh))


def describe_batch(batch, mesh: Mesh):
    """The same of the whole batch of which `batch` is a process's share, rows over all devices."""
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    processes = jax.process_count()
    return jax.tree.map(lambda leaf: _shape((len(leaf) * processes, *leaf.shape[1:]), leaf.dtype, sharding), batch)


def _shape(shape: tuple[int, ...], dtype, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(dtype), sharding=sharding)


def leaf_sharding(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Split the largest axis that `fsdp` divides; small leaves and leaves without such an axis are replicated."""
    size = mesh.shape["fsdp"]
    axes = [axis for axis in range(len(shape)) if shape[axis] % size == 0]
    if size == 1 or not axes or math.prod(shape) < SMALL:
        return NamedSharding(mesh, PartitionSpec())
    largest = max(axes, key=lambda axis: shape[axis])
    return NamedSharding(mesh, PartitionSpec(*("fsdp" if axis == largest else None for axis in range(len(shape)))))


def tree_shardings(tree, mesh: Mesh):
    """A sharding for every leaf of a tree of arrays or abstract arrays."""
    return jax.tree.map(lambda leaf: leaf_sharding(np.shape(leaf), mesh), tree)


def put_batch(batch, mesh: Mesh):
    """Place a process's share of a batch, rows over all devices.

    Raises:
      UserError: the rows do not divide by the devices.
    """
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    local = jax.local_device_count()

    def put(leaf: np.ndarray):
        if leaf.shape[0] % local:
            raise UserError(f"a batch of {leaf.shape[0]} rows does not divide by {local} devices; change batch_size")
        return jax.make_array_from_process_local_data(sharding, leaf)

    return jax.tree.map(put, batch)
