"""Warm latency of a search and requests a second of the server, as one JSON object.

    python benchmarks/search.py --workdir runs/mine [repetitions]

Queries are sentences of the documents, so that BM25 has something to find. Searcher and BM25 take turns in one process;
median and 95th percentile are in milliseconds for the whole batch, compilation and the first calls left out. The server
is `lmindexer_jax.serve` in a process of its own; its clients are threads with a connection each, on the same machine.
"""

import argparse
import concurrent.futures
import http.client
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable

import jax
import numpy as np

from lmindexer_jax.data.cache import keep_compiled
from lmindexer_jax.data.pseudo_queries import pseudo_queries
from lmindexer_jax.retrieval.lexical import Bm25
from lmindexer_jax.retrieval.searcher import Searcher

BATCHES, K, QUERIES, WARM_UP = (1, 8, 32), 10, 512, 3
CLIENTS, SECONDS = (1, 2, 8), 8.0


def some_queries(searcher: Searcher) -> list[str]:
    """Sentences of documents drawn at random."""
    rows = np.random.default_rng(0).permutation(len(searcher.corpus))
    found = (pseudo_queries(searcher.corpus.text(row), seed=1, count=1) for row in rows)
    return list(itertools.islice(itertools.chain.from_iterable(found), QUERIES))


def timed(runs: dict[str, Callable], repetitions: int) -> dict[str, dict[str, float]]:
    """Each run's median and 95th percentile, in turn; a run is given the number of the repetition."""
    spent = {name: [] for name in runs}
    for turn in range(WARM_UP + repetitions):
        for name, run in runs.items():
            started = time.perf_counter()
            run(turn)
            spent[name].append(1000 * (time.perf_counter() - started))
    rounded = {name: np.round(np.percentile(times[WARM_UP:], [50, 95]), 2).tolist() for name, times in spent.items()}
    return {name: {"median_ms": median, "p95_ms": late} for name, (median, late) in rounded.items()}


def latency(searcher: Searcher, bm25: Bm25, queries: list[str], *, batch: int, repetitions: int) -> dict:
    def part(turn: int) -> list[str]:
        return [queries[(turn * batch + i) % len(queries)] for i in range(batch)]

    runs = {
        "searcher": lambda turn: searcher.search(part(turn), k=K),
        "searcher, with trace": lambda turn: searcher.trace(part(turn), k=K),
        "bm25": lambda turn: bm25.search(part(turn), k=K),
    }
    return timed(runs, repetitions)


def served(workdir: str, queries: list[str]) -> dict:
    """Requests a second and their latency, by number of clients."""
    command = [sys.executable, "-m", "lmindexer_jax.serve", "--workdir", workdir, "--port", "0", "--console", "plain"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        port = next((int(found[1]) for line in process.stdout if (found := re.match(r"ready: http://\S+:(\d+) ", line))), None)
        if port is None:
            raise SystemExit("the server did not start")
        results = {}
        for clients in CLIENTS:
            end = time.perf_counter() + SECONDS
            with concurrent.futures.ThreadPoolExecutor(clients) as pool:
                spent = sum(pool.map(lambda first: _client(port, queries[first::clients], end), range(clients)), [])
            median, late = np.round(np.percentile(spent, [50, 95]), 2).tolist()
            results[f"{clients} clients"] = {"requests_per_second": round(len(spent) / SECONDS, 1), "median_ms": median, "p95_ms": late}
        process.send_signal(signal.SIGTERM)
    return results


def _client(port: int, queries: list[str], end: float) -> list[float]:
    connection, spent = http.client.HTTPConnection("127.0.0.1", port), []
    for query in itertools.cycle(queries):
        started = time.perf_counter()
        if started > end:
            break
        connection.request("GET", "/api/search?" + urllib.parse.urlencode({"q": query[:1000], "k": K}))
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"the server answered {answer.status}")
        spent.append(1000 * (time.perf_counter() - started))
    connection.close()
    return spent


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", help="of a finished run with a retriever; without one there is nothing to measure")
    parser.add_argument("repetitions", nargs="?", type=int, default=100)
    flags = parser.parse_args()
    if flags.workdir is None:
        print("benchmarks/search.py: give --workdir of a run with a retriever (lmindexer-finetune makes one)", file=sys.stderr)
        return
    searcher = Searcher.load(flags.workdir)
    keep_compiled(searcher.table.manifest.config["corpus"]["cache_dir"])
    queries = some_queries(searcher)
    bm25 = Bm25([text for batch in searcher.corpus.batches() for text in batch])
    result = {
        f"batch {batch}": latency(searcher, bm25, queries, batch=batch, repetitions=flags.repetitions) for batch in BATCHES
    }
    result["server"] = served(flags.workdir, queries)
    about = {"documents": len(searcher.table), "codes": searcher.table.manifest.codebook_sizes, "k": K}
    device = {"device": jax.devices()[0].device_kind, "cpus": len(os.sched_getaffinity(0))}
    print(json.dumps({"benchmark": "search", **device, **about, "results": result}, indent=1))


if __name__ == "__main__":
    main()
