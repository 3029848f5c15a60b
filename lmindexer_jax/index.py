"""IDs for new documents by a finished run, without training:

    python -m lmindexer_jax.index --workdir runs/mine new.jsonl -o new_ids.jsonl
"""

import argparse
import contextlib
import dataclasses
import functools
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.compute as pc
from jaxtyping import Float, Int

from lmindexer_jax.config import Config
from lmindexer_jax.console import Console, Mode, run_main
from lmindexer_jax.data.cache import cache_root, keep_compiled, locked
from lmindexer_jax.data.corpus import Corpus, open_corpus
from lmindexer_jax.data.documents import CorpusConfig
from lmindexer_jax.data.prepared import is_own
from lmindexer_jax.data.tokenizer import Tokenizer
from lmindexer_jax.data.tokens import TokenStore, open_tokens
from lmindexer_jax.errors import UserError
from lmindexer_jax.files import load_array, save_array
from lmindexer_jax.finished import open_finished
from lmindexer_jax.indexing import id_lines, id_table, two_stage
from lmindexer_jax.indexing.assign import corpus_codes
from lmindexer_jax.indexing.assigners import Assigners
from lmindexer_jax.indexing.encode import encode_corpus
from lmindexer_jax.indexing.inputs import Inputs
from lmindexer_jax.indexing.two_stage import IndexerKind
from lmindexer_jax.indexing.vectors import VectorSource, from_file, from_language_model
from lmindexer_jax.memory import keep_freed
from lmindexer_jax.models import presets
from lmindexer_jax.models.indexer import Indexer, IndexerFunctions
from lmindexer_jax.retrieval import kept
from lmindexer_jax.training.checkpoint import load_tree
from lmindexer_jax.prepare import dropped_text, held, language_model_config, open_tokenizer, read_run
from lmindexer_jax.typed import from_dict

CHUNK = 8192  # documents whose encoder states are held at a time, and that a kill costs at most


def index(
    workdir: pathlib.Path, corpus_config: CorpusConfig, *, console: Console, vectors: str = ""
) -> tuple[Corpus, id_table.IdTable]:
    """Code every document of a corpus by a run's snapshots.

    Documents that the run's table has already keep the IDs they have there. The others get codes by their text alone
    (the same alone as in any company) and the next free counter where all codes are taken.

    Args:
      workdir: of a finished run.
      corpus_config: the new documents.
      console: shows progress.
      vectors: of the new documents (.npy or .parquet), where the run was made of the user's own vectors.

    Returns:
      the new documents, and the run's table with them appended.

    Raises:
      UserError: the run is not finished, its parts do not belong together, or the documents are unreadable.
    """
    run = read_run(workdir)
    if run is None:
        raise UserError(f"{workdir}: no run here; make one with `python -m lmindexer_jax.main --config ... --workdir {workdir}`")
    config = from_dict(Config, run["config"])
    learned = config.indexer_kind == IndexerKind.LEARNED
    check_kind(config, vectors)
    if learned:
        model = Assigners(workdir / "assigners").model_hash(len(config.indexer.codebook_sizes))
    else:
        model = two_stage.model_hash(workdir)
    table = id_table.load(workdir / "ids", model_hash=model)
    corpus = open_corpus(corpus_config)
    console.note(f"{len(corpus):,} documents" + dropped_text(corpus))
    functions, tokenizer, store = open_documents(workdir, corpus, cache_dir=corpus_config.cache_dir)
    names = corpus.ids().to_pylist()
    if learned:
        home = cache_root(corpus_config.cache_dir) / "coded" / f"{model[:16]}-{store.hash[:16]}-{run['precision']}"
        coder = functools.partial(code, functions, Assigners(workdir / "assigners"), config=config, unlabelled=tokenizer.special_ids)
        codes = in_parts(coder, store, home, console=console)
    else:
        codes = two_stage.code(
            config.indexer_kind,
            workdir / "assigners",
            new_vectors(config, workdir, vectors, functions, store, names, unlabelled=tokenizer.special_ids, console=console),
            ids=names,
            sizes=table.manifest.codebook_sizes,
            config=config.two_stage,
            seed=config.seed,
        )
    known = set(table.ids.to_pylist())
    new = np.array([name not in known for name in names], bool)
    if (~new).any():
        console.note(f"{int((~new).sum()):,} documents are in the table already and keep their IDs")
    return corpus, table.append([name for name, is_new in zip(names, new) if is_new], codes[new])


