"""Every kind of step beside its floor: FLOPs and bytes of the compiled step, seconds, and their ratio, as one JSON object.

    python benchmarks/floors.py [--repeats 5]

The floor is the step's FLOPs at the matmul rate that the same process measures between the repeats; float32, so that one
rate serves all. A ratio of 2 means that the step takes twice its floor. FLOPs and bytes are XLA's count, which takes the
body of a loop once (the published vocabulary head has one). Seconds are the least of the repeats, by the clock and by CPU time:
on a machine that does other work the second says more, and the ratio is made of it. The language model is "mini", a T5 of
random weights; TIGER's rq-VAE; the retriever of benchmarks/decode.py. The input pipeline is set against position 2's step.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import decode
import jax
import jax.numpy as jnp
import numpy as np
import rqvae
from token_store import write_documents

from lmindexer_jax.data.corpus import open_corpus
from lmindexer_jax.data.documents import CorpusConfig
from lmindexer_jax.data.pipeline import training_batches
from lmindexer_jax.data.tokenizer import train_tokenizer
from lmindexer_jax.data.tokens import TokenStore, open_tokens
from lmindexer_jax.indexing.assign import MODEL_INPUTS, make_codes
from lmindexer_jax.indexing.inputs import Inputs
from lmindexer_jax.indexing.nearest import compare, make_targets
from lmindexer_jax.indexing.objective import make_objective, start_memory
from lmindexer_jax.indexing.recipe import Stage, StageKind, plan
from lmindexer_jax.memory import keep_freed
from lmindexer_jax.models.indexer import Indexer, IndexerFunctions
from lmindexer_jax.models.presets import PRESETS
from lmindexer_jax.models.retriever import Retriever, RetrieverConfig, RetrieverFunctions
from lmindexer_jax.models.rqvae import RqVaeConfig
from lmindexer_jax.recipes import published
from lmindexer_jax.retrieval import finetune
from lmindexer_jax.retrieval.beam import BeamConfig
from lmindexer_jax.retrieval.build import build
from lmindexer_jax.retrieval.generate import make_generator
from lmindexer_jax.training.optim import OptimConfig, make_optimiser, paths, split
from lmindexer_jax.training.steps import State, make_step

DOCUMENTS, LENGTH, BATCH = 2000, 64, 16
RQVAE_BATCH, QUERIES, SEARCHES = 1024, 64, 8
CLUSTERED, WIDTH, CENTRES = 8192, 384, 512
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


class Step(NamedTuple):
    """A compiled step, and what runs it once more."""

    compiled: jax.stages.Compiled
    run: Callable[[], Any]


def called(function: Callable, *arguments: Any) -> Step:
    """A step that changes nothing."""
    compiled = jax.jit(function).lower(*arguments).compile()
    return Step(compiled, lambda: jax.block_until_ready(compiled(*arguments)))


def trained(objective: Callable, params: dict, batch: dict, *, optim: OptimConfig, rules: tuple, memory: dict) -> Step:
    """A training step: each run goes on from the state before."""
    optimiser = make_optimiser(optim, rules, params, steps=10**6)
    state, key = State(params, optimiser.init(split(params, rules)[0]), memory, jnp.zeros((), jnp.int32)), jax.random.key(0)
    batch = jax.device_put(batch)
    compiled, held = make_step(objective, optimiser, rules).lower(state, batch, key).compile(), [state]

    def run() -> None:
        held.append(jax.block_until_ready(compiled(held.pop(), batch, key))[0])

    return Step(compiled, run)


def open_store(folder: Path) -> TokenStore:
    """Tokens of made-up documents."""
    write_documents(folder / "documents.jsonl", DOCUMENTS)
    corpus = open_corpus(CorpusConfig(path=str(folder / "documents.jsonl"), cache_dir=str(folder)))
    tokenizer = train_tokenizer(corpus, vocab_size=PRESETS["mini"].vocab_size)
    return open_tokens(corpus, tokenizer, max_length=LENGTH, cache_dir=folder)


def batches_of(inputs: Inputs, stage: Stage) -> Callable[[int], dict]:
    """The input pipeline of a stage: the batch of a step."""
    neighbours = stage.settings.contrast.neighbours if stage.position else 0
    fetch = inputs.training_fetch(position=stage.position, neighbours=neighbours)
    data = training_batches(fetch, documents=len(inputs), batch_size=BATCH, seed=0, steps=10**6)
    return lambda step: data[step]


def indexer_steps(inputs: Inputs) -> tuple[dict[str, Step], Callable[[int], dict]]:
    """Training at positions 1 and 2 by the published recipe, assignment; and the pipeline of position 2."""
    config = published()
    functions = IndexerFunctions(Indexer(config.indexer, PRESETS["mini"]))
    params = functions.init(jax.random.key(0))
    stages = plan(config.recipe, positions=2, documents=DOCUMENTS, reconstructor=config.indexer.reconstructor.kind)
    steps = {}
    for stage in (stage for stage in stages if stage.kind == StageKind.QUANTISED):
        pipeline = batches_of(inputs, stage)
        objective, rules = make_objective(functions, stage, config.recipe), stage.rules(paths=tuple(paths(params)))
        own = jax.tree.map(jnp.copy, params)  # a step gives its state away
        memory = start_memory(own, stage, config.recipe)
        name = f"training, position {stage.position + 1}"
        steps[name] = trained(objective, own, pipeline(0), optim=stage.optim, rules=rules, memory=memory)
    rows = inputs.rows(np.arange(BATCH), position=1, length=LENGTH)
    codes = make_codes(functions, 1, stages[-1].settings.quantiser.similarity)
    steps["assignment, two positions"] = called(codes, params, {name: rows[name] for name in MODEL_INPUTS if name in rows})
    return steps, pipeline


def clustering_steps() -> dict[str, Step]:
    """The nearest of K centres, which is what a pass of k-means does, and a step of the rq-VAE."""
    rng = np.random.default_rng(0)
    vectors, centres = (jnp.asarray(rng.normal(size=(rows, WIDTH)), jnp.float32) for rows in (CLUSTERED, CENTRES))
    functions, params = rqvae.start("float32")
    memory = {f"used_{level}": jnp.zeros(size) for level, size in enumerate(rqvae.SIZES)}
    batch = {"vectors": rng.normal(size=(RQVAE_BATCH, rqvae.WIDTH)).astype(np.float32)}
    objective, rules = rqvae.make_objective(functions), rqvae.rules(RqVaeConfig())
    return {
        "k-means, nearest centres": called(compare, vectors, make_targets(centres)),
        "rq-VAE": trained(objective, params, batch, optim=rqvae.OPTIM, rules=rules, memory=memory),
    }


def retriever_steps() -> dict[str, Step]:
    """Training a retriever, and its beam search."""
    ids = decode.item_ids()
    trie = jax.device_put(build(ids, (decode.K,) * decode.LENGTH))
    functions = RetrieverFunctions(Retriever(RetrieverConfig(), decode.MODEL, trie.sizes))
    params = jax.jit(functions.init)(jax.random.key(0))
    config = finetune.FinetuneConfig()
    tokens, mask = decode.sources(QUERIES), np.ones((QUERIES, decode.SOURCE), bool)
    batch = {"tokens": tokens, "mask": mask, "codes": ids[:QUERIES]}
    objective, rules = finetune.make_objective(functions), finetune.rules(params, config)
    memory = {"trie": jax.tree.map(jnp.copy, trie)}
    search = make_generator(functions, config=BeamConfig(beams=decode.BEAMS))
    asked = (tokens[:SEARCHES], mask[:SEARCHES], np.ones(SEARCHES, bool))
    return {
        "retriever training": trained(objective, jax.tree.map(jnp.copy, params), batch, optim=config.optim, rules=rules, memory=memory),
        "beam search": called(search, params, trie, *asked),
    }


def clocked(run: Callable[[], object]) -> np.ndarray:
    """Wall and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return np.array([time.perf_counter() - wall, time.process_time() - cpu])


