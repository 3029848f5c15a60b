"""Prints the docstrings of packages' public objects as JSON lines: `python -m lmindexer_jax.data.builders.walk PACKAGE ...`.

A process of its own, because importing every module of a package changes global state, prints, and warns.
"""

import importlib
import importlib.abc
import inspect
import json
import pkgutil
import sys
import types
import warnings
from collections.abc import Iterator

_NO_API = {"tests", "testing", "conftest", "setup"}
_SHORTEST = 60  # characters of a raw docstring; below stand placeholders and bare signatures


class _Refuse(importlib.abc.MetaPathFinder):
    """Hides heavy optional packages, so that the same modules are found on every machine."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] in ("tensorflow", "torch"):
            raise ModuleNotFoundError(f"{fullname} is not used here", name=fullname)
        return None


def walk(packages: list[str]) -> dict[str, list[str]]:
    """Maps each docstring to the public names of the objects that bear it, re-exports included."""
    found: dict[str, list[str]] = {}
    for package in packages:
        for module in _modules(package):
            for name, value in _public(module, package):
                doc = inspect.getdoc(value)
                if isinstance(doc, str) and len(doc) >= _SHORTEST:
                    found.setdefault(doc, []).append(name)
    return found


def _modules(name: str) -> Iterator[types.ModuleType]:
    try:
        module = importlib.import_module(name)
    except (ImportError, AttributeError, RuntimeError):  # parts for hardware or packages that are not here
        return
    yield module
    for info in pkgutil.iter_modules(getattr(module, "__path__", [])):
        if not info.name.startswith("_") and info.name not in _NO_API:
            yield from _modules(f"{name}.{info.name}")


def _public(module: types.ModuleType, package: str) -> Iterator[tuple[str, object]]:
    """The module itself and the functions and classes of its package that it offers."""
    yield module.__name__, module
    for name in getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]:
        value = getattr(module, name, None)
        home = getattr(value, "__module__", None)
        foreign = isinstance(home, str) and home.split(".")[0] != package
        if callable(value) and not foreign:
            yield f"{module.__name__}.{name}", value


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.meta_path.insert(0, _Refuse())
    output, sys.stdout = sys.stdout, sys.stderr  # what modules print on import is not part of the result
    for docstring, names in walk(sys.argv[1:]).items():
        output.write(json.dumps({"names": names, "doc": docstring}) + "\n")
