"""What a person or a program reads on the terminal, and how a run ends when something is wrong."""

import errno
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from lmindexer_jax import console as module
from lmindexer_jax.console import Console, Meter, Mode, PlannedStage, run_main
from lmindexer_jax.errors import UserError

PLAN = [PlannedStage("warm-up", 1200, 2.5, 900.0), PlannedStage("position 1", 3400, 10.0, 3072.0), PlannedStage("assign", 0)]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is told to go on."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def spoken(mode: Mode, say) -> str:
    stream = io.StringIO()
    say(Console(mode, stream))
    return stream.getvalue()


def everything(console: Console) -> None:
    console.plan("the plan", PLAN)
    console.note("a note [not markup]")
    with console.progress("train", 10, "steps") as progress:
        progress.advance(3, loss=np.float32(0.25))
    console.table("result", ("position", "perplexity"), [(1, 201.5), (2, 12_345)])
    console.success("done")


def test_auto_is_plain_without_a_terminal():
    assert Console(Mode.AUTO, io.StringIO()).mode is Mode.PLAIN
    assert Console(Mode.AUTO, Terminal()).mode is Mode.RICH
    assert Console(Mode.JSON, Terminal()).mode is Mode.JSON


def test_plain_is_readable_text():
    text = spoken(Mode.PLAIN, everything)
    assert "\x1b" not in text
    for part in ("the plan", "warm-up", "1,200", "4,600", "12.5", "3.0 GB", "a note [not markup]", "201.5", "12,345", "done"):
        assert part in text
    assert "train: 3/10 steps" in text and "loss 0.25" in text


def test_long_lines_are_not_folded():
    text = spoken(Mode.PLAIN, lambda console: console.note("word " * 100))
    assert text.count("\n") == 1


def test_rich_draws_on_a_terminal():
    stream = Terminal()
    everything(Console(Mode.RICH, stream))
    assert "\x1b[" in stream.getvalue() and "3/10 steps" in stream.getvalue()


def test_rich_holds_progress_within_progress():
    stream = Terminal()
    console = Console(Mode.RICH, stream)
    with console.progress("outer", 2) as outer:
        with console.progress("inner", 3) as inner:
            inner.advance(3)
        outer.advance(2)
    with console.progress("later", 1) as later:
        later.advance()
    for part in ("outer", "inner", "later", "2/2", "3/3", "1/1"):
        assert part in stream.getvalue()


def test_quiet_keeps_warnings_alone(capsys):
    assert spoken(Mode.QUIET, everything) == ""
    assert spoken(Mode.QUIET, lambda console: console.warn("look out")) == ""
    assert capsys.readouterr().err == "warning: look out\n"


def test_json_is_one_object_a_line():
    events = [json.loads(line) for line in spoken(Mode.JSON, everything).splitlines()]
    assert [event["event"] for event in events] == ["plan", "note", "start", "end", "table", "success"]
    plan, _, start, end, table, _ = events
    assert plan["stages"][1] == {"name": "position 1", "steps": 3400, "minutes": 10.0, "memory_mb": 3072.0, "flops": None}
    assert start["done"] == 0 and start["total"] == 10
    assert end["done"] == 3 and end["loss"] == 0.25
    assert table["rows"] == [{"position": 1, "perplexity": 201.5}, {"position": 2, "perplexity": 12345}]


@pytest.mark.parametrize("mode", [Mode.PLAIN, Mode.JSON])
def test_lines_are_rationed(mode, clock):
    stream = io.StringIO()
    with Console(mode, stream).progress("train", 100, "steps") as progress:
        for _ in range(100):
            clock[0] += 0.5
            progress.advance()
    # 50 seconds: a line every 10, and the last
    lines = stream.getvalue().splitlines()
    assert len(lines) == 6 + (mode is Mode.JSON)


