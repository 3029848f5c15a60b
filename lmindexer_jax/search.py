"""Documents for a query, by a retriever that was fine-tuned on a finished run:

    python -m lmindexer_jax.search --workdir runs/mine "fit a smoothing spline"
    python -m lmindexer_jax.search --workdir runs/mine "fit a smoothing spline" --category "scipy > interpolate"
"""

import argparse
import dataclasses
import json
import pathlib
import sys

from lmindexer_jax.console import Console, Mode, run_main
from lmindexer_jax.data.cache import keep_compiled
from lmindexer_jax.errors import UserError
from lmindexer_jax.retrieval.permits import Permits
from lmindexer_jax.retrieval.searcher import BEAMS, Searcher, parse_category


def parse(arguments: list[str]) -> argparse.Namespace:
    """Flags; a wrong one ends the program with exit code 2."""
    parser = argparse.ArgumentParser(prog="lmindexer-search", description=__doc__.splitlines()[0])
    parser.add_argument("queries", nargs="+", metavar="query")
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="of a run with a retriever")
    parser.add_argument("-k", type=int, default=10, help="documents for each query")
    parser.add_argument("--category", metavar="PATH", help='search below this category: "scipy > interpolate"')
    ids = {"action": "append", "metavar": "ID", "default": None}
    parser.add_argument("--only", **ids, help="search this document; may be repeated; @FILE for the ids in a file, one a line")
    parser.add_argument("--exclude", **ids, help="leave this document out; repeated or @FILE, as --only")
    parser.add_argument("--groups", type=int, default=1, help="more than 1 for different results: groups that choose in turn")
    parser.add_argument("--beams", type=int, help=f"prefixes kept at every position: more miss less, and take longer (default {BEAMS})")
    parser.add_argument("--by-id", action="store_true", help="order by log p of the ID alone, not by similarity to the query as well")
    parser.add_argument("--json", action="store_true", help="one JSON object for each query")
    return parser.parse_args(arguments)


def documents_of(values: list[str] | None) -> list[str] | None:
    """Document ids as given, those in files read; None where the flag was not given.

    Raises:
      UserError: a file that cannot be read.
    """
    if values is None:
        return None
    documents = []
    for value in values:
        if value.startswith("@"):
            try:
                lines = pathlib.Path(value[1:]).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{value[1:]}: cannot be read as a list of ids ({getattr(error, 'strerror', None) or error})") from None
            documents += [line.strip() for line in lines if line.strip()]
        else:
            documents.append(value)
    return documents


def subset_of(searcher: Searcher, flags: argparse.Namespace) -> Permits | None:
    """What the flags restrict the search to; None for all documents."""
    category = () if flags.category is None else parse_category(flags.category)
    only, exclude = documents_of(flags.only), documents_of(flags.exclude) or []
    if not category and only is None and not exclude:
        return None
    return searcher.subset(category=category, only=only, exclude=exclude)


def main() -> None:
    """Parse, search, show."""
    flags = parse(sys.argv[1:])
    searcher = Searcher.load(flags.workdir)
    keep_compiled(searcher.table.manifest.config["corpus"]["cache_dir"])
    within = subset_of(searcher, flags)
    options = {"groups": flags.groups, "beams": flags.beams, "by_id": flags.by_id}
    found = searcher.search(flags.queries, k=flags.k, within=within, **options)
    console = Console(Mode.AUTO)
    for query, hits in zip(flags.queries, found, strict=True):
        if flags.json:
            print(json.dumps({"query": query, "hits": [dataclasses.asdict(hit) for hit in hits]}, ensure_ascii=False))
        else:
            rows = [(hit.document, hit.full_id, shown(hit.log_prob), shown(hit.similarity), hit.text[:80]) for hit in hits]
            console.table(query, ("document", "ID", "log p", "similar", "text"), rows)


def shown(value: float | None) -> str:
    """A number in a column of the table, empty where there is none."""
    return "" if value is None else f"{value:.2f}"


def run() -> None:
    """Entry point of the command `lmindexer-search`."""
    run_main(main)


if __name__ == "__main__":
    run()
