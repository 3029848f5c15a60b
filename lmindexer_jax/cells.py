"""The cells of a bake-off: every indexer with every seed is a run of its own, in a process of its own.

A process of its own gives each cell its own peak of memory, and what goes wrong in one leaves the finished ones alone.
The peak is that of the process that ended the run: of a killed and resumed cell, the part after the last kill.
"""

import copy
import dataclasses
import json
import multiprocessing
import os
import pathlib
import threading

from lmindexer_jax.config import BakeoffConfig, Config, defaults, flatten, refuse_change
from lmindexer_jax.console import Console, run_main
from lmindexer_jax.data.noise import NoiseConfig
from lmindexer_jax.errors import UserError
from lmindexer_jax.finished import is_finished
from lmindexer_jax.memory import keep_freed
from lmindexer_jax.typed import from_dict

# What a run binds its workdir to beside its settings.
CONTENT = ("corpus content", "tokens", "vectors content")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One indexer with one seed."""

    name: str
    seed: int
    config: Config
    workdir: pathlib.Path

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"


def cells_of(config: BakeoffConfig, workdir: pathlib.Path) -> list[Cell]:
    """All cells in order, seed by seed, so that every indexer has a result early; nothing is run.

    Raises:
      UserError: names, seeds or settings that cannot be, or a workdir that holds a run of other settings.
    """
    # Imported late: a wrong flag is answered at once.
    from lmindexer_jax.prepare import check, read_run

    if not config.cells:
        raise UserError("cells: give at least one indexer by name, as configs/bakeoff.py does")
    for name in config.cells:
        if not name.isidentifier():
            raise UserError(f"cells: {name!r} names a folder and a flag; use letters, digits and underscores")
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise UserError(f"seeds={config.seeds}: give one or more different ones, as (0, 1)")
    if config.against and config.against not in config.cells:
        raise UserError(f"against={config.against!r}: no such indexer; give one of {', '.join(config.cells)}")
    if config.replicates < 2:
        raise UserError(f"replicates={config.replicates}: give at least 2, or better hundreds")
    cells = [
        Cell(name, seed, settings(config, name, seed), workdir / f"{name}-{seed}")
        for seed in config.seeds
        for name in config.cells
    ]
    for cell in cells:
        try:
            check(cell.config)
        except UserError as error:
            raise UserError(f"cells.{cell.name}: {error}") from None
        old = read_run(cell.workdir)
        if old:
            bound = {name: value for name, value in old["settings"].items() if name not in CONTENT}
            known = defaults(cell.config.indexer_kind)
            refuse_change(bound, flatten(cell.config), defaults=known, workdir=str(cell.workdir))
    return cells


def settings(config: BakeoffConfig, name: str, seed: int) -> Config:
    """The settings of one cell's run."""
    own = copy.deepcopy(config.cells[name])
    damage = own.corpus.noise
    own.corpus, own.interactions, own.console = copy.deepcopy(config.corpus), config.interactions, config.console
    if damage != NoiseConfig():
        own.corpus.noise = damage
    own.seed, own.baseline = seed, False  # what the baseline would measure is a cell of its own
    return own


def run_cells(cells: list[Cell], *, console: Console) -> int:
    """Run what is not finished yet, one after another; a cell that was killed goes on where it was.

    Returns:
      0, or the exit code of a cell that stopped, after it has said why.

    Raises:
      UserError: a cell was killed.
    """
    for number, cell in enumerate(cells, start=1):
        if is_finished(cell.workdir):
            continue
        console.note(f"cell {number} of {len(cells)}: {cell}")
        code = run_cell(cell)
        if code < 0:
            raise UserError(f"{cell}: killed by signal {-code} (9 is often a lack of memory); the same command goes on")
        if code:
            return code
    return 0


def run_cell(cell: Cell) -> int:
    """One cell in a fresh process. Returns its exit code, negative where a signal killed it."""
    text = json.dumps(dataclasses.asdict(cell.config))
    process = multiprocessing.get_context("spawn").Process(target=work, args=(text, str(cell.workdir)))
    process.start()
    process.join()
    return process.exitcode


def work(text: str, workdir: str) -> None:
    """What the process does: the run of these settings (as JSON), and exit as the command `lmindexer` would."""
    config: Config = from_dict(Config, json.loads(text))
    threading.Thread(target=end_with_parent, daemon=True).start()
    keep_freed()

    def main() -> None:
        from lmindexer_jax.run import execute

        try:
            execute(config, pathlib.Path(workdir), console=Console(config.console))
        except UserError as error:
            raise UserError(f"{workdir}: {error}") from None

    run_main(main, mode=lambda: config.console)


def end_with_parent() -> None:
    """End this process when its parent is no more: a second bake-off must not find the cell still running."""
    multiprocessing.parent_process().join()
    os._exit(1)