def test_the_rate_leaves_the_compilation_out(clock):
    meter = Meter(total=50, done=10)
    clock[0] += 100.0
    meter.advance(1)
    assert meter.rate() == 0.0 and meter.numbers()["left"] is None
    clock[0] += 8.0
    meter.advance(4)
    assert meter.rate() == pytest.approx(0.5)
    assert meter.numbers() == {"done": 15, "total": 50, "rate": 0.5, "elapsed": 108.0, "left": 70.0}
    assert meter.line("steps", {"loss": 0.12345}) == "15/50 steps · 0.5/s · 1:48 gone · 1:10 left · loss 0.1235"


def test_a_progress_ends_when_its_work_fails():
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), Console(Mode.JSON, stream).progress("train", 9) as progress:
        progress.advance(2)
        raise KeyboardInterrupt
    assert json.loads(stream.getvalue().splitlines()[-1])["done"] == 2


def raises(error: BaseException):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("corpus.jsonl:3: empty text;\n drop the line"), 2, "error: corpus.jsonl:3: empty text; drop the line\n"),
        (KeyboardInterrupt(), 130, "stopped; the same command goes on\n"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), 2, "error: the disk is full while writing runs/x; free"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 2, "error: the disk is full; free"),
    ],
)
def test_what_a_user_can_mend_is_one_line(error, code, said, capsys):
    with pytest.raises(SystemExit) as ended:
        run_main(raises(error))
    assert ended.value.code == code
    printed = capsys.readouterr()
    assert printed.err.startswith(said) and printed.err.count("\n") == 1 and printed.out == ""


def test_json_mode_says_errors_in_json(capsys):
    with pytest.raises(SystemExit):
        run_main(raises(UserError('no "x"')), mode=lambda: Mode.JSON)
    assert json.loads(capsys.readouterr().err) == {"event": "error", "message": 'no "x"'}


def test_everything_else_stays_a_traceback():
    for error in (ValueError("a bug"), OSError(errno.EACCES, "Permission denied")):
        with pytest.raises(type(error)):
            run_main(raises(error))


def test_exit_code_of_a_good_run():
    for result, code in ((None, 0), (3, 3)):
        with pytest.raises(SystemExit) as ended:
            run_main(lambda result=result: result)
        assert ended.value.code == code


def test_state_line_of_long_runs():
    assert re.search(r"^27:46:40$", module._clock(100_000))
    assert module._cell(float("nan")) == "" and module._cell(1234.5) == "1,234" and module._cell(None) == ""


AWKWARD = "def f(x: list[str]) -> dict[int, b]: [/INST] [bold] :x: [link=a]"


@pytest.mark.parametrize("mode", [Mode.PLAIN, Mode.RICH])
def test_texts_are_shown_as_they_are(mode):
    stream = Terminal()
    console = Console(mode, stream)
    console._rich.width = 400
    console.table(AWKWARD + "1", [AWKWARD + "2"], [[AWKWARD + "3"]])
    console.note(AWKWARD + "4")
    with console.progress(AWKWARD + "5", 1) as progress:
        progress.advance()
    shown = re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    for number in range(1, 6):
        assert AWKWARD + str(number) in shown


def test_json_holds_no_nan():
    text = spoken(Mode.JSON, lambda console: console.table("t", ("a", "b", "c"), [(float("nan"), np.float32("inf"), np.arange(2))]))
    assert json.loads(text, parse_constant=pytest.fail)["rows"] == [{"a": None, "b": None, "c": [0, 1]}]


def test_a_path_that_cannot_be_used_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as end:
        run_main(lambda: (tmp_path / "file" / "run").mkdir())
    assert end.value.code == 2 and capsys.readouterr().err.startswith(f"error: {tmp_path}/file/run: Not a directory; give another")


def test_who_stops_listening_ends_the_program_quietly():
    code = "from lmindexer_jax.console import run_main\nrun_main(lambda: [print('x' * 99, flush=True) for _ in range(10_000)])"
    done = subprocess.run(["bash", "-c", '"$0" -c "$1" | head -n 1; echo ${PIPESTATUS[0]}', sys.executable, code], capture_output=True)
    assert done.stdout.split()[-1] == b"141" and not done.stderr
