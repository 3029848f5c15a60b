"""What the terminal shows: the plan, progress with time left, tables, and errors as one line."""

import contextlib
import dataclasses
import enum
import errno
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TextIO

import rich.box
import rich.console
import rich.progress
import rich.table
import rich.text

from lmindexer_jax.errors import UserError

PLAIN_INTERVAL = 10.0
"""Seconds between two progress lines where no bar can be drawn: a log file stays readable."""

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_UNHEARD = 141  # what a shell says of a program that SIGPIPE has ended

# What is wrong with a path that the user gave; that a file is missing may as well be our own fault.
_PATHS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


class Mode(enum.StrEnum):
    """How a run speaks. AUTO is RICH on a terminal and PLAIN elsewhere."""

    AUTO = "auto"
    RICH = "rich"
    PLAIN = "plain"
    QUIET = "quiet"
    JSON = "json"


@dataclasses.dataclass(frozen=True)
class PlannedStage:
    """One line of the plan: a stage, its optimiser steps, estimated minutes, memory in MB and FLOPs (None: not known yet)."""

    name: str
    steps: int
    minutes: float | None = None
    memory_mb: float | None = None
    flops: float | None = None


class Console:
    """Everything a run says. Rich draws, plain and JSON write one line per event, quiet keeps warnings alone."""

    def __init__(self, mode: Mode = Mode.AUTO, stream: TextIO | None = None):
        """Args: mode; stream, where to write (standard output by default; warnings go to standard error if quiet)."""
        self.stream = stream or sys.stdout
        if mode is Mode.AUTO:
            mode = Mode.RICH if self.stream.isatty() else Mode.PLAIN
        self.mode = mode
        # A log is searched line by line, so only a terminal may fold lines at its width.
        width = None if mode is Mode.RICH else 160
        # Texts are shown as they are: brackets and colons in them are no markup.
        self._rich = rich.console.Console(
            file=self.stream,
            width=width,
            force_terminal=mode is Mode.RICH,
            no_color=mode is not Mode.RICH,
            highlight=False,
            markup=False,
            emoji=False,
        )
        self._bars: rich.progress.Progress | None = None

    @classmethod
    def silent(cls) -> "Console":
        """One that says nothing at all, not even warnings: of the processes of a run, the first speaks for all."""
        return cls(Mode.PLAIN, stream=open(os.devnull, "w"))

    def plan(self, title: str, stages: Sequence[PlannedStage]) -> None:
        """Show what is about to happen and what it will cost, before any of it starts."""
        if self.mode is Mode.JSON:
            self._emit("plan", title=title, stages=[dataclasses.asdict(stage) for stage in stages])
            return
        minutes = [stage.minutes for stage in stages if stage.minutes is not None]
        memory = [stage.memory_mb for stage in stages if stage.memory_mb is not None]
        rows = [(s.name, s.steps or "", _minutes(s.minutes), _megabytes(s.memory_mb)) for s in stages]
        total = (
            "total",
            sum(stage.steps for stage in stages),
            _minutes(sum(minutes) if minutes else None),
            _megabytes(max(memory, default=None)),
        )
        self._table(title, ("stage", "steps", "minutes (about)", "memory"), rows, total)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Show rows of cells under their columns; numbers stand to the right."""
        if self.mode is Mode.JSON:
            self._emit("table", title=title, rows=[dict(zip(columns, row, strict=True)) for row in rows])
        else:
            self._table(title, columns, rows)

    def note(self, text: str) -> None:
        """Say something that a curious reader wants to know."""
        self._say("note", text)

    def success(self, text: str) -> None:
        """Say that something is finished and good."""
        self._say("success", text, "green")

    def warn(self, text: str) -> None:
        """Say that something is wrong but not fatal; the quiet mode says it too, on standard error."""
        if self.mode is Mode.QUIET:
            print(f"warning: {text}", file=sys.stderr, flush=True)
        else:
            self._say("warning", text, "yellow", "warning: ")

    @contextlib.contextmanager
    def progress(self, description: str, total: int, unit: str = "steps", *, start: int = 0) -> "Iterator[Progress]":
        """Yield a `Progress` to advance; `start` of the `total` were already done by an earlier run."""
        meter = Meter(total=total, done=start)
        if self.mode is Mode.RICH:
            report, close = self._open_bar(description, unit, meter)
        else:
            report, close = self._open_lines(description, unit, meter)
        try:
            yield Progress(meter, report)
        finally:
            close()

    def _open_bar(self, description: str, unit: str, meter: "Meter") -> tuple[Callable, Callable]:
        # Rich can draw one live display per terminal: nested progresses become rows of the same one.
        if self._bars is None:
            self._bars = rich.progress.Progress(
                rich.progress.TextColumn("{task.description}", markup=False),
                rich.progress.BarColumn(bar_width=16),
                rich.progress.TextColumn("{task.fields[state]}", markup=False),
                console=self._rich,
                refresh_per_second=4,
            )
            self._bars.start()
        bars = self._bars
        task = bars.add_task(description, total=meter.total, completed=meter.done, state=meter.line(unit, {}))

        def report(metrics: dict[str, float]) -> None:
            bars.update(task, completed=meter.done, state=meter.line(unit, metrics))

        def close() -> None:
            bars.stop_task(task)
            if all(other.stop_time is not None for other in bars.tasks):
                bars.stop()
                self._bars = None

        return report, close

    def _open_lines(self, description: str, unit: str, meter: "Meter") -> tuple[Callable, Callable]:
        last: dict[str, Any] = {"time": meter.started, "metrics": {}}

        def write(event: str, metrics: dict[str, float]) -> None:
            if self.mode is Mode.JSON:
                self._emit(event, description=description, unit=unit, **meter.numbers(), **metrics)
            elif self.mode is Mode.PLAIN:
                self._rich.print(f"{description}: {meter.line(unit, metrics)}", soft_wrap=True)

        def report(metrics: dict[str, float]) -> None:
            last["metrics"] = metrics
            if time.monotonic() - last["time"] >= PLAIN_INTERVAL:
                last["time"] = time.monotonic()
                write("progress", metrics)

        if self.mode is Mode.JSON:
            write("start", {})
        return report, lambda: write("end", last["metrics"])

    def _say(self, event: str, text: str, style: str = "", prefix: str = "") -> None:
        if self.mode is Mode.JSON:
            self._emit(event, text=text)
        elif self.mode is not Mode.QUIET:
            self._rich.print(rich.text.Text(prefix + text, style=style), soft_wrap=True)

    def _emit(self, event: str, **fields: object) -> None:
        print(json.dumps(_plain_value({"event": event, **fields}), allow_nan=False), file=self.stream, flush=True)

    def _table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], total: Sequence | None = None) -> None:
        if self.mode is Mode.QUIET:
            return
        box = rich.box.ROUNDED if self.mode is Mode.RICH else rich.box.ASCII2
        table = rich.table.Table(title=title, box=box, title_justify="left", show_footer=total is not None)
        for index, column in enumerate(columns):
            cells = [_cell(row[index]) for row in rows]
            numeric = any(cells) and all(cell[:1] in set("-.0123456789") for cell in cells if cell)
            footer = _cell(total[index]) if total else ""
            table.add_column(column, footer=footer, justify="right" if numeric else "left")
        for row in rows:
            table.add_row(*map(_cell, row))
        self._rich.print(table)


@dataclasses.dataclass
class Meter:
    """How far a progress is and how fast it goes; times are in seconds."""

    total: int
    done: int
    started: float = dataclasses.field(default_factory=lambda: time.monotonic())
    # The first advance holds the compilation, so the rate is counted from its end.
    first: tuple[int, float] | None = None

    def advance(self, count: int) -> None:
        """Count `count` more units as done."""
        self.done += count
        self.first = self.first or (self.done, time.monotonic())

    def rate(self) -> float:
        """Units a second since the first advance; 0 when not known yet."""
        if self.first is None or self.done == self.first[0]:
            return 0.0
        return (self.done - self.first[0]) / max(time.monotonic() - self.first[1], 1e-9)

    def numbers(self) -> dict[str, float | None]:
        """The state as plain numbers, for machines; `left` is None when not known."""
        rate = self.rate()
        left = round((self.total - self.done) / rate, 1) if rate else None
        elapsed = round(time.monotonic() - self.started, 1)
        return {"done": self.done, "total": self.total, "rate": round(rate, 3), "elapsed": elapsed, "left": left}

    def line(self, unit: str, metrics: dict[str, float]) -> str:
        """The state as one line, for people."""
        state = self.numbers()
        parts = [f"{self.done:,}/{self.total:,} {unit}"]
        if state["rate"]:
            parts += [f"{state['rate']:,.4g}/s", f"{_clock(state['elapsed'])} gone"]
            if self.done < self.total:
                parts.append(f"{_clock(state['left'])} left")
        else:
            parts.append(f"{_clock(state['elapsed'])} gone")
        parts += [f"{name} {value:.4g}" for name, value in metrics.items()]
        return " · ".join(parts)


@dataclasses.dataclass(frozen=True)
class Progress:
    """A running progress: call `advance` after each unit of work."""

    meter: Meter
    report: Callable[[dict[str, float]], None]

    def advance(self, n: int = 1, **metrics: float) -> None:
        """Count `n` more units as done and show the latest metrics beside them."""
        self.meter.advance(n)
        self.report({name: float(value) for name, value in metrics.items()})


def run_main(main: Callable[[], object], *, mode: Callable[[], Mode] = lambda: Mode.AUTO) -> NoReturn:
    """Run a program and exit: what a user can mend is one line on standard error, all else is a traceback.

    Args:
      main: the program; a returned integer is the exit code.
      mode: asked when an error is to be printed, since flags are parsed inside `main`; JSON prints an object.

    Exit codes: 2 for a `UserError`, a full disk, or a path that cannot be read or written; 130 for Ctrl-C; 141 where who reads
    the output is gone.
    """
    try:
        result = main()
    except UserError as error:
        _fail("error", str(error), mode(), EXIT_USER_ERROR)
    except KeyboardInterrupt:
        _fail("stopped", "the same command goes on", mode(), EXIT_INTERRUPTED)
    except BrokenPipeError:  # as by `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more as it ends
        sys.exit(EXIT_UNHEARD)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = f" while writing {error.filename}" if error.filename else ""
            _fail("error", f"the disk is full{where}; free some space and run the same command again", mode(), EXIT_USER_ERROR)
        if error.errno in _PATHS and error.filename is not None:
            _fail("error", f"{error.filename}: {error.strerror}; give another path, or mend this one", mode(), EXIT_USER_ERROR)
        raise
    sys.exit(result if isinstance(result, int) else 0)


def _fail(event: str, message: str, mode: Mode, code: int) -> NoReturn:
    message = " ".join(message.split())  # one line, whatever was quoted in it
    if mode is Mode.JSON:
        print(json.dumps({"event": event, "message": message}), file=sys.stderr)
    else:
        print(f"{event}: {message}" if event == "error" else f"{event}; {message}", file=sys.stderr)
    sys.exit(code)


def _plain_value(value: Any) -> Any:
    """A value as JSON can hold it: numpy and JAX scalars and arrays reach the console as they are, and NaN is no JSON."""
    if isinstance(value, dict):
        return {str(name): _plain_value(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain_value(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    return _plain_value(value.tolist()) if hasattr(value, "tolist") else str(value)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "" if value is None else str(value)


def _minutes(minutes: float | None) -> str:
    return "" if minutes is None else f"{minutes:.1f}" if minutes < 100 else f"{minutes:,.0f}"


def _megabytes(megabytes: float | None) -> str:
    if megabytes is None:
        return ""
    return f"{megabytes:,.0f} MB" if megabytes < 1024 else f"{megabytes / 1024:,.1f} GB"


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
