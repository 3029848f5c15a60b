"""Time and peak memory of building the corpus and the token store: prints one JSON object.

    python benchmarks/token_store.py [--documents 1000000]
"""

import argparse
import json
import random
import resource
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from lmindexer_jax.data.corpus import open_corpus
from lmindexer_jax.data.documents import CorpusConfig
from lmindexer_jax.data.tokenizer import train_tokenizer
from lmindexer_jax.data.tokens import open_tokens

WORDS = 20_000
BATCH, LENGTH = 128, 128


def write_documents(path: Path, count: int) -> None:
    """Short texts (4 to 40 words of a Zipf-like vocabulary) with a category path, one JSON object a line."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(WORDS)]
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            text = " ".join(words[int(WORDS ** rng.random()) - 1] for _ in range(rng.randint(4, 40)))
            record = {"id": f"doc-{number}", "text": text, "path": [f"c{number % 30}", f"s{number % 700}"]}
            file.write(json.dumps(record) + "\n")


class Watch:
    """Seconds and the highest anonymous memory of a block; pages of mapped files, which the system may drop, stay out."""

    def __enter__(self):
        self.start, self.peak, self.running = time.perf_counter(), 0, True
        self.thread = threading.Thread(target=self._sample)
        self.thread.start()
        return self

    def _sample(self) -> None:
        while self.running:
            self.peak = max(self.peak, _anonymous_mb())
            time.sleep(0.02)

    def __exit__(self, *_) -> None:
        self.running = False
        self.thread.join()
        self.seconds = time.perf_counter() - self.start

    def row(self) -> dict[str, float]:
        """The measurements as JSON values."""
        return {"seconds": round(self.seconds, 2), "peak_memory_mb": round(self.peak)}


def _anonymous_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


def main() -> None:
    """Builds everything in a temporary folder and prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1_000_000)
    count = parser.parse_args().documents
    result: dict[str, object] = {"documents": count, "memory_before_mb": round(_anonymous_mb())}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "documents.jsonl"
        write_documents(source, count)
        result["source_mb"] = round(source.stat().st_size / 2**20)
        with Watch() as watch:
            corpus = open_corpus(CorpusConfig(path=str(source), cache_dir=folder))
        result["corpus"] = watch.row()
        sample = open_corpus(CorpusConfig(path=str(source), cache_dir=folder, max_documents=20_000))
        tokenizer = train_tokenizer(sample, vocab_size=8192)
        with Watch() as watch:
            store = open_tokens(corpus, tokenizer, max_length=LENGTH, cache_dir=Path(folder))
        result["tokens"] = watch.row() | {"documents_per_second": round(count / watch.seconds)}
        result["tokens_mb"] = round(sum(file.stat().st_size for file in Path(folder).glob("tokens/*/*")) / 2**20)
        rng = np.random.default_rng(0)
        draws = [rng.integers(0, count, BATCH) for _ in range(200)]
        with Watch() as watch:
            for indices in draws:
                store.batch(indices, length=LENGTH)
        result["batch_microseconds"] = round(watch.seconds / len(draws) * 1e6)
        with Watch() as watch:
            corpus.labels(corpus.depth())
        result["labels"] = watch.row()
    result["peak_resident_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(result))


if __name__ == "__main__":
    main()
