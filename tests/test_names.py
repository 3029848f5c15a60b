"""Every global name that a function of the package reads is there: what no test happens to call is read as well."""

import builtins
import dis
import importlib
import pkgutil
import types

import pytest

import lmindexer_jax

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
