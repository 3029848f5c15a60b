"""The house rules, read from the source: who may import whom, what belongs in one file alone, and what is not done."""

import ast
import functools
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "lmindexer_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(PACKAGE)) for path in FILES]

# The floors from the ground up. A file imports from its own floor's room or from floors below.
FLOORS = {
    "__init__": 0, "errors": 0,
    "console": 1, "files": 1, "memory": 1, "typed": 1,
    "flags": 2, "output": 2, "data": 2, "models": 2, "training": 2,
    "indexing": 3,
    "evaluation": 4, "retrieval": 4,
    "config": 5,
    "recipes": 6, "prepare": 6, "finished": 6,
    "conclude": 7, "protocol": 7, "text_history": 7,
    "run": 8, "next_item": 8, "serving": 8,
    "main": 9, "index": 9, "evaluate": 9, "explain": 9, "recommend": 9, "baselines": 9, "cells": 9, "finetune": 9,
    "search": 9, "serve": 9, "compare": 9, "export": 9,
    "bakeoff": 10,
}  # fmt: skip

# What one room or file has to itself.
ALONE = {
    r"flax(\.|$)": r"models/.*",
    r"jax\.sharding(\.|$)": r"training/sharding\.py",
    r"(starlette|uvicorn)(\.|$)": r"serving/.*|serve\.py",
    r"orbax(\.|$)": r"training/checkpoint\.py",
    r"tensorflow(\.|$)|torch(\.|$)|pickle(\.|$)": "nowhere",
}


@functools.cache
def tree(path):
    return ast.parse(path.read_text(), str(path))


@functools.cache
def imports(path):
    """Every module that a file imports, at its top or within a function, with the names taken from it."""
    found = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


@functools.cache
def attributes(path):
    """Dotted names used in a file, as `jax.sharding.Mesh`."""
    return [ast.unparse(node) for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)]


def room(name):
    """The part of the house that a file or module belongs to: its folder, or its own name at the top."""
    first = re.split(r"[/.]", name)[0]
    return "__init__" if first == "__version__" else first


def arrow_error(importer, imported):
    """Why `importer` may not import `imported`, both paths below the package; None where it may."""
    here, there = room(importer), room(imported)
    if here == there:
        return None
    if FLOORS[there] >= FLOORS[here]:
        return f"{importer} (floor {FLOORS[here]}) imports {imported} (floor {FLOORS[there]})"
    return None


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_imports_point_downwards(path):
    name = str(path.relative_to(PACKAGE))
    for module in imports(path):
        if module.startswith("lmindexer_jax."):
            assert not (error := arrow_error(name, module.removeprefix("lmindexer_jax."))), error


def test_the_three_rooms_on_the_ground_do_not_know_each_other():
    assert len({FLOORS[ground] for ground in ("data", "models", "training")}) == 1
    assert arrow_error("data/pipeline.py", "models.t5")
    assert arrow_error("training/steps.py", "data.pipeline")
    assert arrow_error("indexing/runner.py", "evaluation.report")
    assert not arrow_error("indexing/runner.py", "training.steps")
    assert not arrow_error("models/t5.py", "errors.UserError")


def test_every_room_has_a_floor():
    assert {room(name) for name in NAMES} == set(FLOORS)


@pytest.mark.parametrize("module", ALONE)
def test_what_belongs_to_one_room_stays_there(module):
    allowed = re.compile(ALONE[module])
    used = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        if any(re.match(module, name) for name in [*imports(path), *attributes(path)])
    }
    assert not [name for name in used if not allowed.fullmatch(name)]
    assert used or ALONE[module] == "nowhere", "the rule guards something that is there"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_error_is_swallowed(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: a bare except"
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            names = {ast.unparse(name) for name in caught}
            assert not names & {"Exception", "BaseException"}, f"line {node.lineno}: catch what can happen, by name"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_pickled_arrays(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert ast.unparse(node.value) == "False", f"line {node.value.lineno}"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_everything_public_says_what_it_is(path):
    module = tree(path)
    assert path.name == "__init__.py" or ast.get_docstring(module), "the file"
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name
            for method in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(method, ast.FunctionDef) and not re.match("_|setup$", method.name):
                    assert ast.get_docstring(method), f"{node.name}.{method.name}"
