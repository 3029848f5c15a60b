"""What an ID means: the first codes, what a prefix stands for, or every step of a document's ID:

    python -m lmindexer_jax.explain --workdir runs/mine
    python -m lmindexer_jax.explain --workdir runs/mine 12-7
    python -m lmindexer_jax.explain --workdir runs/mine --document B004756YJA
"""

import argparse
import json
import pathlib
import sys

from lmindexer_jax.console import Console, Mode, run_main
from lmindexer_jax.errors import UserError
from lmindexer_jax.evaluation.explain import explain_document, explain_prefix
from lmindexer_jax.evaluation.text_space import text_space
from lmindexer_jax.finished import open_finished

SNIPPET = 100  # characters of a text in a table


def explain(workdir: pathlib.Path, what: str = "", *, document: bool = False) -> dict:
    """Explain a prefix, or a document.

    Args:
      workdir: of a finished run.
      what: "" for all first codes, a prefix ("12-7"), a full ID, or a document's own id. What could be a prefix and is
        one that documents have is taken as a prefix.
      document: take `what` as a document's id in any case.

    Returns:
      as `evaluation.explain.explain_prefix`, or as `explain_document` (then with "steps").

    Raises:
      UserError: no finished run, or nothing of that name.
    """
    run = open_finished(workdir)
    corpus, table = run.corpus(), run.table
    row = None
    if document:
        row = table.row(what)
    elif what and not _is_prefix(what, table):
        if what not in set(table.ids.to_pylist()):
            raise UserError(f"{what!r} is neither a prefix that documents of {workdir} have nor the id of one of them")
        row = table.row(what)
    prefix = table.parse(what) if what and row is None else ()
    if len(prefix) > table.codes.shape[1]:
        row = int(table.documents_of(prefix)[0])
    if row is not None and row >= len(corpus):
        raise UserError(f"document {what!r} was added after the run and is not in its corpus; explain its ID {table.id_of(what)!r}")
    space = text_space(text for batch in corpus.batches() for text in batch)
    return explain_prefix(prefix, table, corpus, space) if row is None else explain_document(row, table, corpus, space)


def _is_prefix(what: str, table) -> bool:
    """Whether some document has an ID that begins so."""
    if not all(part.isascii() and part.isdigit() for part in what.split("-")):
        return False
    try:
        return len(table.documents_of(table.parse(what))) > 0
    except UserError:
        return False


def show(found: dict, *, most: int, console: Console) -> None:
    """As tables."""
    if "steps" in found:
        console.note(f"{found['id']}: {found['full_id']}")
        console.note(f"text: {snippet(found['text'])}" + (f"  ({path_name(found['path'])})" if found["path"] else ""))
        columns = ("prefix", "documents", "words (* in this document)", "categories", "nearness", "nearest sibling", "its nearness")
        lines = [
            [
                step["prefix"],
                step["documents"],
                ", ".join(f"{word}*" if word in step["shared"] else word for word in step["words"]),
                mix(step["categories"][:1]),
                step["nearness"],
                step.get("sibling"),
                step.get("sibling_nearness"),
            ]
            for step in found["steps"]
        ]
        console.table("steps", columns, lines)
        return
    if found["prefix"]:
        console.note(f"{found['prefix']}: {found['documents']:,} documents, {found['share']:.2%} of the corpus")
        if found["words"]:
            console.note("words: " + ", ".join(found["words"]))
    if found["categories"]:
        console.note("categories: " + mix(found["categories"]))
    lines = [[kind, *_cells(each)] for kind in ("typical", "borderline") for each in found[kind]]
    if lines:
        console.table("documents", ("", "id", "ID", "text", "nearness", "nearest sibling", "its nearness"), lines)
    if found["children"]:
        lines = [
            [child["prefix"], child["documents"], ", ".join(child["words"]) or snippet(child.get("text", ""))]
            for child in found["children"][:most]
        ]
        console.table("what follows" if found["prefix"] else "first codes", ("prefix", "documents", "words"), lines)
        if len(found["children"]) > most:
            console.note(f"{len(found['children']) - most:,} more with fewer documents; --most shows them")


def _cells(each: dict) -> list:
    return [
        each["id"], each["full_id"], snippet(each["text"]), each["nearness"], each.get("sibling"), each.get("sibling_nearness"),
    ]  # fmt: skip


def mix(shares: list[dict]) -> str:
    """Categories with their shares."""
    return ", ".join(f"{path_name(each['path'])} {each['share']:.0%}" for each in shares)


def path_name(path: list[str]) -> str:
    """The end of a category path."""
    return " › ".join(path[-3:])


def snippet(text: str) -> str:
    """The beginning of a text on one line."""
    text = " ".join(text[: 4 * SNIPPET].split())
    return text if len(text) <= SNIPPET else text[: SNIPPET - 1].rstrip() + "…"


def parse(arguments: list[str]) -> argparse.Namespace:
    """Flags; a wrong one ends the program with exit code 2."""
    parser = argparse.ArgumentParser(prog="lmindexer-explain", description="Say what an ID means")
    parser.add_argument("what", nargs="?", default="", help="a prefix such as 12-7, or a document's id; nothing: all first codes")
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="of a finished run")
    parser.add_argument("--document", action="store_true", help="take it as a document's id, even if it looks like a prefix")
    parser.add_argument("--most", type=int, default=20, help="prefixes that are listed")
    parser.add_argument("--console", type=Mode, choices=list(Mode), default=Mode.AUTO, help="json prints one object")
    return parser.parse_args(arguments)


def main() -> None:
    """Parse, explain, show."""
    flags = parse(sys.argv[1:])
    found = explain(flags.workdir, flags.what, document=flags.document)
    if flags.console is Mode.JSON:
        print(json.dumps(found, ensure_ascii=False))
    else:
        show(found, most=flags.most, console=Console(flags.console))


def run() -> None:
    """Entry point of the command `lmindexer-explain`."""
    run_main(main)


if __name__ == "__main__":
    run()
