"""Recommend the next item: by generating its semantic ID, by SASRec, or by popularity.

    python -m lmindexer_jax.recommend --config configs/recommend/generative.py --workdir runs/rec \\
        --config.ids=runs/mine --config.interactions=users.tsv

A user's last item is the test, the last but one is for validation; all items are ranked. The same command goes on
where a killed run stopped, and only prints the result of a finished one.
"""

import pathlib
import sys

from absl import flags
from ml_collections import config_flags

from lmindexer_jax.console import Console, Mode, run_main
from lmindexer_jax.errors import UserError
from lmindexer_jax.next_item import RecommendConfig, execute


def define_flags(values: flags.FlagValues) -> flags.FlagValues:
    """--config and --workdir."""
    help_text = "a Python file whose get_config() returns a RecommendConfig"
    config_flags.DEFINE_config_file("config", None, help_text, flag_values=values)
    flags.DEFINE_string("workdir", None, "where everything that the run makes is kept", flag_values=values)
    return values


FLAGS = define_flags(flags.FlagValues())


def parse(arguments: list[str]) -> tuple[RecommendConfig, pathlib.Path]:
    """Flags to settings.

    Raises:
      UserError: an unknown flag or field, or a value of the wrong type.
    """
    try:
        rest = FLAGS(arguments)
    except (flags.Error, KeyError, FileNotFoundError) as error:
        raise UserError(str(error.args[-1] if isinstance(error, KeyError) else error)) from None
    if len(rest) > 1:
        raise UserError(f"unknown argument {rest[1]!r}; settings are given as --config.name=value")
    if FLAGS.config is None or FLAGS.workdir is None:
        raise UserError("give --config and --workdir, as in --config configs/recommend/generative.py --workdir runs/rec")
    if not isinstance(FLAGS.config, RecommendConfig):
        raise UserError("the config file's get_config() must return a lmindexer_jax.next_item.RecommendConfig")
    return FLAGS.config, pathlib.Path(FLAGS.workdir)


def main() -> None:
    """Parse and do it."""
    config, workdir = parse(sys.argv)
    execute(config, workdir, console=Console(config.console))


def run() -> None:
    """Entry point of the command `lmindexer-recommend`."""
    run_main(main, mode=lambda: FLAGS.config.console if FLAGS.is_parsed() and FLAGS.config else Mode.AUTO)


if __name__ == "__main__":
    run()
