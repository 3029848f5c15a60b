"""Learn semantic IDs for a corpus: `python -m lmindexer_jax.main --config configs/x.py --workdir runs/x`.

The same command goes on where a killed run stopped, and only prints the result of a finished one. Started on several
hosts (docs/multi_host.md), it is one run on the devices of all.
"""

import sys

from lmindexer_jax.config import Config
from lmindexer_jax.console import run_main
from lmindexer_jax.flags import Flags
from lmindexer_jax.memory import keep_freed
from lmindexer_jax.training import hosts

FLAGS = Flags(Config, example="--config configs/quickstart.py --workdir runs/quickstart")


def main() -> None:
    """Prepare, walk the stages, conclude."""
    config, workdir = FLAGS.parse(sys.argv)
    keep_freed()
    # Imported late: a wrong flag is answered at once.
    from lmindexer_jax.prepare import held
    from lmindexer_jax.run import execute

    hosts.start(config.hosts)
    console = hosts.console(config.console)
    with held(workdir, console=console):
        execute(config, workdir, console=console)


def run() -> None:
    """Entry point of the command `lmindexer`."""
    with hosts.together():
        run_main(main, mode=FLAGS.mode)


if __name__ == "__main__":
    run()
