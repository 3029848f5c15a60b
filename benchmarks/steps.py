"""Training steps beside transformers' PyTorch T5: documents per second and share of the matmul rate, as one JSON object.

    python benchmarks/steps.py [--sizes t5-small t5-base] [--positions 1 2] [--documents 8] [--repeats 3]

The published recipe's steps with a codebook: T5 backbone, everything trains, two dropout views, hinted reconstructor, the
whole vocabulary. The rival does the same in the published structure (rivals/published.py). Both sides take turns, each in a
process of its own, in float32 and in bfloat16 with float32 masters, and the better precision of each side is compared. Model
FLOPs are those of the matmuls that the step cannot do without, counted by hand below, and not what either side happens to
execute; they are set against the best matmul rate of the same minutes, in the same precision, by the faster of the two libraries.
Seconds are medians of wall time. On a machine that does other work, CPU seconds say more; both are given.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import jax
import jax.numpy as jnp
import numpy as np
import torch
from rivals.published import make_step as make_rival

from lmindexer_jax.indexing.objective import make_objective, start_memory
from lmindexer_jax.indexing.recipe import StageKind, plan
from lmindexer_jax.memory import keep_freed
from lmindexer_jax.models.indexer import Indexer, IndexerFunctions
from lmindexer_jax.models.presets import PRESETS
from lmindexer_jax.models.stack import StackConfig
from lmindexer_jax.models.t5 import T5Config
from lmindexer_jax.recipes import published
from lmindexer_jax.training.optim import make_optimiser, paths, split
from lmindexer_jax.training.steps import State, make_step

BATCHES = {"t5-small": 8, "t5-base": 2}
LENGTH = 128
SETTLING = 2  # steps that do not count, after those of the other precision
PRECISIONS = ("float32", "bfloat16")
MATMULS = ((1024, 1024, 1024), (2048, 512, 2048), (2048, 2048, 2048))
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def documents(count: int, *, vocabulary: int, position: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Full-length documents of random tokens, the last one `</s>`."""
    tokens = rng.integers(2, vocabulary, (count, LENGTH)).astype(np.int32)
    tokens[:, -1] = 1
    everywhere = np.ones(tokens.shape, bool)
    codes = rng.integers(0, 512, (count, position)).astype(np.int32)
    return {"tokens": tokens, "words": tokens, "mask": everywhere, "labelled": tokens != 1, "codes": codes}


def make_batch(model: T5Config, *, size: int, position: int, neighbours: int) -> dict:
    """What the objective reads; `position` counts from 0."""
    rng = np.random.default_rng(0)
    batch = documents(size, vocabulary=model.vocab_size, position=position, rng=rng) | {"present": np.ones(size, np.float32)}
    if position:
        batch["neighbours"] = documents(size * neighbours, vocabulary=model.vocab_size, position=position, rng=rng)
        batch["neighbour_present"] = np.ones((size, neighbours), bool)
    return batch


def quantised_step(
    model: T5Config, *, position: int, precision: str, stack: StackConfig = StackConfig()
) -> tuple[Callable, Callable[[], State]]:
    """The published recipe's step with a codebook, and what makes the state that it starts from, which knows no precision."""
    config = published()
    kind = config.indexer.reconstructor.kind
    stages = plan(config.recipe, positions=len(config.indexer.codebook_sizes), documents=10_000, reconstructor=kind)
    stage = next(s for s in stages if s.kind == StageKind.QUANTISED and s.position == position)
    functions = IndexerFunctions(Indexer(config.indexer, model, dtype=jnp.dtype(precision), stack=stack))
    shapes = jax.eval_shape(functions.init, jax.random.key(0))
    rules = stage.rules(paths=tuple(paths(shapes)))
    optimiser = make_optimiser(stage.optim, rules, shapes, steps=stage.steps)

    def fresh() -> State:
        params = functions.init(jax.random.key(0))
        memory = start_memory(params, stage, config.recipe)
        return State(params, optimiser.init(split(params, rules)[0]), memory, jnp.zeros((), jnp.int32))

    return make_step(make_objective(functions, stage, config.recipe), optimiser, rules), fresh


