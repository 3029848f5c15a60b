"""What computing layers twice (remat) and looping over one compiled layer (scan) cost and save, as one JSON object.

    python benchmarks/stack.py [--size t5-base] [--batch 8] [--repeats 3]

The step is that of `steps.py`, position 1 of the published recipe with its codebook, in bfloat16. For each of the four ways:
seconds until the step is compiled, megabytes that it needs beside the state (activations and gradients, from the compiled
step), and the median of seconds a step.
"""

import argparse
import itertools
import json
import time

import jax
import numpy as np
from steps import BATCHES, make_batch, quantised_step

from lmindexer_jax.memory import keep_freed
from lmindexer_jax.models.presets import PRESETS
from lmindexer_jax.models.stack import StackConfig


def measure(size: str, *, batch_size: int, repeats: int) -> list[dict]:
    """One row for each way; all of them move one state."""
    batch = jax.device_put(make_batch(PRESETS[size], size=batch_size, position=0, neighbours=0))
    key, rows, state = jax.random.key(0), [], None
    for scan, remat in itertools.product((False, True), repeat=2):
        step, fresh = quantised_step(PRESETS[size], position=0, precision="bfloat16", stack=StackConfig(remat, scan))
        state = fresh() if state is None else state
        begin = time.perf_counter()
        compiled = step.lower(state, batch, key).compile()
        row = {"scan": scan, "remat": remat, "compile_seconds": round(time.perf_counter() - begin, 1)}
        row["work_mb"] = round(compiled.memory_analysis().temp_size_in_bytes / 2**20)
        seconds = []
        for _ in range(repeats + 1):
            begin = time.perf_counter()
            state, _ = jax.block_until_ready(compiled(state, batch, key))
            seconds.append(time.perf_counter() - begin)
        rows.append(row | {"seconds": round(float(np.median(seconds[1:])), 3)})
    return rows


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="t5-base", choices=sorted(BATCHES))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    flags = parser.parse_args()
    keep_freed()
    head = {"benchmark": "stack", "device": jax.devices()[0].device_kind, "jax": jax.__version__, "size": flags.size, "batch": flags.batch}
    print(json.dumps(head | {"rows": measure(flags.size, batch_size=flags.batch, repeats=flags.repeats)}, indent=1))


if __name__ == "__main__":
    main()
