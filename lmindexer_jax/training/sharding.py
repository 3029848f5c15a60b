"""All that the code knows about devices: the mesh, where parameters lie, where batches go.

The mesh has two axes. `data` splits the batch; `fsdp` splits the batch and the parameters (fully sharded data
parallelism, Rajbhandari 2020). Computation is placed by jit from the shardings of its inputs.

What each process does by itself, a pass over its share of the documents, runs on its own devices (`here`,
`put_here`), with as many rows on each as on a single one: a document's numbers do not depend on how many there are.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from lmindexer_jax.errors import UserError
from lmindexer_jax.training import hosts

SMALL = 2**16  # numbers; a smaller parameter is cheaper to copy than to gather
ROWS = PartitionSpec(("data", "fsdp"))


@dataclasses.dataclass
class MeshConfig:
    """Sizes of the mesh axes; -1 takes the devices that are left."""

    data: int = -1
    fsdp: int = 1


def make_mesh(config: MeshConfig) -> Mesh:
    """The mesh over all devices of all processes.

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
    sharding = NamedSharding(mesh, ROWS)
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


def place(tree, mesh: Mesh):
    """A tree of arrays that every process has, as `tree_shardings` says."""
    return jax.tree.map(_put, tree, tree_shardings(tree, mesh))


def replicate(tree, mesh: Mesh):
    """A tree of arrays that every process has, whole on every device."""
    return jax.tree.map(lambda leaf: _put(leaf, NamedSharding(mesh, PartitionSpec())), tree)


def _put(leaf, sharding: NamedSharding) -> Array:
    if sharding.is_fully_addressable or (isinstance(leaf, Array) and not leaf.is_fully_addressable):
        return jax.device_put(leaf, sharding)
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def free(tree) -> None:
    """Give up the arrays of a tree on the devices; nobody can read them any more."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, Array):
            leaf.delete()


def own_rows(batch_size: int, mesh: Mesh) -> Int[np.ndarray, " b"]:
    """The rows of a global batch that lie on this process's devices, ascending.

    Raises:
      UserError: the rows do not divide by the devices.
    """
    if batch_size % mesh.size:
        raise UserError(f"a batch of {batch_size} rows does not divide by {mesh.size} devices; change batch_size")
    held = NamedSharding(mesh, ROWS).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[rows] for rows in held]))


def put_batch(batch, mesh: Mesh):
    """Place a process's share of a batch, its `own_rows`; the rows of the whole are split over all devices.

    Raises:
      UserError: the rows do not divide by the devices.
    """
    sharding = NamedSharding(mesh, ROWS)
    local = len(sharding.addressable_devices)

    def put(leaf: np.ndarray):
        if leaf.shape[0] % local:
            raise UserError(f"a batch of {leaf.shape[0]} rows does not divide by {local} devices; change batch_size")
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        rows = leaf.shape[0] // local * mesh.size
        mine = own_rows(rows, mesh)

        def part(index: tuple[slice, ...]) -> np.ndarray:
            begin, end, _ = index[0].indices(rows)
            at = int(np.searchsorted(mine, begin))
            return leaf[at : at + end - begin]

        return jax.make_array_from_callback((rows, *leaf.shape[1:]), sharding, part)

    return jax.tree.map(put, batch)


def spread_rows(tree, *, multiple: int):
    """Arrays that every process has, zeros added, their rows split over all devices: on each a multiple of so many.

    All devices are this process's own where it works alone.
    """
    mesh = make_mesh(MeshConfig()) if hosts.several() else local_mesh()

    def put(leaf: np.ndarray) -> Array:
        missing = -len(leaf) % (multiple * mesh.size)
        return _put(np.pad(leaf, ((0, missing), *((0, 0),) * (leaf.ndim - 1))), NamedSharding(mesh, ROWS))

    return jax.tree.map(put, tree)


def split_rows(batch, mesh: Mesh):
    """Inside a compiled function: rows over all devices, where they divide."""

    def split(leaf: Array) -> Array:
        return leaf if leaf.shape[0] % mesh.size else jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, ROWS))

    return jax.tree.map(split, batch)


def lay_out(tree, mesh: Mesh):
    """Inside a compiled function: leaves as `tree_shardings` says."""
    return jax.lax.with_sharding_constraint(tree, tree_shardings(tree, mesh))


def local_mesh(*, split: bool = False) -> Mesh:
    """This process's own devices, as the axis `fsdp` if parameters are to be split over them, else as `data`."""
    devices = np.array(jax.local_devices())
    return Mesh(devices[None] if split else devices[:, None], ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))


def here(tree):
    """A tree of parameters on this process's own devices; those split over the mesh stay split. All processes ask for it."""

    def put(leaf) -> Array:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            split = not leaf.is_fully_replicated
            if split:
                leaf = _gather(leaf.sharding.update(spec=PartitionSpec()))(leaf)
            whole = np.asarray(leaf.addressable_data(0))
            return jax.device_put(whole, leaf_sharding(whole.shape, local_mesh(split=split)))
        if isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) == jax.local_device_count():
            return leaf
        return jax.device_put(leaf, NamedSharding(local_mesh(), PartitionSpec()))

    return jax.tree.map(put, tree)


@functools.cache
def _gather(sharding: NamedSharding) -> Callable:
    """An array laid out anew; one function for each layout, so that each shape is compiled once and not at every call."""
    return jax.jit(lambda x: x, out_shardings=sharding)


def put_here(batch):
    """Place a batch, its rows split over this process's own devices."""
    return put_batch(batch, local_mesh())
