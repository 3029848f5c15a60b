"""What a run will cost, before it starts: FLOPs of each kind of step against this machine's measured matmul rate."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from lmindexer_jax.console import PlannedStage
from lmindexer_jax.indexing.centres import Centres
from lmindexer_jax.indexing.objective import make_objective
from lmindexer_jax.indexing.recipe import Stage, StageKind
from lmindexer_jax.indexing.runner import Run, batches, start
from lmindexer_jax.training.sharding import put_batch
from lmindexer_jax.training.steps import make_step

SHARE_OF_PEAK = 0.5  # what training steps reach of the matmul rate, so far
KMEANS_PASSES = 30


def estimate(run: Run) -> list[PlannedStage]:
    """Minutes and memory of every stage.

    Time is the step's FLOPs (traced, not compiled) over the measured rate; memory is parameters, gradients and
    moments, plus the logits and their gradient. Both are first guesses that the progress lines refine.
    """
    rate = matmul_rate(run.functions.module.dtype) * SHARE_OF_PEAK
    known: dict[tuple, tuple[float, float]] = {}
    planned = []
    for stage in run.stages:
        if stage.kind.trains:
            like = (stage.kind, min(stage.position, 1), str(stage.settings))
            if like not in known:
                known[like] = step_cost(run, stage)
            flops, memory = known[like]
            minutes = stage.steps * flops / rate / 60
        else:
            minutes, memory = pass_minutes(run, stage, rate), None
        planned.append(PlannedStage(stage.name, stage.steps, minutes, memory))
    return planned


def step_cost(run: Run, stage: Stage) -> tuple[float, float]:
    """FLOPs and megabytes of one training step."""
    run = standing_in(run, stage)
    state, optimiser, rules = start(run, stage)
    batch = put_batch(next(batches(run, stage, None)), run.mesh)
    step = make_step(make_objective(run.functions, stage, run.recipe), optimiser, rules)
    lowered = step.lower(state, batch, jax.random.key(0))
    flops = float(lowered.cost_analysis().get("flops", 0.0))
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state) if hasattr(x, "dtype"))
    gradient = sum(x.size * 4 for x in jax.tree.leaves(state.moments)) / 2
    rows, length = batch["tokens"].shape
    vocabulary = run.functions.module.language_model.vocab_size
    bag = run.functions.module.config.reconstructor.kind == "bag"
    logits = rows * (1 if bag else length) * vocabulary * 4
    return flops, (held + gradient + 3 * logits) / 2**20


def standing_in(run: Run, stage: Stage) -> Run:
    """The run with something in place of the centres that a stage needs and that are not learned yet: shapes are right."""
    width = run.params["codebook_0"].shape[1]
    known = run.inputs.centres
    unknown = [Centres(np.zeros((1, p), np.int32), np.zeros((1, width), np.float32)) for p in range(len(known), 1 + stage.position)]
    return dataclasses.replace(run, inputs=dataclasses.replace(run.inputs, centres=known and known + unknown))


def pass_minutes(run: Run, stage: Stage, rate: float) -> float:
    """Minutes of a pass over the corpus, and of k-means where the stage clusters."""
    width = run.params["codebook_0"].shape[1]
    tokens = float(np.sum(run.inputs.store.lengths, dtype=np.float64))
    parts = ("decoder",) if run.inputs.encoded is not None else ("decoder", "encoder")
    weights = {part: sum(x.size for x in jax.tree.leaves(run.params[part])) for part in parts}
    flops = 2 * weights["decoder"] * len(run.inputs) * (stage.position + 1)
    flops += 2 * weights.get("encoder", 0) * tokens
    if stage.kind == StageKind.CLUSTER:
        size = run.functions.module.config.codebook_sizes[stage.position]
        flops += KMEANS_PASSES * 4 * len(run.inputs) * size * width
    return flops / rate / 60


def matmul_rate(dtype: jnp.dtype) -> float:
    """FLOP/s of a square matmul on this machine, median of five."""
    x = jnp.ones((1024, 1024), dtype)
    product = jax.jit(lambda x: x @ x)
    product(x).block_until_ready()
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        product(x).block_until_ready()
        seconds.append(time.perf_counter() - started)
    return 2 * 1024**3 / float(np.median(seconds))