def make_ours(model: T5Config, batch: dict, *, position: int) -> Callable[[str], float]:
    """A function that takes one step in the named precision and returns the loss; both precisions move one state."""
    made = {name: quantised_step(model, position=position, precision=name) for name in PRECISIONS}
    held, batch, key = [made["float32"][1]()], jax.device_put(batch), jax.random.key(0)

    def step(precision: str) -> float:
        state, metrics = made[precision][0](held.pop(), batch, key)
        held.append(jax.block_until_ready(state))
        return float(metrics["loss"])

    return step


def rival_size(model: T5Config) -> dict:
    """The same size under the names of transformers' T5Config."""
    names = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads", "dropout_rate")
    return {name: getattr(model, name) for name in names} | {"decoder_start_token_id": 0, "tie_word_embeddings": True}


def model_flops(model: T5Config, *, batch: int, position: int, neighbours: int) -> float:
    """Matmul FLOPs of one step: forward, and twice as much backward, since everything trains.

    Counted is the least known way: the decoder's few queries go through the key and value matrices instead of every
    token (layers.attend_folded), the reconstructor's one query has one row of scores, the head reads labelled slots.
    """
    width, inner, hidden, heads = model.d_model, model.num_heads * model.d_kv, model.d_ff, model.num_heads
    rows, slots = batch * (2 + (neighbours if position else 0)), position + 1
    projection, feed_forward = 2 * width * inner, 4 * width * hidden
    encoder = LENGTH * (4 * projection + feed_forward) + 4 * LENGTH**2 * inner
    plain = 2 * LENGTH * projection + 4 * slots * LENGTH * inner
    folded = 2 * slots * projection + 4 * slots * heads * LENGTH * width
    decoder = slots * (6 * projection + feed_forward) + 4 * slots**2 * inner + min(plain, folded)
    keys = LENGTH + slots
    ask = projection + 2 * keys * inner + 2 * LENGTH * keys * inner + LENGTH * (projection + feed_forward)
    reconstructor = 2 * keys * projection + slots * ask + (LENGTH - 1) * 2 * width * model.vocab_size
    forward = rows * (model.num_layers * encoder + model.num_decoder_layers * decoder) + batch * reconstructor
    return 3.0 * forward


def clocked(run: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def matmul_rate(side: str, precision: str) -> tuple[float, float]:
    """Best FLOP per wall second and per CPU second of a side's library, over a few sizes."""
    best = np.zeros(2)
    for rows, inner, columns in MATMULS:
        if side == "ours":
            left, right = jnp.ones((rows, inner), precision), jnp.ones((inner, columns), precision)
            product = jax.jit(jnp.matmul)
            run = lambda: product(left, right).block_until_ready()  # noqa: E731
        else:
            left, right = (torch.ones(shape, dtype=getattr(torch, precision)) for shape in ((rows, inner), (inner, columns)))
            run = lambda: torch.mm(left, right)  # noqa: E731
        run()
        best = np.maximum(best, 2 * rows * inner * columns / np.array([clocked(run) for _ in range(5)]).min(axis=0))
    return tuple(best.tolist())


def serve(pipe: Connection, side: str, size: str, documents: int, position: int) -> None:
    """A side in a process of its own: takes a step, alone or after a few that do not count, or times its matmuls."""
    keep_freed()  # as the command does; it helps both sides
    torch.set_num_threads(CORES)
    model, config = PRESETS[size], published()
    neighbours = config.recipe.later.contrast.neighbours
    batch = make_batch(model, size=documents, position=position, neighbours=neighbours)
    if side == "ours":
        step = make_ours(model, batch, position=position)
    else:
        settings = config.recipe.later if position else config.recipe.first
        rival = make_rival(rival_size(model), batch, books=config.indexer.codebook_sizes, hidden=settings.hidden)
        step = lambda precision: rival(getattr(torch, precision))  # noqa: E731
    while (asked := pipe.recv()) is not None:
        what, precision = asked
        for _ in range(SETTLING if what == "settled" else 0):
            step(precision)
        pipe.send(matmul_rate(side, precision) if what == "matmul" else clocked(lambda: step(precision)))


class Side:
    """One side of the comparison, in a process of its own, so that its memory and its threads are not the other's."""

    def __init__(self, name: str, size: str, documents: int, position: int):
        """Starts the process, which makes its model."""
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, name, size, documents, position), daemon=True)
        self.process.start()

    def ask(self, what: str, precision: str) -> tuple[float, float]:
        """What it says, by the clock and by CPU time."""
        self.pipe.send((what, precision))
        return self.pipe.recv()

    def end(self) -> None:
        """Stops the process."""
        self.pipe.send(None)
        self.process.join()


