"""Is one ranking better than another, or lucky? Run files for the same queries, compared query by query.

    python -m lmindexer_jax.compare test.qrels ours.run residual.run
    python -m lmindexer_jax.compare test.qrels ours-0.run,ours-1.run residual-0.run,residual-1.run --metric recall@5

A system is one run file, or those of several seeds with commas between: a query's score is then the mean of them, so what is
compared is these seeds, on other queries. The first system is compared with each other one.
"""

import argparse
import pathlib
import re
import sys
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from lmindexer_jax import output
from lmindexer_jax.console import Console, Mode, run_main
from lmindexer_jax.data import trec
from lmindexer_jax.data.qrels import Qrels
from lmindexer_jax.errors import UserError
from lmindexer_jax.evaluation import ranking
from lmindexer_jax.evaluation.significance import paired_test

COLUMNS = ("metric", "first", "second", "difference", "low", "high", "p_value")


def compare(
    qrels: pathlib.Path, systems: Sequence[Sequence[pathlib.Path]], *, metrics: Sequence[str] = ranking.USUAL, seed: int = 0
) -> dict:
    """Means of every system, and each one's difference from the first with its interval and p-value.

    Queries that nothing answers count nowhere; those that a run lacks count as 0.

    Args:
      qrels: judgements as a TREC file.
      systems: of each, the run files of its seeds.
      metrics: a name of `ranking` with a cutoff, as ndcg@10.
      seed: of the random signs of the test over queries; 0 or more.

    Returns:
      `queries`, and `rows` with the keys `system` (its files), and `COLUMNS`; low and high are None where the queries are
      too few for an interval. P-values are not corrected for their number.

    Raises:
      UserError: fewer than two systems, an unknown metric, a negative seed, or an unreadable file (file and line).
    """
    if seed < 0:
        raise UserError(f"--seed {seed}: give 0 or more")
    if len(systems) < 2:
        raise UserError("give at least two systems to compare")
    known = ranking.METRICS
    for metric in metrics:
        if not re.fullmatch(rf"({'|'.join(known)})@[1-9][0-9]{{0,5}}", metric):
            raise UserError(f"{metric!r} is no metric: {', '.join(known)}, with a cutoff as in ndcg@10")
    queries, documents = names(qrels, [run for runs in systems for run in runs])
    judged = trec.read_qrels(qrels, queries=queries, documents=documents)
    answerable = judged.relevant > 0
    if not answerable.any():
        raise UserError(f"{qrels}: no query has a relevant document")
    cutoffs = sorted({int(metric.split("@")[1]) for metric in metrics})
    first, *others = [scores(runs, judged, queries=queries, documents=documents, cutoffs=cutoffs) for runs in systems]
    rows = []
    for runs, second in zip(systems[1:], others, strict=True):
        for metric in metrics:
            found = paired_test(first[metric][answerable], second[metric][answerable], seed=seed)
            row = {"system": [str(run) for run in runs], "metric": metric}
            rows.append(row | {name: getattr(found, name) for name in COLUMNS[1:]})
    return {"queries": int(answerable.sum()), "first": [str(run) for run in systems[0]], "rows": rows}


def names(qrels: pathlib.Path, runs: Sequence[pathlib.Path]) -> tuple[list[str], list[str]]:
    """Queries of the judgements, and documents of judgements and runs, in order of their first mention."""
    judged = list(trec.judgements(qrels))
    queries = dict.fromkeys(query for _, query, _, _ in judged)
    documents = dict.fromkeys(document for _, _, document, _ in judged)
    for run in runs:
        documents |= dict.fromkeys(trec.ranked_documents(run))
    return list(queries), list(documents)


def scores(
    runs: Sequence[pathlib.Path], judged: Qrels, *, queries: list[str], documents: list[str], cutoffs: Sequence[int]
) -> dict[str, Float[np.ndarray, " Q"]]:
    """Every metric of every query, the mean over the run files."""
    found = []
    for run in runs:
        rows, _ = trec.read_run(run, queries=queries, documents=documents)
        found.append(ranking.evaluate(rows, judged, cutoffs=cutoffs))
    return {metric: np.mean([each[metric] for each in found], axis=0) for metric in found[0]}


def parse(arguments: list[str]) -> argparse.Namespace:
    """Flags; a wrong one ends the program with exit code 2."""
    parser = argparse.ArgumentParser(prog="lmindexer-compare", description=__doc__.splitlines()[0])
    parser.add_argument("qrels", type=pathlib.Path, help="judgements: query 0 document grade")
    parser.add_argument("systems", nargs="+", metavar="system", help="run file, or those of several seeds with commas between")
    parser.add_argument("--metric", action="append", help=f"repeat it for more; default: {', '.join(ranking.USUAL)}")
    parser.add_argument("--seed", type=int, default=0, help="of the test's random signs")
    parser.add_argument("-o", "--output", type=pathlib.Path, help="JSON file to write")
    parser.add_argument("--console", type=Mode, choices=list(Mode), default=Mode.AUTO)
    return parser.parse_args(arguments)


def main() -> None:
    """Read, compare, show."""
    flags = parse(sys.argv[1:])
    console = Console(flags.console)
    output.check(flags.output)
    systems = [[pathlib.Path(run) for run in system.split(",")] for system in flags.systems]
    result = compare(flags.qrels, systems, metrics=flags.metric or ranking.USUAL, seed=flags.seed)
    if flags.output:
        output.write(flags.output, result)
    rows = [(",".join(row["system"]), *(row[name] for name in COLUMNS)) for row in result["rows"]]
    title = f"{','.join(result['first'])} (first) beside others (second): {result['queries']:,} queries"
    console.table(title, ("second system", *COLUMNS), rows)
    few = "; so few queries give no interval" if any(row["low"] is None for row in result["rows"]) else ""
    console.note(f"p-values are of the choice of queries, for these runs as they are, and not corrected for their number{few}")


def run() -> None:
    """Entry point of the command `lmindexer-compare`."""
    run_main(main)


if __name__ == "__main__":
    run()
