"""k-means beside scikit-learn (and faiss where it is installed): seconds and inertia, as one JSON object.

    python benchmarks/kmeans.py [--large]

Each side runs once from its own k-means++ start, with its own rule for when to stop; a ratio above 1 of seconds means that
ours is faster, and of inertia below 1 that ours is tighter. Our compilation is stated apart. `--large` adds 51,200 centres
from a memory map by mini-batches, where the peak of memory is the point.
"""

import concurrent.futures
import importlib.util
import json
import multiprocessing
import os
import pathlib
import resource
import sys
import tempfile
import time
from collections.abc import Callable

import jax
import numpy as np
from sklearn.cluster import KMeans as SklearnKMeans

from lmindexer_jax.indexing.kmeans import kmeans
from lmindexer_jax.models.quantiser import Similarity

SIZES = {"beauty": (12_101, 384, 256), "100k": (100_000, 128, 1024)}
LARGE = (150_000, 64, 51_200)
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def sentence_like(rows: int, width: int) -> np.ndarray:
    """Unit vectors with loose clusters in a subspace, about as hard to cluster as sentence embeddings."""
    rng = np.random.default_rng(0)
    inner = rng.normal(size=(200, 48))[rng.integers(0, 200, rows)] + rng.normal(size=(rows, 48))
    vectors = inner @ rng.normal(size=(48, width)) / 7.0 + 0.3 * rng.normal(size=(rows, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def ours(vectors: np.ndarray, k: int, *, seed: int, batch: int = 0) -> float:
    return kmeans(vectors, k, key=jax.random.key(seed), similarity=Similarity.L2, batch=batch).inertia


def scikit_learn(vectors: np.ndarray, k: int) -> float:
    return float(SklearnKMeans(k, n_init=1, max_iter=100, random_state=0).fit(vectors).inertia_)


def faiss_cpu(vectors: np.ndarray, k: int) -> float:
    import faiss

    clustering = faiss.Kmeans(vectors.shape[1], k, niter=25, seed=0, max_points_per_centroid=len(vectors))
    clustering.train(vectors)
    distances, _ = clustering.index.search(vectors, 1)
    return float(distances.sum())


def timed(run: Callable[..., float], *args, **kwargs) -> dict[str, float]:
    started = time.perf_counter()
    inertia = run(*args, **kwargs)
    return {"seconds": round(time.perf_counter() - started, 2), "inertia": round(inertia, 2)}


def compare(rows: int, width: int, k: int) -> dict:
    vectors = sentence_like(rows, width)
    cold = timed(ours, vectors, k, seed=1)
    warm = timed(ours, vectors, k, seed=0)
    result = {"rows": rows, "width": width, "k": k, "ours": warm | {"first_call_seconds": cold["seconds"]}}
    result["ours_batches"] = timed(ours, vectors, k, seed=0, batch=8192)
    rivals = {"scikit_learn": scikit_learn} | ({"faiss": faiss_cpu} if importlib.util.find_spec("faiss") else {})
    for name, rival in rivals.items():
        theirs = timed(rival, vectors, k)
        result[name] = theirs | {
            "times_as_slow_as_ours": round(theirs["seconds"] / warm["seconds"], 2),
            "our_inertia_over_theirs": round(warm["inertia"] / theirs["inertia"], 4),
        }
    return result


def large() -> dict:
    rows, width, k = LARGE
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "vectors.npy"
        np.save(path, sentence_like(rows, width))
        # a process of its own, so that the peak of memory is the clustering's
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return {"rows": rows, "width": width, "k": k} | pool.submit(cluster_file, path, k).result()


def cluster_file(path: pathlib.Path, k: int) -> dict:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    found = kmeans(np.load(path, mmap_mode="r"), k, key=jax.random.key(0), iterations=2, batch=16_384)
    seconds = time.perf_counter() - started
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {
        "passes": found.iterations,
        "seconds": round(seconds, 1),
        "used": round(len(np.unique(found.codes)) / k, 4),
        "peak_memory_added_mb": round(more),
        "all_scores_mb": round(len(found.codes) * k * 4 / 2**20),
    }


def main() -> None:
    result = {name: compare(*size) for name, size in SIZES.items()}
    if "--large" in sys.argv[1:]:
        result["51200 centres"] = large()
    print(json.dumps({"benchmark": "kmeans", "device": jax.devices()[0].device_kind, "cpus": CORES, "results": result}, indent=1))


if __name__ == "__main__":
    main()
