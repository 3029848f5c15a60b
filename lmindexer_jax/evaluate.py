"""Everything one can ask of the IDs of a finished run, or of two runs of the same corpus side by side:

    python -m lmindexer_jax.evaluate --workdir runs/mine
    python -m lmindexer_jax.evaluate --workdir runs/mine --against runs/other -o comparison.json
    python -m lmindexer_jax.evaluate --workdir runs/mine --against ids.jsonl      # IDs from anywhere (indexing/id_lines.py)
"""

import argparse
import pathlib
import sys

import numpy as np
from jaxtyping import Int

from lmindexer_jax import output
from lmindexer_jax.conclude import evidence_of
from lmindexer_jax.console import Console, Mode, run_main
from lmindexer_jax.data.cache import cache_root
from lmindexer_jax.data.tokens import open_tokens
from lmindexer_jax.errors import UserError
from lmindexer_jax.evaluation.bow import bags
from lmindexer_jax.evaluation.table import Evidence, compare_tables, evaluate_table
from lmindexer_jax.finished import Finished, open_finished
from lmindexer_jax.indexing import id_lines
from lmindexer_jax.indexing.inputs import Inputs
from lmindexer_jax.models import presets
from lmindexer_jax.prepare import open_tokenizer

PREFIX_MEASURES = (
    "perplexity", "bow_gain", "neighbours.share", "neighbours.agreement", "co_occurrence.share", "co_occurrence.lift",
    "over_reference.bow_gain", "over_reference.neighbours.agreement", "over_reference.co_occurrence.lift",
)  # fmt: skip
AGREEMENT_MEASURES = ("ami", "nmi", "v_measure", "purity", "random_purity", "over_reference.ami", "over_reference.purity")


def evidence(run: Finished, *, interactions: str) -> Evidence:
    """What is known about a run's corpus; words are the tokens that the run itself read."""
    corpus, settings = run.corpus(), run.config.language_model
    preset = presets.resolve(settings.name, pretrained=settings.pretrained)
    tokenizer = open_tokenizer(run.config, preset, corpus, run.workdir)
    store = open_tokens(
        corpus, tokenizer, max_length=settings.max_length, cache_dir=cache_root(run.config.corpus.cache_dir)
    )
    inputs = Inputs(store, tokenizer.special_ids, run.table.codes[: len(store)])
    words = bags(store.flat, inputs.offsets, unlabelled=inputs.unlabelled)
    return evidence_of(corpus, words, interactions=interactions or run.config.interactions)


def evaluate(
    workdir: pathlib.Path,
    against: pathlib.Path | None = None,
    *,
    interactions: str = "",
    replicates: int = 1000,
    seed: int = 0,
    console: Console,
) -> dict:
    """Measure one run as `table.evaluate_table` does, or two as `table.compare_tables` does.

    Args:
      workdir: of a finished run.
      against: of another run of the same corpus, or a file of IDs of its documents (`id_lines`), whose codes are taken
        to go up to the highest that is there. Words are counted by the tokens of the first run, so that both are
        measured alike.
      interactions: file of users' items; default: the one that the run was given.
      replicates: random halves for intervals and p-values.
      seed: of the halves; 0 or more.
      console: says what is going on.

    Raises:
      UserError: a run is not finished, its corpus has changed, the two runs have different ones, the file is no file of IDs, or
        the seed is negative.
    """
    if seed < 0:
        raise UserError(f"--seed {seed}: give 0 or more")
    run = open_finished(workdir)
    names = run.corpus().ids().to_pylist()
    tables = [coded(run, len(names))]
    if against is not None and against.is_file():
        codes = id_lines.read(against, names)
        tables.append((codes, tuple(highest + 1 for highest in codes.max(axis=0).tolist())))
    elif against is not None:
        other = open_finished(against)
        hashes = [each.table.manifest.corpus_hash for each in (run, other)]
        if hashes[0] != hashes[1]:
            raise UserError(
                f"{workdir} and {against} are runs of different corpora ({hashes[0][:12]} and {hashes[1][:12]}):"
                " only tables of the same documents, texts and categories can be compared"
            )
        tables.append(coded(other, len(names)))
    known = evidence(run, interactions=interactions)
    console.note(f"{len(names):,} documents; intervals from {replicates:,} random halves of them")
    if against is None:
        return evaluate_table(*tables[0], known, replicates=replicates, seed=seed)
    codes, sizes = zip(*tables, strict=True)
    return compare_tables(*codes, known, sizes=sizes, replicates=replicates, seed=seed)


