"""Freed memory is kept: a second large block brings no new pages. In a process of its own, for the setting lasts."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, numpy as np
from lmindexer_jax.memory import keep_freed
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(300_000_000)[-25_000_000:] = 1  # 200 MB of more than two gigabytes, as a step at T5-base size frees them
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
assert faults() + faults() > 80_000, "without it every block is new"
assert keep_freed()
faults()
assert faults() < 1_000, "with it the second block is the first"
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone can be told")
def test_a_second_block_is_the_first():
    # numpy asks for huge pages by itself, which would hide the count
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={"NUMPY_MADVISE_HUGEPAGE": "0"}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
