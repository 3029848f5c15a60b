"""A retriever for a finished run: from a query to the IDs of its documents.

    python -m lmindexer_jax.finetune --workdir runs/mine
    python -m lmindexer_jax.finetune --workdir runs/mine --queries my_task

Started on several hosts (docs/multi_host.md), it is one run on the devices of all.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lmindexer_jax.console import Console, Mode, run_main
from lmindexer_jax.data import alignment, trec
from lmindexer_jax.data.cache import cache_root, keep_compiled
from lmindexer_jax.data.corpus import Corpus
from lmindexer_jax.data.documents import OnBad
from lmindexer_jax.data.relevance import RelevanceConfig, open_task
from lmindexer_jax.data.tokens import open_tokens
from lmindexer_jax.errors import UserError
from lmindexer_jax.evaluation import ranking
from lmindexer_jax.files import replacing
from lmindexer_jax.finished import open_finished
from lmindexer_jax.indexing.assigners import content_hash
from lmindexer_jax.indexing.encode import encode_corpus
from lmindexer_jax.indexing.vectors import VectorSource, from_language_model
from lmindexer_jax.memory import keep_freed
from lmindexer_jax.models import presets
from lmindexer_jax.models.indexer import Indexer, IndexerFunctions
from lmindexer_jax.models.retriever import Retriever, RetrieverConfig, RetrieverFunctions, adopt
from lmindexer_jax.prepare import encoded_home, held, language_model_config, open_tokenizer, read_run
from lmindexer_jax.retrieval import kept, query_pairs, temper
from lmindexer_jax.retrieval.build import of_table
from lmindexer_jax.retrieval.finetune import Examples, FinetuneConfig, fingerprint, finetune
from lmindexer_jax.retrieval.lexical import Bm25
from lmindexer_jax.retrieval.searcher import Searcher
from lmindexer_jax.retrieval.settle import settle
from lmindexer_jax.retrieval.query_pairs import Held
from lmindexer_jax.retrieval.trie import END
from lmindexer_jax.training import hosts
from lmindexer_jax.training.fit import refuse_others
from lmindexer_jax.training.hosts import HostsConfig
from lmindexer_jax.training.optim import OptimConfig
from lmindexer_jax.training.sharding import MeshConfig, make_mesh
from lmindexer_jax.typed import from_dict

SUMMARY = pathlib.Path(kept.HOME) / "summary.json"
SPARE = 8  # documents of the same codes that a retriever has room for at least, so that the table may grow


def execute(
    workdir: pathlib.Path,
    *,
    queries: RelevanceConfig | None = None,
    splits: Sequence[str] = (),
    config: FinetuneConfig | None = None,
    mesh: MeshConfig | None = None,
    seed: int = 0,
    runs: pathlib.Path | None = None,
    profile: int = 0,
    console: Console,
) -> dict:
    """Train, keep and measure; the same call goes on where a killed one stood.

    Args:
      workdir: of a finished run.
      queries: a set of queries and judgements; by default they are made from the documents.
      splits: of that set, to measure on; by default test, or else validation, or else dev.
      config: how to train.
      mesh: of the devices; splits the batch alone by default.
      seed: of pseudo-queries, their order and what parameters start from.
      runs: a folder, made where it is missing, for what was found for the held-out queries.
      profile: training steps whose trace is kept in `retriever/profile`.
      console: shows progress.

    Returns:
      what `summary.json` holds: `held_out`, for each kind of held-out queries and each retriever the means of Recall, MRR
      and NDCG, and how many queries, documents and pairs there were.

    Raises:
      UserError: no finished run, its corpus has changed, unfit queries, or ids that no run file can hold.
    """
    config = config or FinetuneConfig()
    if config.epochs <= 0 or config.batch_size < 1 or config.optim.learning_rate <= 0 or config.language_model < 0:
        raise UserError("finetune: give epochs and rates above 0 and a batch size of at least 1")
    if runs:
        runs.mkdir(parents=True, exist_ok=True)
    run = open_finished(workdir)
    table = run.table
    if queries:
        queries = dataclasses.replace(queries, cache_dir=queries.cache_dir or run.config.corpus.cache_dir)
    keep_compiled(run.config.corpus.cache_dir)
    preset = presets.resolve(run.config.language_model.name, pretrained=run.config.language_model.pretrained)
    cache = cache_root(run.config.corpus.cache_dir)
    with hosts.first_goes_ahead():
        corpus = run.corpus()
        pairs, aside, held = open_pairs(queries, splits, corpus, count=config.pseudo_queries, seed=seed, console=console)
        if runs:
            trec.check_names([*table.ids.to_pylist(), *(name for each in held for name in each.ids)])
        tokenizer = open_tokenizer(run.config, preset, corpus, workdir)
        texts = open_tokens(pairs, tokenizer, max_length=config.max_length, cache_dir=cache)
        documents = open_tokens(corpus, tokenizer, max_length=run.config.language_model.max_length, cache_dir=cache)
    trie = of_table(table, counters=max(SPARE, 2 * (1 + int(table.counter.max(initial=0)))))
    described = read_run(workdir)
    precision = jnp.dtype(described["precision"]) if described else jnp.float32
    language_model = language_model_config(preset, tokenizer)
    stack = run.config.language_model.stack
    shape = RetrieverConfig(decoder_layers=run.config.indexer.decoder_layers, gist=True)
    functions = RetrieverFunctions(Retriever(shape, language_model, trie.sizes, precision, stack))
    whole = run.learned()
    params = adopt(jax.jit(functions.init)(jax.random.key(seed)), run.adoptable(whole))
    ids = np.column_stack([table.codes, np.where(table.counter == 0, END, table.counter)]).astype(np.int32)
    examples, identity = Examples(texts, pairs.rows, ids), f"{table.digest} {content_hash(whole)}"
    refuse_others(workdir / kept.HOME, fingerprint(examples, config=config, seed=seed, identity=identity))
    console.note(f"{len(pairs):,} pairs of a text and a document that it should find")
    indexer = IndexerFunctions(Indexer(run.config.indexer, language_model, dtype=precision, stack=stack))
    states = encoded_home(cache, workdir) if run.config.language_model.cache_states else None
    encoded = encode_corpus(indexer, whole, texts, directory=states, console=console) if config.frozen and states else None
    pooled = functools.partial(from_language_model, VectorSource.POOLED, indexer, whole, unlabelled=(), console=console)
    vectors = pooled(documents, cache=states)  # where the run has kept the states, at no cost
    # Codes start at the means of their documents' texts.
    params = settle(params, encoded.pooled if encoded else pooled(texts, cache=None), ids[pairs.rows])
    params = finetune(
        functions,
        params,
        trie,
        dataclasses.replace(examples, encoded=encoded, vectors=vectors),
        config=config,
        directory=workdir / kept.HOME,
        mesh=make_mesh(mesh or MeshConfig()),
        seed=seed,
        console=console,
        checkpoint_seconds=run.config.checkpoint_seconds,
        profile=profile,
        identity=identity,
    )
    kept.save(workdir, functions, params, tokenizer, table=table, query_length=config.max_length, vectors=vectors)
    searcher = Searcher.load(workdir)  # which several processes do together
    if hosts.first():
        with hosts.alone():
            if len(aside):
                temperature = temper.fit(*shown_to(searcher, aside))
                console.note(f"{len(aside):,} training pairs, kept back, set the temperature of likeness to {temperature:.3g}")
                kept.balance(workdir, temperature)
                searcher.balance(temperature)
            measured = measure(searcher, corpus, held, runs=runs)
        asked = {each.source: len(each.texts) for each in held}
        found = {"documents": len(corpus), "pairs": len(pairs), "queries": asked, "held_out": measured}
        with replacing(workdir / SUMMARY) as path:
            path.write_text(json.dumps(found, indent=1))
    hosts.barrier()
    summary = json.loads((workdir / SUMMARY).read_text())
    for source, means in summary["held_out"].items():
        rows = [(name, *(values[metric] for metric in ranking.USUAL)) for name, values in means.items()]
        title = f"{summary['queries'][source]:,} {source}, {summary['documents']:,} documents"
        console.table(title, ("retriever", *ranking.USUAL), rows)
    return summary


def open_pairs(
    queries: RelevanceConfig | None, splits: Sequence[str], corpus: Corpus, *, count: int, seed: int, console: Console
) -> tuple[query_pairs.Pairs, query_pairs.Pairs, list[Held]]:
    """What a retriever learns from, what balances it, and what it is measured by: from a set of queries, whose faults are said
    aloud, or from the documents alone."""
    if queries is None:
        if splits:
            raise UserError("--split names a part of a set of queries: give the set by --queries")
        pairs, held = query_pairs.from_documents(corpus, count=count, seed=seed)
        return pairs, query_pairs.NOTHING, held
    task = open_task(queries, corpus.ids().to_pylist())
    for finding in alignment.check(task):
        console.warn(str(finding))
    return query_pairs.from_task(task, corpus, count=count, seed=seed, splits=splits)


def shown_to(searcher: Searcher, pairs: query_pairs.Pairs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a search proposes for each text of some pairs, as `temper.fit` wants it."""
    texts, query = np.unique(pairs.texts, return_inverse=True)
    rows, log_probs, similarities = searcher.proposed(texts.tolist())
    numbers = np.arange(len(texts))[:, None] * len(searcher.table) + rows
    right = np.isin(numbers, query * len(searcher.table) + pairs.rows) & (rows >= 0)
    return log_probs, similarities, right