def coded(run: Finished, documents: int) -> tuple[Int[np.ndarray, "N T"], tuple[int, ...]]:
    """Codes of a run's corpus, as its table has them, and K of every position."""
    return run.table.codes[:documents], tuple(run.table.manifest.codebook_sizes)


def show(measures: dict, *, console: Console) -> None:
    """The tables of one run."""
    columns = ("position", "codes", "usage", "perplexity", "perplexity_within", "entropy", "gini", "gini_within", "own_bow_gain")
    console.table("positions", columns, [[row.get(name) for name in columns] for row in measures["positions"]])
    found = measures["collisions"]
    console.note(f"distinct IDs: {found['distinct_share']:.1%}; largest group that shares one: {found['largest_group']}")
    _measured("prefixes", ("codes",), PREFIX_MEASURES, measures["prefixes"], console)
    _measured("agreement with the categories", ("codes", "labels"), AGREEMENT_MEASURES, measures["agreement"], console)
    if any("over_reference" in row for row in measures["prefixes"]):
        console.note("over reference: less what a tree of plain words reaches at the same perplexity")


def _measured(title: str, about: tuple[str, ...], names: tuple[str, ...], rows: list[dict], console: Console) -> None:
    """One line per row and measure, with its interval."""
    lines = []
    for row in rows:
        for name in names:
            value = look_up(row, name)
            if value is not None:
                low, high = look_up(row.get("intervals", {}), name) or (None, None)
                lines.append([*(row[part] for part in about), label(name), value, low, high])
    if lines:
        console.table(title, (*about, "measure", "value", "low", "high"), lines)


def show_differences(found: dict, *, console: Console) -> None:
    """One table: both runs, what lies between them, and whether it is more than luck."""
    for name in ("first", "second"):
        used = ", ".join(f"{row['perplexity']:.1f} of {row['codes']}" for row in found[name]["positions"])
        console.note(f"{name}: perplexity {used}; distinct IDs {found[name]['collisions']['distinct_share']:.1%}")
    wanted = set(PREFIX_MEASURES + AGREEMENT_MEASURES)
    columns = ("codes", "labels", "measure", "first", "second", "difference", "low", "high", "p_value")
    rows = [row for row in found["differences"] if row["measure"] in wanted]
    lines = [[label(row[name]) if name == "measure" else row[name] for name in columns] for row in rows]
    console.table("second less first", columns, lines)
    console.note(
        "p-values are of the choice of documents, for these two tables as they are, and not corrected for their number;"
        " where perplexities differ, read what is over reference"
    )


def label(name: str) -> str:
    """A measure's name as people read it."""
    words = name.replace("over_reference.", "").replace(".", " ").replace("_", " ")
    return words + (" over reference" if name.startswith("over_reference.") else "")


def look_up(row: dict, name: str):
    """`row["a"]["b"]` for "a.b"; None where it is not there."""
    for part in name.split("."):
        if not isinstance(row, dict) or part not in row:
            return None
        row = row[part]
    return row


def parse(arguments: list[str]) -> argparse.Namespace:
    """Flags; a wrong one ends the program with exit code 2."""
    parser = argparse.ArgumentParser(prog="lmindexer-evaluate", description="Measure the IDs of a finished run")
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="of a finished run")
    parser.add_argument("--against", type=pathlib.Path, help="another run of the same corpus, or a JSONL file of IDs of it")
    parser.add_argument("-o", "--output", type=pathlib.Path, help="JSON file to write")
    parser.add_argument("--interactions", default="", help="lines `user TAB item item ...`; default: as the run was given")
    parser.add_argument("--replicates", type=int, default=1000, help="random halves for intervals and p-values")
    parser.add_argument("--seed", type=int, default=0, help="of the halves")
    parser.add_argument("--console", type=Mode, choices=list(Mode), default=Mode.AUTO)
    flags = parser.parse_args(arguments)
    if flags.replicates < 2:
        parser.error("--replicates: give at least 2, or better hundreds")
    return flags


def main() -> None:
    """Parse, measure, show, write."""
    flags = parse(sys.argv[1:])
    console = Console(flags.console)
    output.check(flags.output)
    found = evaluate(
        flags.workdir,
        flags.against,
        interactions=flags.interactions,
        replicates=flags.replicates,
        seed=flags.seed,
        console=console,
    )
    if flags.against is None:
        show(found, console=console)
    else:
        show_differences(found, console=console)
    if flags.output:
        about = {"workdir": str(flags.workdir)} | ({"against": str(flags.against)} if flags.against else {})
        output.write(flags.output, about | found)
        console.success(f"measures in {flags.output}")


def run() -> None:
    """Entry point of the command `lmindexer-evaluate`."""
    run_main(main)


if __name__ == "__main__":
    run()
