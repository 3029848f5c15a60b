"""What a run will cost, before it starts: FLOPs of each kind of step against this machine's measured matmul rate."""

import dataclasses
import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from lmindexer_jax.console import PlannedStage
from lmindexer_jax.indexing.centres import Centres
from lmindexer_jax.indexing.footprint import TracedStep, footprint, largest_batch, trace_step
from lmindexer_jax.indexing.recipe import Stage, StageKind
from lmindexer_jax.indexing.runner import Run, batches
from lmindexer_jax.models.indexer import IndexerFunctions

SHARE_OF_PEAK = 0.5  # of the matmul rate, that k-means and the rq-VAE reach: few and large matmuls
SHARE_OF_STEPS = 0.3  # of it, that training steps of small models reach by the clock on two CPU cores; T5-base reaches twice that
BESIDES = 4.0  # seconds that a stage takes for compiling, a look at what it learned and a checkpoint
KMEANS_PASSES = 30
SIDE, PAIRS = 1024, 9  # of the matmuls that are timed


def estimate(run: Run) -> list[PlannedStage]:
    """Minutes, memory and FLOPs of every stage.

    Time is a first guess that the progress lines refine: FLOPs at a share of the measured rate, and `BESIDES`. A pass over
    the corpus is taken for the forward third of an epoch of the training nearest to it. Memory is what the compiled step asks
    for on an accelerator, of which the batch size that fits is told as well; elsewhere it is parameters, gradients and
    moments, plus the logits and their gradient.
    """
    rate = matmul_rate(run.functions.module.dtype)
    known: dict[tuple, tuple[float, float]] = {}
    costs = {}
    for number, stage in enumerate(run.stages):
        if stage.kind.trains:
            like = (stage.kind, min(stage.position, 1), str(stage.settings))
            if like not in known:
                known[like] = step_cost(run, stage)
            costs[number] = known[like]
    planned = []
    for number, stage in enumerate(run.stages):
        training, memory, clustering = 0.0, None, 0.0
        if stage.kind.trains:
            step, memory = costs[number]
            training = step * stage.steps
        elif costs:
            near = max((n for n in costs if n < number), default=min(costs))
            training = costs[near][0] / 3 * len(run.inputs) / run.stages[near].settings.batch_size
        if stage.kind == StageKind.CLUSTER:
            size, width = run.functions.module.config.codebook_sizes[stage.position], run.params["codebook_0"].shape[1]
            clustering = kmeans_flops(documents=len(run.inputs), size=size, width=width)
        seconds = BESIDES + training / (rate * SHARE_OF_STEPS) + clustering / (rate * SHARE_OF_PEAK)
        planned.append(PlannedStage(stage.name, stage.steps, seconds / 60, memory, training + clustering))
    return planned


def step_cost(run: Run, stage: Stage) -> tuple[float, float]:
    """FLOPs and megabytes of one training step."""
    run = standing_in(run, stage)
    batch = next(batches(run, stage, None))
    trace = functools.partial(trace_step, params=run.params, stage=stage, recipe=run.recipe, batch=batch, mesh=run.mesh)
    step = trace(run.functions)
    counted = trace(unrolled(run.functions)) if run.functions.module.stack.scan else step
    flops = float(counted.lowered.cost_analysis().get("flops", 0.0))
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    needed = guessed_memory(run, step, batch) if limit is None else compiled_memory(run, step, stage, limit=limit)
    return flops, needed / 2**20


def unrolled(functions: IndexerFunctions) -> IndexerFunctions:
    """The same model with its layers one after the other: XLA counts the FLOPs of a loop's body once."""
    module = functions.module
    return IndexerFunctions(module.clone(stack=dataclasses.replace(module.stack, scan=False)))


def guessed_memory(run: Run, step: TracedStep, batch: dict[str, np.ndarray]) -> float:
    """Bytes of state, gradients and logits."""
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(step.state))
    gradient = sum(x.size * 4 for x in jax.tree.leaves(step.state.moments)) / 2
    rows, length = batch["tokens"].shape
    vocabulary = run.functions.module.language_model.vocab_size
    bag = run.functions.module.config.reconstructor.kind == "bag"
    return held + gradient + 3 * rows * (1 if bag else length) * vocabulary * 4


def compiled_memory(run: Run, step: TracedStep, stage: Stage, *, limit: int) -> float:
    """Bytes that the compiled step needs of a device's `limit`, and a word on the batch sizes that fit."""
    needed, where = footprint(step), "first" if stage.position == 0 else "later"
    size = stage.settings.batch_size
    fits = largest_batch(needed, batch_size=size, limit=limit, devices=run.mesh.size)
    room = f"{stage.name}: {needed.total / 2**20:,.0f} of {limit / 2**20:,.0f} MB of a device at batch size {size}"
    if needed.total > limit:
        remedy = f"set recipe.{where}.batch_size={fits}" if fits else "split the parameters, with mesh.fsdp over more devices"
        if not run.functions.module.stack.remat:
            remedy += ", or try language_model.remat=True, which keeps less"
        run.console.warn(f"{room}; {remedy}")
    else:
        run.console.note(f"{room}; up to {max(fits, size)} would fit")
    return needed.total


def standing_in(run: Run, stage: Stage) -> Run:
    """The run with something in place of the centres that a stage needs and that are not learned yet: shapes are right."""
    width = run.params["codebook_0"].shape[1]
    known = run.inputs.centres
    unknown = [Centres(np.zeros((1, p), np.int32), np.zeros((1, width), np.float32)) for p in range(len(known), 1 + stage.position)]
    return dataclasses.replace(run, inputs=dataclasses.replace(run.inputs, centres=known and known + unknown))


def kmeans_flops(*, documents: int, size: int, width: int) -> float:
    """FLOPs of finding `size` centres of the documents' vectors."""
    return KMEANS_PASSES * 4.0 * documents * size * width


def matmul_rate(dtype: jnp.dtype) -> float:
    """FLOP/s of a square matmul on this machine, median of five."""
    product = _square_matmul(dtype)
    return 2 * SIDE**3 / float(np.median([product() for _ in range(5)]))


def gain_of_bfloat16() -> float:
    """How many times faster a matmul is in bfloat16 than in float32: median over pairs of one of each, which whatever
    else runs on the machine slows alike."""
    exact, short = _square_matmul(jnp.float32), _square_matmul(jnp.bfloat16)
    return float(np.median([exact() / short() for _ in range(PAIRS)]))


def _square_matmul(dtype: jnp.dtype) -> Callable[[], float]:
    """The seconds that one compiled matmul takes, at every call."""
    x = jnp.ones((SIDE, SIDE), dtype)
    product = jax.jit(lambda x: x @ x)
    product(x).block_until_ready()

    def seconds() -> float:
        started = time.perf_counter()
        product(x).block_until_ready()
        return time.perf_counter() - started

    return seconds
