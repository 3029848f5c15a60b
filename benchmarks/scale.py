"""Wall time and peak memory of every part of indexing that grows with the number of documents, each in a process of its own.

    python benchmarks/scale.py                                                    # 20,000 documents, K = 1,024: two minutes
    python benchmarks/scale.py --documents 1000000 --codes 51200 --folder runs/scale

Documents are made up (4 to 40 words), and the language model is tiny and random, so that what is measured is the rest: reading,
tokenizing, k-means, nearest rows among K, the ID table, the trie, prefix groups. A part that is done is not done again, so a
long measurement can be made in several sittings: `--until tokens` stops there. docs/scaling.md says what follows for more documents.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from token_store import Watch, write_documents

from lmindexer_jax.console import Console, Mode
from lmindexer_jax.data.corpus import Corpus, open_corpus
from lmindexer_jax.data.documents import CorpusConfig
from lmindexer_jax.data.groups import draw_neighbours, group_by_prefix
from lmindexer_jax.data.tokenizer import load_tokenizer, train_tokenizer
from lmindexer_jax.data.tokens import TokenStore, open_tokens
from lmindexer_jax.indexing import id_table
from lmindexer_jax.indexing.assign import corpus_codes, corpus_vectors
from lmindexer_jax.indexing.inputs import Inputs
from lmindexer_jax.indexing.kmeans import kmeans
from lmindexer_jax.models import presets
from lmindexer_jax.models.indexer import Indexer, IndexerConfig, IndexerFunctions
from lmindexer_jax.models.quantiser import Similarity
from lmindexer_jax.recipes import published
from lmindexer_jax.retrieval.build import of_table

POSITIONS = 3
LENGTH = 64
VOCABULARY, SAMPLE = 8192, 20_000
KMEANS_PASSES, KMEANS_BATCH = 2, 16_384
DRAWS = 200  # batches of neighbours that are timed
QUIET = Console(Mode.QUIET)


class Place:
    """The folder of a measurement: what parts leave for later ones, and their results."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.results_file = folder / "results.json"
        self.results: dict[str, dict] = json.loads(self.results_file.read_text()) if self.results_file.exists() else {}
        settings = self.results.get("settings", {})
        self.documents, self.codes = settings.get("documents", 0), settings.get("codes", 0)

    def keep(self, name: str, result: dict) -> None:
        """Add a part's result."""
        self.results[name] = result
        temporary = self.results_file.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.results, indent=1))
        os.replace(temporary, self.results_file)

    def corpus(self) -> Corpus:
        """The documents."""
        return open_corpus(CorpusConfig(path=str(self.folder / "documents.jsonl"), cache_dir=str(self.folder)))

    def tokens(self) -> TokenStore:
        """Their tokens."""
        tokenizer = load_tokenizer(self.folder / "tokenizer")
        return open_tokens(self.corpus(), tokenizer, max_length=LENGTH, cache_dir=self.folder)

    def indexer(self) -> tuple[IndexerFunctions, dict]:
        """The tiny model with random weights, after k-means with its first codebook."""
        reconstructor = published().indexer.reconstructor  # tied to the embedding: no head of its own
        config = IndexerConfig(codebook_sizes=(self.codes,) * POSITIONS, pooled_weight=0.0, reconstructor=reconstructor)
        model = dataclasses.replace(presets.PRESETS["tiny"], vocab_size=VOCABULARY)
        functions = IndexerFunctions(Indexer(config, model))
        params = functions.init(jax.random.key(0))
        if (self.folder / "centres.npy").exists():
            centres = jnp.asarray(np.load(self.folder / "centres.npy"))
            params |= {f"codebook_{position}": centres for position in range(POSITIONS)}
        return functions, params

    def inputs(self) -> Inputs:
        """Tokens and the codes so far."""
        path = self.folder / "codes.npy"
        codes = np.load(path) if path.exists() else np.zeros((self.documents, POSITIONS), np.int32)
        return Inputs(self.tokens(), (0, 1), codes)


def documents(place: Place) -> dict:
    """Make the source."""
    write_documents(place.folder / "documents.jsonl", place.documents)
    return {"disk_mb": size_mb(place.folder / "documents.jsonl")}


def corpus(place: Place) -> dict:
    """Read and validate it."""
    place.corpus()
    return {"disk_mb": size_mb(place.folder / "corpora")}


def tokenizer(place: Place) -> dict:
    """Train one on the first documents."""
    path = str(place.folder / "documents.jsonl")
    first = open_corpus(CorpusConfig(path=path, cache_dir=str(place.folder / "sample"), max_documents=SAMPLE))
    train_tokenizer(first, vocab_size=VOCABULARY).save(place.folder / "tokenizer")
    return {"sample": len(first)}


def tokens(place: Place) -> dict:
    """Tokenize it."""
    store = place.tokens()
    return {"disk_mb": size_mb(place.folder / "tokens"), "tokens": int(store.lengths.sum())}


