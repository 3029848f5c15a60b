"""One training step of the rq-VAE beside its twin in PyTorch: milliseconds per step, as one JSON object.

    python benchmarks/rqvae.py [--batches 64 640 1024] [--seconds 4]

TIGER's sizes: 768-512-256-128-32, three books of 256 rows, AdamW with clipped gradients. Ours runs as it trains, an
epoch compiled as one scan. The twin runs compiled where torch.compile works and eagerly elsewhere, which the result
says; of its loops the faster counts. Both draw their batches from vectors in memory and start from the same parameters,
and their losses after the same batches are compared first. Each is measured in float32 and in bfloat16 matmuls, turn about.
"""

import argparse
import importlib.util
import json
import os
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from lmindexer_jax.indexing.rqvae import make_objective, rules
from lmindexer_jax.models.rqvae import RqVae, RqVaeConfig, RqVaeFunctions
from lmindexer_jax.training.optim import OptimConfig, make_optimiser, split
from lmindexer_jax.training.steps import State, make_step

WIDTH, SIZES, ROWS, STEPS = 768, (256, 256, 256), 12_288, 12
OPTIM = OptimConfig(learning_rate=1e-3)


def start(dtype: str) -> tuple[RqVaeFunctions, dict]:
    functions = RqVaeFunctions(RqVae(RqVaeConfig(), WIDTH, SIZES, jnp.dtype(dtype)))
    return functions, functions.init(jax.random.key(0))


def batches(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, ROWS, (STEPS, size)).astype(np.int32)


def ours(vectors: np.ndarray, order: np.ndarray, dtype: str) -> Callable[[], float]:
    """A function that runs STEPS more steps and returns the last loss."""
    functions, params = start(dtype)
    optimiser = make_optimiser(OPTIM, rules(RqVaeConfig()), params, steps=10**6)
    memory = {f"used_{level}": jnp.zeros(size) for level, size in enumerate(SIZES)}
    moving, _ = split(params, rules(RqVaeConfig()))
    step = make_step(make_objective(functions), optimiser, rules(RqVaeConfig()))
    holder = [State(params, optimiser.init(moving), memory, jnp.zeros((), jnp.int32))]
    inputs, rows = jnp.asarray(vectors), jnp.asarray(order)

    @jax.jit
    def epoch(state: State) -> tuple[State, jax.Array]:
        state, metrics = jax.lax.scan(lambda s, r: step(s, {"vectors": inputs[r]}, jax.random.key(0)), state, rows)
        return state, metrics["loss"]

    def run() -> float:
        holder[0], losses = epoch(holder[0])
        return float(losses[-1])

    return run


def twin(vectors: np.ndarray, order: np.ndarray, dtype: str, *, compiled: bool) -> Callable[[], float]:
    """The same in PyTorch."""
    import torch
    from torch import nn
    from torch.nn import functional

    _, params = start("float32")
    config = RqVaeConfig()

    def perceptron(tree: dict) -> nn.Sequential:
        layers = []
        for number in range(len(tree)):
            kernel, bias = (np.asarray(tree[f"layers_{number}"][name]) for name in ("kernel", "bias"))
            linear = nn.Linear(*kernel.shape)
            linear.weight.data, linear.bias.data = torch.tensor(kernel.T.copy()), torch.tensor(bias)
            layers += [linear, nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    encoder, decoder = perceptron(params["encoder"]), perceptron(params["decoder"])
    books = nn.ParameterList(torch.tensor(np.asarray(params[f"codebook_{level}"])) for level in range(len(SIZES)))
    leaves = [*encoder.parameters(), *decoder.parameters(), *books]
    optimiser = torch.optim.AdamW(leaves, lr=1e-3, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: step / 1e5)
    inputs, rows = torch.tensor(vectors), torch.tensor(order.astype(np.int64))

    def loss_of(x):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            z = encoder(x)
        z = z.float()
        residual, loss = z, 0.0
        for book in books:
            scores = residual @ book.T - 0.5 * residual.square().sum(1, keepdim=True) - 0.5 * book.square().sum(1)[None]
            chosen = functional.embedding(scores.argmax(1), book)
            loss = loss + config.commitment * (residual - chosen.detach()).square().sum(1) + (residual.detach() - chosen).square().sum(1)
            residual = residual - chosen.detach()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            rebuilt = decoder(z - residual.detach())
        return (x - rebuilt.float()).square().mean() + loss.mean() / config.latent

    forward = torch.compile(loss_of) if compiled else loss_of

    def run() -> float:
        for indices in rows:
            optimiser.zero_grad()
            loss = forward(inputs[indices])
            loss.backward()
            nn.utils.clip_grad_norm_(leaves, OPTIM.clip_norm)
            optimiser.step()
            schedule.step()
        return float(loss.detach())

    return run


def milliseconds(runs: dict[str, Callable[[], float]], seconds: float) -> dict[str, float]:
    """Median milliseconds per step of each, measured turn about for `seconds` each."""
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()  # warm up
    while any(sum(times) < seconds for times in spent.values()):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            spent[name].append(time.perf_counter() - began)
    return {name: round(1000 * float(np.median(times)) / STEPS, 2) for name, times in spent.items()}


def compare(size: int, dtype: str, seconds: float) -> dict:
    vectors = np.random.default_rng(1).normal(size=(ROWS, WIDTH)).astype(np.float32)
    order = batches(size)
    mine = ours(vectors, order, dtype)
    result: dict = {"batch": size, "dtype": dtype}
    if importlib.util.find_spec("torch") is None:
        return result | {"ours_ms": milliseconds({"ours": mine}, seconds)["ours"]}
    others = {"eager": twin(vectors, order, dtype, compiled=False)}
    first = mine()
    result["loss_ours_and_twin"] = [round(first, 4), round(others["eager"](), 4)]
    try:
        compiled = twin(vectors, order, dtype, compiled=True)
        compiled()
        others["compiled"] = compiled
    except RuntimeError as error:  # no C++ compiler, say
        result["torch.compile"] = f"does not work here: {str(error).splitlines()[0][:80]}"
    spent = milliseconds({"ours": mine} | others, seconds)
    best = min(others, key=spent.get)
    result |= {f"{name}_ms": value for name, value in spent.items()}
    return result | {"twin": best, "ours_over_twin": round(spent["ours"] / spent[best], 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 640, 1024])
    parser.add_argument("--seconds", type=float, default=4.0)
    flags = parser.parse_args()
    results = [compare(size, dtype, flags.seconds) for dtype in ("float32", "bfloat16") for size in flags.batches]
    about = {"benchmark": "rqvae", "device": jax.devices()[0].device_kind, "cpus": len(os.sched_getaffinity(0))}
    print(json.dumps(about | {"results": results}, indent=1))


if __name__ == "__main__":
    main()