def compare(size: str, *, batch_size: int, position: int, repeats: int) -> dict:
    """Both sides in both precisions, in turns."""
    model, neighbours = PRESETS[size], published().recipe.later.contrast.neighbours
    sides = {name: Side(name, size, batch_size, position) for name in ("ours", "pytorch")}
    steps = [(name, precision) for name in sides for precision in PRECISIONS]
    first = {f"{name} {precision}": round(sides[name].ask("step", precision)[0], 1) for name, precision in steps}
    taken, rates = {step: [] for step in steps}, {precision: [] for precision in PRECISIONS}
    for _ in range(repeats):
        for name, precision in steps:
            # The first steps after one of the other precision find their memory elsewhere, as in no training.
            taken[name, precision].append(sides[name].ask("settled", precision))
            rates[precision] += [side.ask("matmul", precision) for side in sides.values()]
            time.sleep(0.2)  # the threads of one library stop spinning before the other begins
    for side in sides.values():
        side.end()
    flops = model_flops(model, batch=batch_size, position=position, neighbours=neighbours)
    peak = {precision: np.max(rows, axis=0) for precision, rows in rates.items()}
    result = {"batch": batch_size, "length": LENGTH, "rows_encoded": batch_size * (2 + (neighbours if position else 0))}
    result |= {"model_gflops": round(flops / 1e9, 1), "first_call_seconds": first, "ours": {}, "pytorch": {}}
    for (side, precision), seconds in taken.items():
        wall, cpu = np.median(seconds, axis=0)
        result[side][precision] = {
            "documents_per_second": round(batch_size / wall, 3),
            "seconds": round(wall, 3),
            "cpu_seconds": round(cpu, 3),
            "share_of_matmul_rate": round(flops / wall / peak[precision][0], 3),
            "share_of_matmul_rate_by_cpu_seconds": round(flops / cpu / peak[precision][1], 3),
        }
    result["matmul_gflops_per_second"] = {p: round(rate[0] / 1e9) for p, rate in peak.items()}
    for name, key in (("times_as_fast", "seconds"), ("times_as_fast_by_cpu_seconds", "cpu_seconds")):
        best = {side: min(result[side][p][key] for p in PRECISIONS) for side in ("ours", "pytorch")}
        result[name] = round(best["pytorch"] / best["ours"], 2)
    return result


def main() -> None:
    """Measures what was asked for and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=sorted(BATCHES), default=list(BATCHES))
    parser.add_argument("--positions", nargs="+", type=int, choices=(1, 2), default=[1, 2])
    parser.add_argument("--documents", type=int, help=f"of a step; {BATCHES} where nothing is said")
    parser.add_argument("--repeats", type=int, default=3)
    flags = parser.parse_args()
    results = {
        f"{size} position {position}": compare(size, batch_size=flags.documents or BATCHES[size], position=position - 1, repeats=flags.repeats)
        for size in flags.sizes
        for position in flags.positions
    }
    versions = {"jax": jax.__version__, "torch": torch.__version__}
    head = {"benchmark": "steps", "device": jax.devices()[0].device_kind, "cpus": CORES, "versions": versions}
    print(json.dumps(head | {"results": results}, indent=1))


if __name__ == "__main__":
    main()