def open_documents(workdir: pathlib.Path, corpus: Corpus, *, cache_dir: str) -> tuple[IndexerFunctions, Tokenizer, TokenStore]:
    """A run's model, its tokenizer and the tokens of documents by it."""
    run = read_run(workdir)
    config = from_dict(Config, run["config"])
    preset = presets.resolve(config.language_model.name, pretrained=config.language_model.pretrained)
    tokenizer = open_tokenizer(config, preset, None, workdir)
    store = open_tokens(corpus, tokenizer, max_length=config.language_model.max_length, cache_dir=cache_root(cache_dir))
    language_model, precision = language_model_config(preset, tokenizer), jnp.dtype(run["precision"])
    model = Indexer(config.indexer, language_model, dtype=precision, stack=config.language_model.stack)
    return IndexerFunctions(model), tokenizer, store


def check_kind(config: Config, vectors: str) -> None:
    """Refuse a kind of run that has no codes for new documents, and vectors that are missing or not wanted."""
    kind, source = config.indexer_kind, config.two_stage.vectors.source
    if kind == IndexerKind.ATOMIC:
        raise UserError("atomic IDs number the documents of their corpus: new ones have none; learn again with them in it")
    wanted = kind != IndexerKind.LEARNED and kind.has_vectors and source == VectorSource.FILE
    if wanted and not vectors:
        raise UserError("this run was made of your own vectors: give those of the new documents by --vectors FILE")
    if vectors and not wanted:
        raise UserError("--vectors: this run makes its vectors itself; leave the flag out")


def new_vectors(
    config: Config,
    workdir: pathlib.Path,
    path: str,
    functions: IndexerFunctions,
    store: TokenStore,
    ids: list[str],
    *,
    unlabelled: tuple[int, ...],
    console: Console,
) -> Float[np.ndarray, "N D"] | None:
    """Vectors of the documents of a store as a two-stage run makes them; None where its kind needs none."""
    if not config.indexer_kind.has_vectors:
        return None
    settings = dataclasses.replace(config.two_stage.vectors, path=path)
    if settings.source == VectorSource.FILE:
        return from_file(settings, ids)
    params = load_tree(workdir / "assigners" / two_stage.ENCODER)
    return from_language_model(
        settings.source, functions, params, store, unlabelled=unlabelled, cache=None, console=console
    )


def in_parts(
    code: Callable[..., Int[np.ndarray, "M T"]], store: TokenStore, home: pathlib.Path, *, console: Console
) -> Int[np.ndarray, "N T"]:
    """The codes of a store of any size, part by part; those that a killed call leaves in `home` are not made again, and of
    two calls at once the second waits."""
    bounds = [(first, min(first + CHUNK, len(store))) for first in range(0, len(store), CHUNK)]
    parts = {home / f"{first}-{last}.npy": store.part(first, last) for first, last in bounds}
    codes = {}
    with locked(home):
        home.mkdir(exist_ok=True)
        for path in filter(pathlib.Path.exists, parts):
            with contextlib.suppress(ValueError):  # damaged: it is made anew
                codes[path] = load_array(path)
        done = sum(map(len, codes.values()))
        with console.progress("codes", total=len(store), unit="documents", start=done) as progress:
            for path, part in parts.items():
                if path not in codes:
                    codes[path] = code(part, console=Console(Mode.QUIET) if len(parts) > 1 else console)
                    save_array(path, codes[path])
                    progress.advance(len(part))
        shutil.rmtree(home)
    return np.concatenate([codes[path] for path in parts])


