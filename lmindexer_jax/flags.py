"""Config files, and the two flags of every command that is set by one: --config and --workdir."""

import dataclasses
import importlib.util
import pathlib
import sys
from collections.abc import Iterator
from typing import NoReturn

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


def settings(config: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every field of a dataclass and of those in it, by its dotted name."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from settings(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


class Flags:
    """--config, a Python file whose get_config() returns a dataclass of one kind, and --workdir.

    Args:
      kind: what get_config() must return; it has a field `console`.
      example: a command line that is right, for the one who gave a wrong one.
    """

    def __init__(self, kind: type, *, example: str):
        self.kind, self.example = kind, example
        self.values, self.console = flags.FlagValues(), Mode.AUTO
        what = f"a Python file whose get_config() returns a {kind.__name__}; x.py:tiny shrinks it"
        config_flags.DEFINE_config_file("config", None, what, flag_values=self.values)
        flags.DEFINE_string("workdir", None, "where everything that the run makes is kept", flag_values=self.values)

    def parse(self, arguments: list[str]) -> tuple:
        """Settings and workdir.

        Raises:
          UserError: an unknown flag or field, or a value of the wrong type.
        """
        asked = {"--help", "-h", "-help", "--helpfull"} & set(arguments)
        try:
            rest = self.values([argument for argument in arguments if argument not in asked])
            config, workdir = self.values.config, self.values.workdir
            if hasattr(config, "console"):  # where a file is missed when it is looked at
                self.console = config.console
        except AttributeError as error:
            if "get_config" not in str(error):
                raise
            raise UserError(f"--config: the file has no get_config(), which returns a {self.kind.__name__}") from None
        except (flags.Error, KeyError, OSError) as error:
            raise UserError(str(error.args[-1] if isinstance(error, KeyError) else error)) from None
        if asked:
            self._help(config)
        if len(rest) > 1:
            raise UserError(f"unknown argument {rest[1]!r}; settings are given as --config.name=value")
        if config is None or workdir is None:
            raise UserError(f"give --config and --workdir, as in {self.example}")
        if not isinstance(config, self.kind):
            raise UserError(f"the config file's get_config() must return a {self.kind.__module__}.{self.kind.__name__}")
        return config, pathlib.Path(workdir)

    def _help(self, config: object) -> NoReturn:
        """Say what the command takes, with the values that a given config sets, and end."""
        print(f"usage: {self.example} [--config.FIELD=VALUE ...]\n\nfields" + (":" if config else ", as they are without a config:"))
        for name, value in settings(config or self.kind()):
            print(f"  --config.{name}={value if isinstance(value, str) else repr(value)}")
        print("\nWhat they mean stands beside them in the code; docs/architecture.md says where.")
        sys.exit(0)

    def mode(self) -> Mode:
        """How the console speaks, as far as the flags have been read."""
        return self.console