def measure(
    searcher: Searcher, corpus: Corpus, held: list[Held], *, runs: pathlib.Path | None
) -> dict[str, dict[str, dict[str, float]]]:
    """Means over every kind of held-out queries: the retriever with and without its vectors, these without IDs (a dense
    retriever whose queries were trained), and BM25.

    A document that asks is taken out of its own answers. Documents that answered training queries stand apart too. All search
    the corpus: documents that were added to the table later are no answers here.

    Args:
      runs: a folder for what was found, as TREC's run files, and the judgements.
    """
    documents, measured = searcher.table.ids.to_pylist(), {}
    within = searcher.subset(only=documents[: len(corpus)]) if len(documents) > len(corpus) else None
    retrievers = {
        "bm25": Bm25([text for batch in corpus.batches() for text in batch]).search,
        "retriever": functools.partial(searcher.rank, within=within),
        "by ID alone": functools.partial(searcher.rank, within=within, by_id=True),
    }
    if vectors := searcher.by_vectors(len(corpus)):
        retrievers["vectors alone"] = vectors.search
    for each in held:
        slices, means = ranking.seen_and_unseen(each.asked, len(documents)), {}
        for name, search in retrievers.items():
            ranked = search(each.texts, k=10 + (each.without is not None))
            rows = ranked.rows
            if each.without is not None:
                rows = np.where(rows == each.without[:, None], -1, rows)  # which takes no rank
            means |= ranking.means_by_slice(name, rows, each.qrels, slices, cutoffs=(1, 10))
            if runs:
                path = runs / f"{file_name(each.source)}-{file_name(name)}.run"
                trec.write_run(path, rows, ranked.scores, queries=each.ids, documents=documents, tag=file_name(name))
        if runs:
            trec.write_qrels(runs / f"{file_name(each.source)}.qrels", each.qrels, queries=each.ids, documents=documents)
        measured[each.source] = means
    return measured


