"""Recommend the next item: by generating its semantic ID, by SASRec, or by popularity.

    python -m lmindexer_jax.recommend --config configs/recommend/generative.py --workdir runs/rec \\
        --config.ids=runs/mine --config.interactions=users.tsv

A user's last item is the test, the last but one is for validation; all items are ranked. The same command goes on
where a killed run stopped, and only prints the result of a finished one. Started on several hosts (docs/multi_host.md),
it is one run on the devices of all.
"""

import sys

from lmindexer_jax.console import run_main
from lmindexer_jax.flags import Flags
from lmindexer_jax.next_item import RecommendConfig, execute
from lmindexer_jax.prepare import held
from lmindexer_jax.training import hosts

FLAGS = Flags(RecommendConfig, example="--config configs/recommend/generative.py --workdir runs/rec")


def main() -> None:
    """Parse and do it."""
    config, workdir = FLAGS.parse(sys.argv)
    hosts.start(config.hosts)
    console = hosts.console(config.console)
    with held(workdir, console=console):
        execute(config, workdir, console=console)


def run() -> None:
    """Entry point of the command `lmindexer-recommend`."""
    with hosts.together():
        run_main(main, mode=FLAGS.mode)


if __name__ == "__main__":
    run()
