"""Documents for a query, by a retriever that was fine-tuned on a finished run:

    python -m lmindexer_jax.search --workdir runs/mine "fit a smoothing spline"
"""

import argparse
import dataclasses
import json
import pathlib
import sys

from lmindexer_jax.console import Console, Mode, run_main
from lmindexer_jax.retrieval.searcher import Searcher


def parse(arguments: list[str]) -> argparse.Namespace:
    """Flags; a wrong one ends the program with exit code 2."""
    parser = argparse.ArgumentParser(prog="lmindexer-search", description=__doc__.splitlines()[0])
    parser.add_argument("queries", nargs="+", metavar="query")
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="of a run with a retriever")
    parser.add_argument("-k", type=int, default=10, help="documents for each query")
    parser.add_argument("--json", action="store_true", help="one JSON object for each query")
    return parser.parse_args(arguments)


def main() -> None:
    """Parse, search, show."""
    flags = parse(sys.argv[1:])
    found = Searcher.load(flags.workdir).search(flags.queries, k=flags.k)
    console = Console(Mode.AUTO)
    for query, hits in zip(flags.queries, found, strict=True):
        if flags.json:
            print(json.dumps({"query": query, "hits": [dataclasses.asdict(hit) for hit in hits]}, ensure_ascii=False))
        else:
            rows = [(hit.document, hit.full_id, round(hit.log_prob, 2), hit.text[:80]) for hit in hits]
            console.table(query, ("document", "ID", "log p", "text"), rows)


def run() -> None:
    """Entry point of the command `lmindexer-search`."""
    run_main(main)


if __name__ == "__main__":
    run()
