"""Several indexers side by side on one corpus, from one config:

    python -m lmindexer_jax.bakeoff --config configs/bakeoff.py --workdir runs/bakeoff

Every indexer is run with every seed, in `<workdir>/<name>-<seed>`, and all are measured with the same evidence. The same
command goes on where a killed bake-off stopped, and only prints the result of a finished one.
"""

import dataclasses
import hashlib
import json
import pathlib
import sys

import numpy as np

from lmindexer_jax.cells import Cell, cells_of, run_cells
from lmindexer_jax.config import BakeoffConfig
from lmindexer_jax.console import Console, run_main
from lmindexer_jax.data.corpus import Corpus, open_corpus
from lmindexer_jax.errors import UserError
from lmindexer_jax.evaluate import evidence, label
from lmindexer_jax.evaluation.bow import bow_gain
from lmindexer_jax.evaluation.comparison import Compared, compare
from lmindexer_jax.evaluation.comparison_page import write_page
from lmindexer_jax.evaluation.id_quality import collisions
from lmindexer_jax.evaluation.significance import LEVEL
from lmindexer_jax.evaluation.table import Evidence, Row, measured, tabulated
from lmindexer_jax.files import replacing
from lmindexer_jax.flags import Flags
from lmindexer_jax.finished import Finished, is_finished, open_finished

FLAGS = Flags(BakeoffConfig, example="--config configs/bakeoff.py --workdir runs/bakeoff")
RESULT = "bakeoff.json"
SUMMARY_COSTS = ("minutes", "peak_memory_mb")


def bakeoff(config: BakeoffConfig, workdir: pathlib.Path, *, console: Console) -> int:
    """Run what is not finished, compare, write bakeoff.json and bakeoff.html, print.

    Returns:
      0, or the exit code of a cell that stopped.

    Raises:
      UserError: anything the user can mend.
    """
    cells = cells_of(config, workdir)
    corpus = open_corpus(config.corpus)
    refuse_other_corpora(cells, corpus)
    done = sum(is_finished(cell.workdir) for cell in cells)
    console.note(
        f"{len(config.cells)} indexers, {len(config.seeds)} seeds, {len(corpus):,} documents:"
        f" {len(cells)} cells, {done} of them finished"
    )
    if code := run_cells(cells, console=console):
        return code
    result = read_or_measure(config, cells, workdir, console=console)
    write_page(result, workdir / "bakeoff.html")
    show(result, console=console)
    console.success(f"comparison in {workdir / RESULT} and {workdir / 'bakeoff.html'}")
    return 0


def refuse_other_corpora(cells: list[Cell], corpus: Corpus) -> None:
    """A UserError where a finished cell has learned from other documents than the others will, damaged on purpose or not."""
    opened = {repr(cell.config.corpus): open_corpus(cell.config.corpus) for cell in cells}
    for cell in cells:
        own = opened[repr(cell.config.corpus)]
        if not own.ids().equals(corpus.ids()):
            raise UserError(f"cells.{cell.name}: its noise leaves nothing of some documents; make it less")
        if is_finished(cell.workdir) and open_finished(cell.workdir).table.manifest.corpus_hash != own.hash:
            raise UserError(f"{cell.workdir}: the corpus has changed since this cell was run; give another --workdir")


def read_or_measure(config: BakeoffConfig, cells: list[Cell], workdir: pathlib.Path, *, console: Console) -> dict:
    """What bakeoff.json holds, where it was made of these very tables; else measure and write it."""
    runs = [open_finished(cell.workdir) for cell in cells]
    origin = origin_of(config, cells, runs)
    path = workdir / RESULT
    if path.exists():
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            kept = None  # damaged: it is made anew
        if isinstance(kept, dict) and kept.get("origin") == origin:
            return kept
    result = {"origin": origin} | measure(config, cells, runs, console=console)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(result, indent=1))
    return result


