"""Processes find each other or say why not, and what they tell each other arrives."""

import time

import pytest
from processes import Group

START = """
import sys
from lmindexer_jax.console import run_main
from lmindexer_jax.training import hosts
with hosts.together():
    run_main(lambda: hosts.start(hosts.HostsConfig(join_seconds=5, lost_seconds=5)))
"""


def test_alone_nothing_is_waited_for(monkeypatch):
    import numpy as np

    from lmindexer_jax.training import hosts

    for name in hosts.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    hosts.start(hosts.HostsConfig())
    assert not hosts.several() and hosts.first()
    hosts.barrier()
    with hosts.first_goes_ahead():
        pass
    np.testing.assert_array_equal(hosts.gather(np.arange(3), counts=[3]), np.arange(3))
    assert hosts.of_first(np.arange(2)).tolist() == [0, 1] and hosts.said_by_first("5") == "5" and hosts.deal([1, 2]) == [[1, 2]]


def test_due_when_the_time_is_over():
    from lmindexer_jax.training.hosts import Due

    assert [Due(0.0, step=0)(step) for step in (1, 2)] == [True, True]
    due = Due(0.2, step=0)
    assert not due(1)
    time.sleep(0.21)
    assert due(2) and not due(3)


@pytest.mark.parametrize(
    "variables, message",
    [
        ({"JAX_NUM_PROCESSES": "two"}, "whole number"),
        ({"JAX_PROCESS_ID": "0"}, "set JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES too"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}, "from 0 to 1"),
    ],
)
def test_variables_without_a_meaning_are_one_line(monkeypatch, variables, message):
    from lmindexer_jax.errors import UserError
    from lmindexer_jax.training import hosts

    for other in hosts.VARIABLES:
        monkeypatch.delenv(other, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message) as error:
        hosts.start(hosts.HostsConfig())
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("missing", [0, 1])
def test_who_cannot_join_fails_in_time(missing):
    """Also the one that the others join, when they do not come."""
    began = time.monotonic()
    group = Group(START, [], count=2, devices=1, missing=(missing,))
    assert group.wait(60) == [3], group.said()
    assert time.monotonic() - began < 30
    said = group.output(0).strip().splitlines()
    assert "not all processes of the run joined within 5 s" in said[-1], group.said()


def test_a_launcher_that_sees_a_gpu_is_not_answered_by_the_cpu(monkeypatch):
    from lmindexer_jax.errors import UserError
    from lmindexer_jax.training import hosts

    for name in hosts.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LMINDEXER_PLATFORM", "cpu")
    hosts.start(hosts.HostsConfig())
    monkeypatch.setenv("LMINDEXER_PLATFORM", "gpu")
    with pytest.raises(UserError, match=r"has a GPU, but JAX in .* sees a CPU alone: pip install -e '.\[cuda\]'"):
        hosts.start(hosts.HostsConfig())
