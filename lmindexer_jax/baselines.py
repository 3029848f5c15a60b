"""What BM25 and a dense encoder reach on a retrieval task: the bar for IDs.

    python -m lmindexer_jax.baselines my_task                                        # a folder in BEIR's layout
    python -m lmindexer_jax.baselines --corpus amazon_reviews/beauty --queries esci/beauty_queries
"""

import argparse
import pathlib
import sys

from lmindexer_jax.console import Console, Mode, run_main
from lmindexer_jax.data import alignment, trec
from lmindexer_jax.data.corpus import Corpus, open_corpus
from lmindexer_jax.data.documents import CorpusConfig, OnBad
from lmindexer_jax.data.relevance import TRAIN, RelevanceConfig, RetrievalTask, folder_corpus, open_task
from lmindexer_jax.errors import UserError
from lmindexer_jax.evaluation import ranking
from lmindexer_jax.retrieval.dense import Dense, DenseConfig, frozen_encoder
from lmindexer_jax.retrieval.lexical import Bm25

DEPTH = 100  # documents in a run file


def open_both(corpus: CorpusConfig, relevance: RelevanceConfig, *, console: Console) -> tuple[Corpus, RetrievalTask]:
    """Corpus and task, and what `alignment.check` finds, said aloud."""
    documents = open_corpus(corpus)
    for reason, example in documents.examples.items():
        console.warn(f"corpus: {documents.dropped[reason]:,} documents left out, the first {example}")
    task = open_task(relevance, documents.ids().to_pylist())
    for finding in alignment.check(task):
        console.warn(str(finding))
    return documents, task


def parse(arguments: list[str]) -> argparse.Namespace:
    """Flags; a wrong one ends the program with exit code 2."""
    parser = argparse.ArgumentParser(prog="lmindexer-baselines", description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", help="with corpus.jsonl, queries.jsonl and qrels, plain or gzipped")
    parser.add_argument("--corpus", help="in place of a folder: name of a corpus, as amazon_reviews/beauty")
    parser.add_argument("--queries", help="and of its queries, as esci/beauty_queries")
    parser.add_argument("--template", help="text from fields; default: '{title} {text}' of a folder, '{text}' of a name")
    parser.add_argument("--split", default="test")
    parser.add_argument("--relevant-from", type=int, default=0, metavar="GRADE", help="make grades binary: relevant from here on")
    parser.add_argument("--drop", action="store_true", help="leave out judgements of documents that the corpus lacks")
    parser.add_argument("--encoder", default=DenseConfig.name, help="of the dense retriever; '' leaves it out")
    parser.add_argument("--max-length", type=int, default=DenseConfig.max_length, help="tokens that the encoder reads")
    parser.add_argument("--runs", type=pathlib.Path, help="folder for TREC run files and qrels")
    parser.add_argument("--cache-dir", default="", help="where prepared corpora are kept")
    parser.add_argument("--console", type=Mode, choices=list(Mode), default=Mode.AUTO)
    return parser.parse_args(arguments)


def configs(flags: argparse.Namespace) -> tuple[CorpusConfig, RelevanceConfig]:
    """Settings of both sides; a UserError unless a folder or two names are given."""
    if bool(flags.folder) == bool(flags.corpus and flags.queries) or (flags.folder and (flags.corpus or flags.queries)):
        raise UserError("give a folder, or both --corpus and --queries")
    given = {"cache_dir": flags.cache_dir} | ({"template": flags.template} if flags.template else {})
    corpus = folder_corpus(flags.folder, **given) if flags.folder else CorpusConfig(name=flags.corpus, **given)
    bad = OnBad.DROP if flags.drop else OnBad.FAIL
    source = {"path": flags.folder or "", "name": flags.queries or ""}
    return corpus, RelevanceConfig(**source, on_bad=bad, relevant_from=flags.relevant_from, cache_dir=flags.cache_dir)


def main() -> None:
    """Read, retrieve, show."""
    flags = parse(sys.argv[1:])
    console = Console(flags.console)
    corpus, task = open_both(*configs(flags), console=console)
    queries = task.split(flags.split).answerable()
    if not len(queries):
        raise UserError(f"no query of split {flags.split!r} has a relevant document")
    if flags.runs:
        trec.check_names([*task.documents, *queries.ids, *filter(None, [flags.encoder])])
    slices = {}
    if TRAIN in task.splits and flags.split != TRAIN:
        slices = ranking.seen_and_unseen(task.split(TRAIN).qrels.answers, len(corpus))
    texts = [text for batch in corpus.batches() for text in batch]
    retrievers = {"bm25": Bm25(texts)}
    if flags.encoder:
        encode = frozen_encoder(DenseConfig(flags.encoder, flags.max_length), console=console)
        retrievers[flags.encoder] = Dense(encode(texts), encode)
    rows = []
    for name, retriever in retrievers.items():
        ranked = retriever.search(queries.texts, k=DEPTH)
        means = ranking.means_by_slice(name, ranked.rows, queries.qrels, slices, cutoffs=(1, 10))
        rows += [(part, *(values[metric] for metric in ranking.USUAL)) for part, values in means.items()]
        if flags.runs:
            flags.runs.mkdir(parents=True, exist_ok=True)
            path = flags.runs / f"{name.replace('/', '_')}.run"
            trec.write_run(path, *ranked, queries=queries.ids, documents=task.documents, tag=name)
    if flags.runs:
        trec.write_qrels(flags.runs / "qrels", queries.qrels, queries=queries.ids, documents=task.documents)
    console.table(f"{flags.split}: {len(queries):,} queries, {len(corpus):,} documents", ("retriever", *ranking.USUAL), rows)


def run() -> None:
    """Entry point of the command `lmindexer-baselines`."""
    run_main(main)


if __name__ == "__main__":
    run()