def origin_of(config: BakeoffConfig, cells: list[Cell], runs: list[Finished]) -> str:
    """Hash of all that the comparison depends on.

    Raises:
      UserError: the file of interactions cannot be read.
    """
    try:
        users = config.interactions and hashlib.sha256(pathlib.Path(config.interactions).expanduser().read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{config.interactions}: cannot be read ({error.strerror}); give it by --config.interactions") from None
    tables = [
        [cell.name, cell.seed, run.table.manifest.model_hash, run.table.manifest.corpus_hash]
        for cell, run in zip(cells, runs, strict=True)
    ]
    about = [reference_of(config), config.replicates, users, tables]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


def reference_of(config: BakeoffConfig) -> str:
    """Name of the indexer that all others are compared with."""
    return config.against or next(iter(config.cells))


def measure(config: BakeoffConfig, cells: list[Cell], runs: list[Finished], *, console: Console) -> dict:
    """Measure all tables, codes as learned, and compare them. Words are counted by the tokens of the reference's run."""
    against = reference_of(config)
    first = next(run for cell, run in zip(cells, runs, strict=True) if cell.name == against)
    known = evidence(first, interactions=config.interactions)
    documents = len(first.corpus())
    rows: dict[str, list[list[Row]]] = {name: [] for name in config.cells}
    measures: dict[str, list[dict]] = {name: [] for name in config.cells}
    with console.progress("measuring", total=len(cells), unit="tables") as progress:
        for cell, run in zip(cells, runs, strict=True):
            codes = run.learned_codes(documents)
            rows[cell.name].append(measured(codes, known, replicates=config.replicates, seed=0))
            measures[cell.name].append({"seed": cell.seed} | facts(run, codes, known, rows[cell.name][-1]))
            progress.advance()
    return {
        "corpus": config.corpus.name or pathlib.Path(config.corpus.path).name,
        "documents": documents,
        "seeds": list(config.seeds),
        "against": against,
        "replicates": config.replicates,
        "level": LEVEL,
        "indexers": [indexer(name, config, measures[name]) for name in config.cells],
        "measures": [vars(row) for row in compare(rows, against=against)],
    }


def facts(run: Finished, codes: np.ndarray, known: Evidence, rows: list[Row]) -> dict:
    """Of one cell: its table's measures, what spreading the last codes has changed, and what the run cost."""
    sizes = tuple(run.table.manifest.codebook_sizes)
    final = run.table.codes[: len(codes)]
    table = vars(collisions(final)) | {"bow_gain": float(bow_gain(final, known.words)[-1])}
    plain = [dataclasses.replace(row, values=head(row.values), over_reference=head(row.over_reference)) for row in rows]
    return {"cost": cost_of(run.workdir), "in_table": table, "as_learned": tabulated(plain, codes, sizes, known, 0)}


def cost_of(workdir: pathlib.Path) -> dict[str, float]:
    """What a run has taken, by its summary.

    Raises:
      UserError: that is gone or damaged.
    """
    path = workdir / "summary.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        return {name: summary[name] for name in SUMMARY_COSTS}
    except (OSError, ValueError, TypeError, KeyError):
        raise UserError(f"{path}: gone or damaged; remove report.html beside it and run the same command again") from None


def head(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Measures of the whole corpus without those of its halves."""
    return {name: value[:1] for name, value in values.items()}


def indexer(name: str, config: BakeoffConfig, cells: list[dict]) -> dict:
    """One indexer over its seeds: use of its codes and cost as means and spreads; and the cells themselves."""
    own = config.cells[name]
    numbers = {
        "perplexity": [[row["perplexity"] for row in cell["as_learned"]["positions"]] for cell in cells],
        "usage": [[row["usage"] for row in cell["as_learned"]["positions"]] for cell in cells],
        "distinct_as_learned": [cell["as_learned"]["collisions"]["distinct_share"] for cell in cells],
        "distinct_in_table": [cell["in_table"]["distinct_share"] for cell in cells],
        "bow_gain_in_table": [cell["in_table"]["bow_gain"] for cell in cells],
        "minutes": [cell["cost"]["minutes"] for cell in cells],
        "peak_memory_mb": [cell["cost"]["peak_memory_mb"] for cell in cells],
    }
    means = {key: np.mean(values, axis=0).tolist() for key, values in numbers.items()}
    spreads = {key: np.std(values, axis=0, ddof=1).tolist() for key, values in numbers.items()} if len(cells) > 1 else {}
    about = {"name": name, "kind": str(own.indexer_kind), "codebook_sizes": list(own.indexer.codebook_sizes)}
    return about | {"mean": means, "spread": spreads, "cells": cells}


def show(result: dict, *, console: Console) -> None:
    """The comparison on the terminal."""
    columns = ("indexer", "codes in use per position (perplexity)", "usage", "distinct IDs", "in the table", "minutes", "MB")
    lines = []
    for row in result["indexers"]:
        mean = row["mean"]
        used = " · ".join(f"{value:.1f}" for value in mean["perplexity"])
        shares = " · ".join(f"{value:.0%}" for value in mean["usage"])
        distinct = [f"{mean[name]:.1%}" for name in ("distinct_as_learned", "distinct_in_table")]
        lines.append([row["name"], used, shares, *distinct, mean["minutes"], round(mean["peak_memory_mb"])])
    console.table(f"{result['corpus']}: {result['documents']:,} documents, seeds {result['seeds']}", columns, lines)
    rows = [Compared(**row) for row in result["measures"]]
    names = [row["name"] for row in result["indexers"]]
    summary(rows, names, result["against"], console)
    agreed = [row for row in rows if row.measure == "ami"]
    details("agreement with the categories (AMI)", ("codes", "labels"), agreed, result["against"], console)
    wanted = ("bow_gain", "neighbours.agreement", "co_occurrence.lift")
    others = [row for row in rows if row.measure in (*wanted, *(f"over_reference.{name}" for name in (*wanted, "ami")))]
    details("information, neighbours, users", ("codes", "labels", "measure"), others, result["against"], console)
    console.note(
        "p: of seeds and documents together (with one seed: of documents alone); p documents: these tables as they are;"
        " neither is corrected for their number. Where perplexities differ, read what is over reference"
    )


def summary(rows: list[Compared], names: list[str], against: str, console: Console) -> None:
    """One line per indexer, one column per headline: mean, spread over seeds, and a star where p < .05."""
    heads = headlines(rows)
    if not heads:
        return
    at = {(row.indexer, row.codes, row.labels, row.measure): row for row in rows}
    lines = [[name, *(cell_text(at.get((name, *head))) for head in heads)] for name in names]
    titles = [" ".join(part for part in (codes, labels, label(measure)) if part) for codes, labels, measure in heads]
    console.table(f"mean ± standard deviation over seeds; * differs from {against} at p < .05", ("indexer", *titles), lines)


def headlines(rows: list[Compared]) -> list[tuple[str, str, str]]:
    """(codes, labels, measure) that the short table shows, of those that there are."""
    there = dict.fromkeys((row.codes, row.labels, row.measure) for row in rows)
    longest = max((codes for codes, _, measure in there if measure == "perplexity"), key=len, default="")
    wanted = [("c1", "", "perplexity"), ("c1", "path", "ami"), ("c1", "", "bow_gain"), (longest, "", "bow_gain")]
    wanted += [("c1", "", "neighbours.agreement"), ("c1", "", "co_occurrence.lift"), ("c1..c2", "", "co_occurrence.lift")]
    return [head for head in dict.fromkeys(wanted) if head in there]


def cell_text(row: Compared | None) -> str:
    """A measure as the short table shows it."""
    if row is None:
        return ""
    digits = 3 if abs(row.mean) < 10 else 1
    spread = "" if row.spread is None else f" ± {row.spread:.{digits}f}"
    return f"{row.mean:.{digits}f}{spread}" + (" *" if row.p_value is not None and row.p_value < 0.05 else "")


def details(title: str, about: tuple[str, ...], rows: list[Compared], against: str, console: Console) -> None:
    """One line per measure and indexer, with the perplexity beside it and how it differs from the reference."""
    if rows:
        numbers = ("perplexity", "mean", "spread", "difference", "low", "high", "p_value", "p_documents")
        lines = [
            [*(label(getattr(row, name)) if name == "measure" else getattr(row, name) for name in about), row.indexer]
            + [getattr(row, name) for name in numbers]
            for row in rows
        ]
        console.table(f"{title}; differences from {against}", (*about, "indexer", *(label(name) for name in numbers)), lines)


def main() -> int:
    """Run the cells, compare, show."""
    config, workdir = FLAGS.parse(sys.argv)
    return bakeoff(config, workdir, console=Console(config.console))


def run() -> None:
    """Entry point of the command `lmindexer-bakeoff`."""
    run_main(main, mode=FLAGS.mode)


if __name__ == "__main__":
    run()
