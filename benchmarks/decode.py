"""Decoding IDs and training to emit them, beside transformers: seconds, as one JSON object.

    python benchmarks/decode.py [repetitions]

A T5 of 4.6M parameters (4 + 4 layers, width 128), 12,101 IDs of four codes, K = 256, 80 source tokens, 20 beams. Both sides
take turns in one process, each on all its cores, and the least of the repetitions counts, in wall-clock and in CPU seconds: the
second does not change when the machine has other work. Compilation is stated apart. "lookup" is all that the trie adds
to a step: children, masked log-softmax, the best of them, their nodes.
"""

import dataclasses
import functools
import json
import os
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lmindexer_jax.models.retriever import Retriever, RetrieverConfig, RetrieverFunctions
from lmindexer_jax.models.t5 import T5Config
from lmindexer_jax.retrieval import beam
from lmindexer_jax.retrieval.beam import BeamConfig, Beams
from lmindexer_jax.retrieval.build import build
from lmindexer_jax.retrieval.children import children_masks
from lmindexer_jax.retrieval.trie import Trie

ITEMS, LENGTH, K, SOURCE, BEAMS, TRAIN_BATCH = 12_101, 4, 256, 80, 20, 256
FIRST = 2  # token of code 0 of the first position; below are padding and the end
MODEL = T5Config(
    vocab_size=FIRST + LENGTH * K, d_model=128, d_kv=64, d_ff=1024, num_layers=4, num_decoder_layers=4, num_heads=6
)


def item_ids() -> np.ndarray:
    """Distinct IDs that share prefixes about as residual k-means codes of products do."""
    rng = np.random.default_rng(0)
    first = rng.zipf(1.3, 4 * ITEMS) % K
    rest = rng.integers(0, K, (4 * ITEMS, 1)) * np.array([[1, 3, 7]]) + rng.integers(0, 24, (4 * ITEMS, 3))
    return np.unique(np.column_stack([first, rest % K]), axis=0)[:: 3][:ITEMS].astype(np.int32)


def sources(batch: int) -> np.ndarray:
    return np.random.default_rng(1).integers(FIRST, MODEL.vocab_size, (batch, SOURCE)).astype(np.int32)


def measured(runs: dict[str, Callable], repetitions: int) -> dict[str, dict[str, float]]:
    """Each run's first call, then the least wall-clock and CPU seconds over repetitions in turn."""
    result = {}
    for name, run in runs.items():
        started = time.perf_counter()
        run()
        result[name] = {"first_call": round(time.perf_counter() - started, 3), "wall": np.inf, "cpu": np.inf}
    for _ in range(repetitions):
        for name, run in runs.items():
            started, worked = time.perf_counter(), time.process_time()
            run()
            found = {"wall": time.perf_counter() - started, "cpu": time.process_time() - worked}
            result[name] |= {kind: round(min(found[kind], result[name][kind]), 5) for kind in found}
    return result


def unconstrained(step, cache, *, batch: int):
    """The same search with every code allowed: what the trie's cost is measured against."""
    scores, codes = jnp.zeros((batch, 1)), jnp.zeros((batch, 1, 0), jnp.int32)
    parents = jnp.zeros((batch, 1), jnp.int32)
    for _ in range(LENGTH):
        logits, cache = step(cache, codes, parents)
        totals = (scores[..., None] + jax.nn.log_softmax(logits)).reshape(batch, -1)
        scores, index = jax.lax.top_k(totals, BEAMS)
        parents = index // K
        earlier = jnp.take_along_axis(codes, parents[..., None], axis=1)
        codes = jnp.concatenate([earlier, (index % K)[..., None]], axis=-1)
    return codes, scores


def ours(functions: RetrieverFunctions, params: dict, trie: Trie, *, batch: int) -> dict[str, Callable]:
    tokens, mask = jnp.asarray(sources(batch)), jnp.ones((batch, SOURCE), bool)

    def cached(params):
        read = functions.encode(params, tokens, mask)
        return functools.partial(functions.step, params), functions.start_search(params, read, beams=BEAMS)

    @jax.jit
    def constrained(params, trie):
        return beam.search(*cached(params), trie, config=BeamConfig(beams=BEAMS), present=jnp.ones(batch, bool))

    free = jax.jit(lambda params: unconstrained(*cached(params), batch=batch))
    return {
        "ours": lambda: jax.block_until_ready(constrained(params, trie)),
        "ours_unconstrained": lambda: jax.block_until_ready(free(params)),
    }


