"""Config files, and the two flags of every command that is set by one: --config and --workdir."""

import importlib.util
import pathlib

from absl import flags
from ml_collections import config_flags

from lmindexer_jax.console import Mode
from lmindexer_jax.errors import UserError


def load(path: pathlib.Path, variant: str = ""):
    """What the `get_config` of a config file returns for a variant."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


class Flags:
    """--config, a Python file whose get_config() returns a dataclass of one kind, and --workdir.

    Args:
      kind: what get_config() must return; it has a field `console`.
      example: a command line that is right, for the one who gave a wrong one.
    """

    def __init__(self, kind: type, *, example: str):
        self.kind, self.example = kind, example
        self.values = flags.FlagValues()
        what = f"a Python file whose get_config() returns a {kind.__name__}; x.py:tiny shrinks it"
        config_flags.DEFINE_config_file("config", None, what, flag_values=self.values)
        flags.DEFINE_string("workdir", None, "where everything that the run makes is kept", flag_values=self.values)

    def parse(self, arguments: list[str]) -> tuple:
        """Settings and workdir.

        Raises:
          UserError: an unknown flag or field, or a value of the wrong type.
        """
        try:
            rest = self.values(arguments)
        except (flags.Error, KeyError, FileNotFoundError) as error:
            raise UserError(str(error.args[-1] if isinstance(error, KeyError) else error)) from None
        if len(rest) > 1:
            raise UserError(f"unknown argument {rest[1]!r}; settings are given as --config.name=value")
        config, workdir = self.values.config, self.values.workdir
        if config is None or workdir is None:
            raise UserError(f"give --config and --workdir, as in {self.example}")
        if not isinstance(config, self.kind):
            raise UserError(f"the config file's get_config() must return a {self.kind.__module__}.{self.kind.__name__}")
        return config, pathlib.Path(workdir)

    def mode(self) -> Mode:
        """How the console speaks, as far as the flags have been read."""
        return self.values.config.console if self.values.is_parsed() and self.values.config else Mode.AUTO