def file_name(text: str) -> str:
    """Words as a part of a file's name."""
    return text.lower().replace(" ", "-")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Flags; a wrong one ends the program with exit code 2."""
    parser = argparse.ArgumentParser(prog="lmindexer-finetune", description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="of a finished run")
    parser.add_argument("--queries", default="", help="folder in BEIR's layout, or a name; default: made from the documents")
    parser.add_argument("--relevant-from", type=int, default=0, metavar="GRADE", help="make their grades binary: relevant from here on")
    parser.add_argument("--drop", action="store_true", help="leave out judgements of documents that the corpus lacks")
    parser.add_argument("--split", action="append", default=[], help="of --queries, to measure on; repeat it for more; default: test")
    parser.add_argument("--epochs", type=float, default=FinetuneConfig.epochs, help="over the pairs")
    parser.add_argument("--batch-size", type=int, default=FinetuneConfig.batch_size)
    parser.add_argument("--learning-rate", type=float, default=OptimConfig.learning_rate)
    parser.add_argument("--encoder-rate", type=float, default=FinetuneConfig.language_model, help="of the encoder, as a factor of it")
    parser.add_argument("--frozen", action="store_true", help="leave the encoder as it is: quicker, less good")
    parser.add_argument("--fsdp", type=int, default=MeshConfig.fsdp, help="devices that share parameters, as mesh.fsdp of a config")
    parser.add_argument("--runs", type=pathlib.Path, help="folder for TREC run files and qrels of the held-out queries")
    parser.add_argument("--profile", type=int, default=0, metavar="STEPS", help="keep a trace of so many steps in retriever/profile")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--console", type=Mode, choices=list(Mode), default=Mode.AUTO)
    return parser.parse_args(arguments)


def judged(flags: argparse.Namespace) -> RelevanceConfig | None:
    """The set of queries that the flags name; None where they name none."""
    if not flags.queries:
        if flags.relevant_from or flags.drop:
            raise UserError("--relevant-from and --drop say how to read a set of queries: give the set by --queries")
        return None
    source = {"path" if pathlib.Path(flags.queries).expanduser().is_dir() else "name": flags.queries}
    return RelevanceConfig(**source, on_bad=OnBad.DROP if flags.drop else OnBad.FAIL, relevant_from=flags.relevant_from)


def main() -> None:
    """Parse, train, measure, show."""
    flags = parse(sys.argv[1:])
    keep_freed()
    described = read_run(flags.workdir)
    hosts.start(from_dict(HostsConfig, described["config"].get("hosts", {})) if described else HostsConfig())
    console = hosts.console(flags.console)
    config = FinetuneConfig(
        epochs=flags.epochs,
        batch_size=flags.batch_size,
        language_model=0.0 if flags.frozen else flags.encoder_rate,
        optim=OptimConfig(learning_rate=flags.learning_rate),
    )
    mesh = MeshConfig(fsdp=flags.fsdp)
    open_finished(flags.workdir)  # or there is nothing to hold
    with held(flags.workdir, console=console):
        execute(
            flags.workdir,
            queries=judged(flags),
            splits=flags.split,
            config=config,
            mesh=mesh,
            seed=flags.seed,
            runs=flags.runs,
            profile=flags.profile,
            console=console,
        )
    console.success(f'try: python -m lmindexer_jax.search --workdir {flags.workdir} "a query"')
    console.note(f"or as a page: python -m lmindexer_jax.serve --workdir {flags.workdir}")


def run() -> None:
    """Entry point of the command `lmindexer-finetune`."""
    with hosts.together():
        run_main(main)


if __name__ == "__main__":
    run()