def code(
    functions: IndexerFunctions,
    assigners: Assigners,
    store: TokenStore,
    *,
    config: Config,
    unlabelled: tuple[int, ...],
    console: Console,
) -> Int[np.ndarray, "N T"]:
    """Codes of the documents of one store, position by position, each by the snapshot that assigned it."""
    positions = len(config.indexer.codebook_sizes)
    inputs = Inputs(store, unlabelled, np.zeros((len(store), positions), np.int32))
    with tempfile.TemporaryDirectory() as scratch:
        for position in range(positions):
            params = jax.device_put(assigners.load(position))
            if config.indexer.pooled_weight > 0:
                inputs.centres = [assigners.load_centres(p) for p in range(position + 1)]
            if assigners.same_language_model(positions) and inputs.encoded is None:
                encoded = encode_corpus(functions, params, store, directory=pathlib.Path(scratch), console=console)
                inputs.encoded = encoded.states
            found = corpus_codes(
                functions,
                params,
                inputs,
                position=position,
                similarity=config.recipe.of(position).quantiser.similarity,
                console=console,
                label=f"position {position + 1}",
            )
            inputs.codes[:, position] = found[:, -1]
    return inputs.codes


def keep(workdir: pathlib.Path, corpus: Corpus, table: id_table.IdTable, *, console: Console) -> None:
    """Put new documents into a workdir: their vectors, where its retriever compares them, and the longer table, which
    makes them count."""
    run = open_finished(workdir)
    first = len(run.table)
    if kept.has_vectors(workdir) and len(table) > first:
        functions, _, store = open_documents(workdir, corpus, cache_dir=run.config.corpus.cache_dir)
        vectors = from_language_model(VectorSource.POOLED, functions, run.learned(), store, unlabelled=(), cache=None, console=console)
        rows = pc.index_in(table.ids[first:], value_set=corpus.ids().combine_chunks()).to_numpy()
        kept.extend(workdir, vectors[rows], first=first)
    table.save(workdir / "ids")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Flags; a wrong one ends the program with exit code 2."""
    parser = argparse.ArgumentParser(prog="lmindexer-index", description=__doc__.splitlines()[0])
    parser.add_argument("documents", help="JSONL, CSV or Parquet file, a folder of text files, or the name of an embedded data set")
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="of a finished run")
    parser.add_argument("-o", "--output", required=True, type=pathlib.Path, help="JSONL file to write")
    parser.add_argument("--add", action="store_true", help="keep the new documents in the run's ID table as well")
    parser.add_argument("--id-field", help="field with the id; '' numbers the records; default: as the run was trained")
    parser.add_argument("--template", help="text from fields, as '{title} {brand}'; default: as the run was trained")
    parser.add_argument("--vectors", default="", help="of the new documents, where the run was made of your own (.npy or .parquet)")
    parser.add_argument("--cache-dir", default="", help="where prepared documents are kept")
    parser.add_argument("--console", type=Mode, choices=list(Mode), default=Mode.AUTO)
    return parser.parse_args(arguments)


def main() -> None:
    """Parse, index, write."""
    flags = parse(sys.argv[1:])
    console = Console(flags.console)
    if not flags.output.absolute().parent.is_dir():
        raise UserError(f"{flags.output}: no such folder to write to; make it, or give another file by -o")
    keep_freed()
    keep_compiled(flags.cache_dir)
    run = read_run(flags.workdir)
    trained = from_dict(Config, run["config"]).corpus if run else CorpusConfig()
    # Numbers that the run has given to its own documents would be given again.
    id_field = flags.id_field if flags.id_field is not None else trained.id_field or CorpusConfig.id_field
    named = is_own(flags.documents) and not pathlib.Path(flags.documents).exists()
    source = {"name": flags.documents} if named else {"path": flags.documents}
    fields = {"id_field": id_field, "path_field": trained.path_field, "template": flags.template or trained.template}
    corpus_config = CorpusConfig(**source, **fields, cache_dir=flags.cache_dir)
    # Of two calls that add, the second goes on from the table that the first has left.
    with held(flags.workdir, console=console) if flags.add and run else contextlib.nullcontext():
        corpus, table = index(flags.workdir, corpus_config, console=console, vectors=flags.vectors)
        id_lines.write(flags.output, table, corpus.ids().to_pylist())
        if flags.add:
            keep(flags.workdir, corpus, table, console=console)
    console.success(f"{len(corpus):,} IDs in {flags.output}")


def run() -> None:
    """Entry point of the command `lmindexer-index`."""
    run_main(main)


if __name__ == "__main__":
    run()
