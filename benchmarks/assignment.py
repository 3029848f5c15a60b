"""Codes for new documents beside sentence-transformers' `encode` of the same MiniLM weights, as one JSON object.

    python benchmarks/assignment.py [--documents 1000] [--repeats 3]

The texts are docstrings (the embedded corpus `python_docs`), in their own mix of lengths. Ours is what
`python -m lmindexer_jax.index` does with them: tokenize, encode, decode, nearest row, for three positions of 256 codes; the
decoder and the codebooks are random, which costs the same. The rival tokenizes and encodes alone, cut to the same number
of tokens. Both sides take turns, in float32 and in bfloat16, and the better precision of each is compared. Ours compiles
once per padded length, in its first call; sentence-transformers pads each batch to its longest text.
"""

import argparse
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from lmindexer_jax.config import Config
from lmindexer_jax.console import Console, Mode
from lmindexer_jax.data.cache import cache_root
from lmindexer_jax.data.corpus import Corpus, open_corpus
from lmindexer_jax.data.documents import CorpusConfig
from lmindexer_jax.data.tokenizer import load_tokenizer
from lmindexer_jax.data.tokens import open_tokens
from lmindexer_jax.index import code
from lmindexer_jax.indexing.assigners import Assigners
from lmindexer_jax.indexing.centres import Centres
from lmindexer_jax.indexing.encode import make_encode
from lmindexer_jax.memory import keep_freed
from lmindexer_jax.models import presets
from lmindexer_jax.models.indexer import Indexer, IndexerFunctions
from lmindexer_jax.recipes import ours

PRECISIONS = ("float32", "bfloat16")
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


class Ours:
    """A run's snapshots in a folder, and the codes of a corpus by them."""

    def __init__(self, config: Config, preset: presets.Preset, folder: pathlib.Path) -> None:
        self.config, self.folder = config, folder
        self.tokenizer = load_tokenizer(preset.tokenizer_dir)
        self.functions = {p: IndexerFunctions(Indexer(config.indexer, preset.config, dtype=jnp.dtype(p))) for p in PRECISIONS}
        params = self.functions["float32"].init(jax.random.key(0)) | {"encoder": presets.load(preset)}
        self.assigners = Assigners(folder / "assigners")
        width = preset.config.hidden_size
        for position in range(len(config.indexer.codebook_sizes)):
            self.assigners.save(position, params, codes=np.zeros(1, np.int32))
            prefixes = np.zeros((1, position), np.int32)
            self.assigners.save_centres(position, Centres(prefixes, np.zeros((1, width), np.float32)))
        self.params = params

    def store(self, corpus: Corpus):
        """The corpus, tokenized anew at every call."""
        cache = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
        return open_tokens(corpus, self.tokenizer, max_length=self.config.language_model.max_length, cache_dir=cache)

    def codes(self, corpus: Corpus, precision: str) -> np.ndarray:
        """Text to codes (N, T)."""
        unlabelled, functions = self.tokenizer.special_ids, self.functions[precision]
        console = Console(Mode.QUIET)
        return code(functions, self.assigners, self.store(corpus), config=self.config, unlabelled=unlabelled, console=console)

    def embeddings(self, corpus: Corpus, rows: int) -> np.ndarray:
        """float32 document embeddings of the first texts, to show that both sides compute the same."""
        tokens, mask = self.store(corpus).batch(np.arange(rows), length=self.config.language_model.max_length)
        return np.asarray(make_encode(self.functions["float32"])(self.params, tokens, mask)[1])


def clocked(run: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(documents: int, repeats: int) -> dict:
    """Both sides in both precisions, in turns."""
    config = ours()
    preset = presets.resolve("minilm")
    corpus = open_corpus(CorpusConfig(name="python_docs", max_documents=documents, cache_dir=str(cache_root(""))))
    texts = corpus.texts(range(len(corpus)))
    rivals = {p: SentenceTransformer(str(preset.weights_dir), device="cpu").to(getattr(torch, p)) for p in PRECISIONS}
    for rival in rivals.values():
        rival.max_seq_length = config.language_model.max_length
    with tempfile.TemporaryDirectory() as folder:
        mine = Ours(config, preset, pathlib.Path(folder))
        lengths = mine.store(corpus).lengths
        runs = {("ours", p): lambda p=p: mine.codes(corpus, p) for p in PRECISIONS}
        for p, rival in rivals.items():
            runs["sentence_transformers", p] = lambda rival=rival: rival.encode(texts, show_progress_bar=False)
        first = {f"{side} {p}": round(clocked(run)[0], 2) for (side, p), run in runs.items()}
        taken = {name: [] for name in runs}
        for _ in range(repeats):
            for name, run in runs.items():
                taken[name].append(clocked(run))
                time.sleep(0.2)  # the threads of one library stop spinning before the other begins
        rows = min(64, len(corpus))
        theirs = rivals["float32"].encode(texts[:rows], show_progress_bar=False, normalize_embeddings=True)
        apart = 1.0 - np.sum(mine.embeddings(corpus, rows) * theirs, axis=1)
    spread = {"median": float(np.median(lengths)), "mean": round(float(lengths.mean()), 1), "most": int(lengths.max())}
    result = {"documents": len(corpus), "tokens": spread}
    result |= {"first_call_seconds": first, "largest_cosine_distance": float(f"{apart.max():.1e}")}
    result |= {"ours": {}, "sentence_transformers": {}}
    for (side, precision), seconds in taken.items():
        wall, cpu = np.median(seconds, axis=0)
        rate = round(len(corpus) / wall, 1)
        result[side][precision] = {"documents_per_second": rate, "seconds": round(wall, 2), "cpu_seconds": round(cpu, 2)}
    for name, key in (("times_as_fast", "seconds"), ("times_as_fast_by_cpu_seconds", "cpu_seconds")):
        best = {side: min(result[side][p][key] for p in PRECISIONS) for side in ("ours", "sentence_transformers")}
        result[name] = round(best["sentence_transformers"] / best["ours"], 2)
    return result


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    flags = parser.parse_args()
    keep_freed()  # as the command does; it helps both sides
    torch.set_num_threads(CORES)
    versions = {"jax": jax.__version__, "torch": torch.__version__}
    head = {"benchmark": "assignment", "device": jax.devices()[0].device_kind, "cpus": CORES, "versions": versions}
    print(json.dumps(head | measure(flags.documents, flags.repeats), indent=1))


if __name__ == "__main__":
    main()