def vectors(place: Place) -> dict:
    """A vector of every document by the tiny model."""
    found = corpus_vectors(*place.indexer(), place.inputs(), position=0, console=QUIET)
    np.save(place.folder / "vectors.npy", found)
    return {"width": found.shape[1]}


def clustering(place: Place) -> dict:
    """Mini-batch k-means over the vectors, which stay on the disk."""
    rows = np.load(place.folder / "vectors.npy", mmap_mode="r")
    settings = {"similarity": Similarity.L2, "batch": KMEANS_BATCH, "iterations": KMEANS_PASSES}
    found = kmeans(rows, place.codes, key=jax.random.key(0), **settings)
    np.save(place.folder / "centres.npy", found.centres)
    return {"passes": found.iterations, "used": len(np.unique(found.codes)) / place.codes}


def assignment(place: Place) -> dict:
    """Three codes for every document; each position encodes the documents again, as a run with a moving encoder does."""
    functions, params = place.indexer()
    inputs = place.inputs()
    for position in range(POSITIONS):
        found = corpus_codes(functions, params, inputs, position=position, similarity=Similarity.L2, console=QUIET)
        inputs.codes[:, position] = found[:, position]
    np.save(place.folder / "codes.npy", inputs.codes)
    return {"passes": POSITIONS, "distinct": len(np.unique(inputs.codes, axis=0))}


def table(place: Place) -> dict:
    """Build the ID table and save it."""
    manifest = id_table.Manifest({}, place.corpus().hash, "made", (place.codes,) * POSITIONS)
    built = id_table.build(place.corpus().ids().combine_chunks(), np.load(place.folder / "codes.npy"), manifest)
    built.save(place.folder / "ids")
    return {"disk_mb": size_mb(place.folder / "ids")}


def trie(place: Place) -> dict:
    """Build the trie on the disk."""
    built = of_table(id_table.load(place.folder / "ids"), folder=place.folder / "trie")
    return {"disk_mb": size_mb(place.folder / "trie"), "widest": built.widest}


def groups(place: Place) -> dict:
    """Group documents by prefixes of one and two codes, and draw negatives."""
    codes = np.load(place.folder / "codes.npy")
    found = [group_by_prefix(codes[:, :length]) for length in (1, 2)]
    rng = np.random.default_rng(0)
    with Watch() as watch:
        for _ in range(DRAWS):
            draw_neighbours(found[0], rng.integers(0, len(codes), 128), count=4, rng=rng)
    return {"groups": [len(each.prefixes) for each in found], "draw_microseconds": round(watch.seconds / DRAWS * 1e6)}


PARTS: tuple[Callable[[Place], dict], ...] = (
    documents, corpus, tokenizer, tokens, vectors, clustering, assignment, table, trie, groups,
)  # fmt: skip


def size_mb(path: Path) -> float:
    """Megabytes on the disk."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return round(sum(file.stat().st_size for file in files) / 2**20, 1)


def measure(place: Place, part: Callable[[Place], dict]) -> None:
    """Run one part in this process and keep what it took."""
    with Watch() as watch:
        facts = part(place)
    per_document = round(watch.seconds / place.documents * 1e6, 1)
    place.keep(part.__name__, watch.row() | {"microseconds_per_document": per_document} | facts)


def run(folder: Path, flags: argparse.Namespace) -> dict:
    """Every part that is not done yet, each in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    place = Place(folder)
    settings = {"documents": flags.documents, "codes": flags.codes}
    if place.results.get("settings", settings) != settings:
        sys.exit(f"{folder} holds a measurement with {place.results['settings']}; give another --folder")
    place.keep("settings", settings)
    for part in PARTS:
        name = part.__name__
        if name not in place.results:
            command = [sys.executable, __file__, "--folder", str(folder), "--part", name]
            if subprocess.run(command).returncode:
                sys.exit(f"{name} failed; the parts before it are kept in {folder}")
            place = Place(folder)
            print(name, json.dumps(place.results[name]), file=sys.stderr, flush=True)
        if name == flags.until:
            break
    return place.results


def main() -> None:
    """Measure, and print one JSON object."""
    names = [part.__name__ for part in PARTS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--codes", type=int, default=1_024, help="K of each of the three positions")
    parser.add_argument("--folder", type=Path, help="where parts are kept; default: a temporary one")
    parser.add_argument("--until", choices=names, default="", help="stop after this part")
    parser.add_argument("--part", choices=names, default="", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.part:
        measure(Place(flags.folder), PARTS[names.index(flags.part)])
        return
    with tempfile.TemporaryDirectory() as temporary:
        results = run(flags.folder or Path(temporary), flags)
    print(json.dumps({"benchmark": "scale", "device": jax.devices()[0].device_kind, "cpus": os.cpu_count(), **results}))


if __name__ == "__main__":
    main()
