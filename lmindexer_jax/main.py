"""Learn semantic IDs for a corpus: `python -m lmindexer_jax.main --config configs/x.py --workdir runs/x`.

The same command goes on where a killed run stopped, and only prints the result of a finished one.
"""

import pathlib
import sys

from absl import flags
from ml_collections import config_flags

from lmindexer_jax.config import Config
from lmindexer_jax.console import Console, Mode, run_main
from lmindexer_jax.errors import UserError
from lmindexer_jax.memory import keep_freed

FLAGS = flags.FlagValues()
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "a Python file whose get_config() returns a Config; x.py:tiny shrinks it", flag_values=FLAGS
)
flags.DEFINE_string("workdir", None, "where everything that the run makes is kept", flag_values=FLAGS)


def parse(arguments: list[str]) -> tuple[Config, pathlib.Path]:
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
        raise UserError("give --config and --workdir, as in --config configs/quickstart.py --workdir runs/quickstart")
    if not isinstance(FLAGS.config, Config):
        raise UserError("the config file's get_config() must return a lmindexer_jax.config.Config")
    return FLAGS.config, pathlib.Path(FLAGS.workdir)


def main() -> None:
    """Prepare, walk the stages, conclude."""
    config, workdir = parse(sys.argv)
    console = Console(config.console)
    keep_freed()
    # Imported late: a wrong flag is answered at once.
    from lmindexer_jax.run import execute

    execute(config, workdir, console=console)


def run() -> None:
    """Entry point of the command `lmindexer`."""
    run_main(main, mode=lambda: FLAGS.config.console if FLAGS.is_parsed() and FLAGS.config else Mode.AUTO)


if __name__ == "__main__":
    run()
