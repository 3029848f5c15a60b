"""What a run wrote down: metrics.jsonl always, TensorBoard beside it.

Rows carry the run's position (`number`), so that a resumed run first takes back what was written after its checkpoint:
the journal of a killed and resumed run reads like that of an undisturbed one.
"""

import json
import pathlib
import time
from collections.abc import Iterator, Mapping

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from lmindexer_jax.errors import UserError
from lmindexer_jax.files import replacing
from lmindexer_jax.training import hosts


class Journal:
    """Appends rows of scalars to a workdir; of several processes the first alone does."""

    def __init__(self, workdir: pathlib.Path, *, resume_at: int):
        """Open `metrics.jsonl` and TensorBoard files; rows after number `resume_at` are taken back.

        Raises:
          UserError: a line of metrics.jsonl is damaged.
        """
        self.path = workdir / "metrics.jsonl"
        self._writes = hosts.first()
        if not self._writes:
            return
        kept = [row for row in read(self.path) if row["number"] <= resume_at]
        with replacing(self.path) as path:
            path.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self._file = self.path.open("a", encoding="utf-8")
        # Not tensorboardX's SummaryWriter: its thread dies on a full disk, and then the run waits for it for ever.
        (workdir / "tensorboard").mkdir(exist_ok=True)
        self._board = EventsWriter(str(workdir / "tensorboard" / "events"), filename_suffix=f".{resume_at}")
        # TensorBoard then forgets what it has read of later steps.
        self._board.write_event(Event(step=resume_at + 1, wall_time=time.time(), session_log=SessionLog(status=SessionLog.START)))

    def write(self, number: int, row: Mapping[str, object]) -> None:
        """Append one row; floats go to TensorBoard as `<stage kind>/<name>` as well."""
        if not self._writes:
            return
        self._file.write(json.dumps({"number": number, "time": round(time.time(), 3), **row}) + "\n")
        self._file.flush()
        for name, value in row.items():
            if isinstance(value, float):
                summary = scalar(f"{row.get('event', 'train')}/{name}", value)
                self._board.write_event(Event(step=number, wall_time=time.time(), summary=summary))
        if "event" in row:
            self._board.flush()

    def close(self) -> None:
        """Flush both writers."""
        if not self._writes:
            return
        try:
            self._file.close()
        finally:
            self._board.close()


def read(path: pathlib.Path) -> Iterator[dict]:
    """Rows of a metrics file; a last line cut short by a kill is left out.

    Raises:
      UserError: any other line is damaged.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n"):
                yield _parsed(line, f"{path}:{number}")


def _parsed(line: bytes, where: str) -> dict:
    try:
        row = json.loads(line)
    except ValueError:  # bytes that are no UTF-8 as well
        row = None
    if not isinstance(row, dict):
        raise UserError(f"{where}: damaged; take this line out of the file and run the same command again")
    return row
