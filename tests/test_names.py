"""Every global name that a function of the package reads is there, and all that scripts import of the package: what no test
happens to call is read as well."""

import ast
import builtins
import dis
import importlib
import pathlib
import pkgutil
import types

import pytest

import lmindexer_jax

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = sorted(str(path.relative_to(ROOT)) for folder in ("benchmarks", "docs", "tests") for path in (ROOT / folder).rglob("*.py"))
MODULES = sorted(module.name for module in pkgutil.walk_packages(lmindexer_jax.__path__, "lmindexer_jax."))


def read(code: types.CodeType) -> set[str]:
    """Global names that a piece of code and all within it read."""
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}.union(*map(read, inner))


@pytest.mark.parametrize("name", MODULES)
def test_names_are_there(name):
    module = importlib.import_module(name)
    code = module.__loader__.get_code(name)
    assert not [word for word in read(code) if word not in vars(module) and not hasattr(builtins, word)]


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_a_script_imports_is_there(name):
    lost = []
    for node in ast.walk(ast.parse((ROOT / name).read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lmindexer_jax"):
            module = importlib.import_module(node.module)
            lost += [f"{node.module}.{each.name}" for each in node.names if each.name not in submodules(module) | vars(module).keys()]
    assert not lost


def submodules(module: types.ModuleType) -> set[str]:
    """Names of the modules of a package."""
    return {each.name for each in pkgutil.iter_modules(getattr(module, "__path__", []))}