def main() -> None:
    """Compile all, then measure all in turns with the matmul."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    keep_freed()
    with tempfile.TemporaryDirectory() as folder:
        codes = np.random.default_rng(0).integers(0, 512, (DOCUMENTS, 2)).astype(np.int32)
        inputs = Inputs(open_store(Path(folder)), (0, 1), codes)
        steps, pipeline = indexer_steps(inputs)
        steps |= clustering_steps() | retriever_steps()
        square = jnp.ones((1024, 1024), jnp.float32)
        matmul = called(jnp.matmul, square, square)
        runs = {"matmul": matmul.run} | {name: step.run for name, step in steps.items()}
        for run in runs.values():
            run()
        spent = {name: np.array([np.inf, np.inf]) for name in (*runs, "input pipeline, position 2")}
        for repeat in range(repeats):
            for name, run in runs.items():
                spent[name] = np.minimum(spent[name], clocked(run))
            many = clocked(lambda: [pipeline(20 * repeat + n) for n in range(20)]) / 20
            spent["input pipeline, position 2"] = np.minimum(spent["input pipeline, position 2"], many)
    rate = 2 * 1024**3 / spent["matmul"]
    result = {}
    for name, step in steps.items():
        cost = step.compiled.cost_analysis()
        wall, cpu = spent[name]
        floor = cost["flops"] / rate[1]
        row = {"gflops": cost["flops"] / 1e9, "gigabytes": cost["bytes accessed"] / 1e9, "floor": floor, "cpu_seconds": cpu}
        result[name] = {key: float(f"{value:.3g}") for key, value in (row | {"seconds": wall, "ratio": cpu / floor}).items()}
    waited = spent["input pipeline, position 2"]
    share = waited / spent["training, position 2"]
    head = {"benchmark": "floors", "device": jax.devices()[0].device_kind, "cpus": CORES, "jax": jax.__version__}
    head |= {"matmul_gflops_per_second": {"wall": round(rate[0] / 1e9, 1), "cpu": round(rate[1] / 1e9, 1)}}
    head |= {"input_pipeline": {"milliseconds": round(1e3 * waited[1], 2), "share_of_the_step": round(float(share[1]), 4)}}
    print(json.dumps(head | {"results": result}, indent=1))


if __name__ == "__main__":
    main()
