"""The loop of one training stage. Inside an iteration the order is: look at the old state (evaluate, save), draw a
batch, step; the metrics of a step are read one step late, so the host never waits for the device but where it saves."""

from collections.abc import Callable, Iterator

import jax
from jaxtyping import PRNGKeyArray

from lmindexer_jax.training.steps import Batch, State
from lmindexer_jax.training.trace import Trace


def train(
    state: State,
    *,
    step: Callable,
    batches: Iterator[Batch],
    key: PRNGKeyArray,
    start: int,
    steps: int,
    before: Callable[[int, State, Callable[[], None]], None],
    record: Callable[[int, dict], None],
    trace: Trace,
) -> State:
    """Run steps `start`..`steps` of a stage.

    Args:
      state: where the stage stands after `start` steps.
      step: from `make_step`; the state is donated to it.
      batches: yields the batch of step `start` first.
      key: the stage's key.
      start: steps already taken.
      steps: steps of the whole stage.
      before: called with (steps taken, state, catch_up) before each step and once at the end. Who saves the state calls
        `catch_up` first: it records the step that led there, which a resumed run does not take again.
      record: called with (steps taken, metrics) after each step, one step late.
      trace: told of every step.

    Returns:
      the state after the last step.
    """
    pending = None

    def catch_up() -> None:
        nonlocal pending
        if pending is not None:
            record(*pending)
        pending = None

    for number in range(start, steps):
        before(number, state, catch_up)
        trace(number, state)
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            state, metrics = step(state, next(batches), key)
        catch_up()
        pending = (number + 1, metrics)
    trace.close(state)
    catch_up()
    before(steps, state, catch_up)
    return state
