"""The notebooks: short, without outputs, valid Python, and, in the slow tests, run from the first cell to the last in small."""

import ast
import json
import os
import pathlib

import plotly.graph_objects
import pytest

NOTEBOOKS = sorted((pathlib.Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
MOST = 90  # lines of code
SMALL = {"VARIANT": "tiny", "FULL": False}


def cells(path: pathlib.Path) -> list[dict]:
    """Cells with code, their source as one string."""
    found = json.loads(path.read_text())["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in found if cell["cell_type"] == "code"]


def test_there_are_four():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stripped_short_and_valid(path):
    code = cells(path)
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    lines = [line for cell in code for line in cell["source"].splitlines() if line.strip() and not line.strip().startswith("#")]
    assert len(lines) < MOST and max(map(len, lines)) <= 140
    for cell in code:
        ast.parse(cell["source"])
    assert "REPOSITORY" in code[0]["source"] and "pip" in code[0]["source"], "the first cell installs"
    tagged = [cell for cell in code if "parameters" in cell["metadata"].get("tags", ())]
    names = {target.id for node in ast.parse(tagged[0]["source"]).body if isinstance(node, ast.Assign) for target in node.targets}
    assert len(tagged) == 1 and "WORKDIR" in names and names & set(SMALL)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_imports_of_the_library_is_there(path):
    for cell in cells(path):
        for node in ast.walk(ast.parse(cell["source"])):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "lmindexer_jax":
                exec(f"from {node.module} import {', '.join(alias.name for alias in node.names)}", {})


def play(path: pathlib.Path, parameters: dict) -> list[object]:
    """Run the cells in one namespace, as a kernel would; after the cell of parameters ours are set, as papermill does.

    Returns:
      what the cells would show: their last expressions.
    """
    names, shown = {"__name__": "__main__"}, []
    for number, cell in enumerate(cells(path)):
        body = ast.parse(cell["source"])
        last = body.body.pop() if isinstance(body.body[-1], ast.Expr) else None
        where = f"{path.stem}, cell {number}"
        exec(compile(body, where, "exec"), names)
        if last is not None:
            shown.append(eval(compile(ast.Expression(last.value), where, "eval"), names))
        if "parameters" in cell["metadata"].get("tags", ()):
            names |= {name: value for name, value in parameters.items() if name in names}
    return shown


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, home):
    """The first three share a run, as they would on somebody's disk."""
    before = pathlib.Path.cwd()
    os.chdir(home)
    try:
        shown = play(path, SMALL | {"WORKDIR": home / ("paper" if path.stem.startswith("04") else "quickstart")})
    finally:
        os.chdir(before)
    charts = [value for value in shown if isinstance(value, plotly.graph_objects.Figure)]
    assert charts and all(chart.data and all(len(trace.to_plotly_json()) > 1 for trace in chart.data) for chart in charts)
