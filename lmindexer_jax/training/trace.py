"""What the devices do in some steps of a training, kept for https://ui.perfetto.dev and TensorBoard's profiler."""

import pathlib
from typing import Any

import jax

from lmindexer_jax.console import Console
from lmindexer_jax.training import hosts

SKIPPED = 3  # steps before: the first compiles


class Trace:
    """Traces a few steps of a training, of several processes on the first; none where it is asked for none.

    Args:
      directory: made when the trace begins; `plugins/profile/<time>/` below holds `perfetto_trace.json.gz`.
      start: steps taken already.
      steps: how many are traced.
      console: says where the trace is.
    """

    def __init__(self, directory: pathlib.Path, *, start: int, steps: int, console: Console):
        self.directory, self.console = directory, console
        self.first, self.end = start + SKIPPED, start + SKIPPED + (steps if hosts.first() else 0)
        self.running = False

    def __call__(self, number: int, state: Any) -> None:
        """Begin or end, before step `number` that takes `state`."""
        if self.running and number >= self.end:
            self.close(state)
        elif not self.running and self.first <= number < self.end:
            jax.block_until_ready(state)
            jax.profiler.start_trace(self.directory, create_perfetto_trace=True)
            self.running = True

    def close(self, state: Any) -> None:
        """End where there is no further step."""
        if self.running:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self.running, self.end = False, 0
            self.console.note(f"a trace of some steps is in {self.directory}; open its perfetto_trace.json.gz at https://ui.perfetto.dev")
