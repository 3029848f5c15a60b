"""Learn semantic IDs for a corpus: `python -m lmindexer_jax.main --config configs/x.py --workdir runs/x`.

The same command goes on where a killed run stopped, and only prints the result of a finished one.
"""

import os
import sys
from collections.abc import Mapping

from lmindexer_jax.config import Config
from lmindexer_jax.console import Console, run_main
from lmindexer_jax.errors import UserError
from lmindexer_jax.flags import Flags
from lmindexer_jax.memory import keep_freed

FLAGS = Flags(Config, example="--config configs/quickstart.py --workdir runs/quickstart")


def main() -> None:
    """Prepare, walk the stages, conclude."""
    config, workdir = FLAGS.parse(sys.argv)
    refuse_company(os.environ)
    console = Console(config.console)
    keep_freed()
    # Imported late: a wrong flag is answered at once.
    from lmindexer_jax.run import execute

    execute(config, workdir, console=console)


def refuse_company(environment: Mapping[str, str]) -> None:
    """Several processes do not join one run yet; each would train alone, and all write into one workdir.

    Raises:
      UserError: the environment of a launcher (JAX, srun, GKE) says that this process is one of several.
    """
    counts = [environment.get(name, "1") for name in ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS")]
    hosts = len(environment.get("TPU_WORKER_HOSTNAMES", "").split(","))
    if hosts > 1 or any(count.isdigit() and int(count) > 1 for count in counts):
        raise UserError("one of several processes, which cannot share a run yet: start one process, on one host, with all its devices")


def run() -> None:
    """Entry point of the command `lmindexer`."""
    run_main(main, mode=FLAGS.mode)


if __name__ == "__main__":
    run()