def lookups(trie: Trie, *, batch: int) -> dict[str, Callable]:
    """`beam.advance` at each depth, with logits and beams as a search has them."""
    rng, runs = np.random.default_rng(2), {}
    beams = Beams(jnp.zeros((batch, 1), jnp.int32), jnp.zeros((batch, 1)), jnp.zeros((batch, 1, 0), jnp.int32))
    for depth in range(LENGTH):
        logits = jnp.asarray(rng.normal(size=(*beams.nodes.shape, K)), jnp.float32)
        advance = jax.jit(functools.partial(beam.advance, depth=depth, config=BeamConfig(beams=BEAMS)))
        call = functools.partial(advance, trie, logits=logits, beams=beams)
        runs[f"position_{depth + 1}"] = lambda call=call: jax.block_until_ready(call())
        beams, _ = call()
    return runs


def training(functions: RetrieverFunctions, params: dict, trie: Trie, ids: np.ndarray) -> Callable:
    tokens, mask = jnp.asarray(sources(TRAIN_BATCH)), jnp.ones((TRAIN_BATCH, SOURCE), bool)
    codes = jnp.asarray(ids[:TRAIN_BATCH])
    optimiser = optax.adamw(1e-3)

    def loss(params, key):
        first, second = jax.random.split(key)
        read = functions.encode(params, tokens, mask, key=first)
        logits = functions.logits(params, read, codes=codes, key=second)
        total = 0.0
        for t, allowed in enumerate(children_masks(trie, codes)):
            masked = jnp.where(allowed, logits[t], -1e9)
            total += optax.softmax_cross_entropy_with_integer_labels(masked, codes[:, t]).mean()
        return total

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, moments, key):
        gradient = jax.grad(loss)(params, key)
        updates, moments = optimiser.update(gradient, moments, params)
        return optax.apply_updates(params, updates), moments

    params = jax.tree.map(jnp.copy, params)
    state = [params, optimiser.init(params)]

    def run() -> None:
        state[:] = step(*state, jax.random.key(0))
        jax.block_until_ready(state)

    return run


def theirs(ids: np.ndarray) -> tuple[Callable, Callable]:
    """transformers' side: a function that gives the decoding runs of a batch size, and the training run."""
    import torch
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    fields = dataclasses.asdict(MODEL)
    fields["feed_forward_proj"] = str(fields.pop("feed_forward"))
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**fields))
    tokens_of = (ids + FIRST + np.arange(LENGTH)[None] * K).tolist()
    children: dict[tuple, set] = {}
    for row in tokens_of:
        for t, token in enumerate(row):
            children.setdefault(tuple(row[:t]), set()).add(token)
    allowed = {prefix: sorted(tokens) for prefix, tokens in children.items()}
    everything = list(range(FIRST, MODEL.vocab_size))

    def follow(_: int, read: torch.Tensor) -> list[int]:
        return allowed.get(tuple(read.tolist()[1:]), everything)

    def decoding(batch: int) -> dict[str, Callable]:
        inputs = torch.from_numpy(sources(batch)).long()
        mask = torch.ones_like(inputs)
        options = {
            "num_beams": BEAMS, "num_return_sequences": BEAMS, "max_new_tokens": LENGTH, "min_new_tokens": LENGTH,
            "do_sample": False, "output_scores": True, "return_dict_in_generate": True,
        }  # fmt: skip

        def generate(**more) -> None:
            model.eval()
            with torch.inference_mode():
                model.generate(input_ids=inputs, attention_mask=mask, **options, **more)

        return {"transformers": lambda: generate(prefix_allowed_tokens_fn=follow), "transformers_unconstrained": generate}

    def train() -> Callable:
        optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
        inputs, labels = torch.from_numpy(sources(TRAIN_BATCH)).long(), torch.tensor(tokens_of[:TRAIN_BATCH])

        def run() -> None:
            model.train()
            optimiser.zero_grad()
            model(input_ids=inputs, attention_mask=torch.ones_like(inputs), labels=labels).loss.backward()
            optimiser.step()

        return run

    return decoding, train()


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    ids = item_ids()
    trie = jax.device_put(build(ids, (K,) * LENGTH))
    functions = RetrieverFunctions(Retriever(RetrieverConfig(), MODEL, trie.sizes))
    params = jax.jit(functions.init)(jax.random.key(0))
    decoding, train = theirs(ids)
    result = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "trie": {"nodes": trie.nodes, "most_children": trie.widest},
    }
    for batch in (1, 32):
        result[f"batch {batch}"] = measured(ours(functions, params, trie, batch=batch) | decoding(batch), repetitions)
        result[f"lookup, batch {batch}"] = measured(lookups(trie, batch=batch), 4 * repetitions)
    runs = {"ours": training(functions, params, trie, ids), "transformers": train}
    result[f"training step, batch {TRAIN_BATCH}"] = measured(runs, repetitions)
    print(json.dumps({"benchmark": "decode", "device": jax.devices()[0].device_kind, "cpus": os.cpu_count(), "results": result}, indent=1))


if __name__ == "__main__":
    main()
