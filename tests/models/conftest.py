"""The golden files, and Hugging Face directories made from them."""

import json
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
import safetensors.numpy

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"

Golden = dict[str, dict[str, np.ndarray]]


def read_golden(name: str) -> Golden:
    """The arrays of one golden file by group, and `config` as a dict."""
    groups: Golden = {}
    with np.load(GOLDEN / f"{name}.npz") as file:
        groups["config"] = json.loads(str(file["config"]))
        for path in file.files:
            if path != "config":
                group, _, key = path.partition("/")
                groups.setdefault(group, {})[key] = file[path]
    return groups


@pytest.fixture
def golden() -> Callable[[str], Golden]:
    """Reader of the golden files."""
    return read_golden


@pytest.fixture
def hugging_face(tmp_path: pathlib.Path) -> Callable[[str], pathlib.Path]:
    """Writer of a golden model as the directory that transformers had written."""

    def write(name: str) -> pathlib.Path:
        made = read_golden(name)
        directory = tmp_path / name
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(made["config"]))
        safetensors.numpy.save_file(made["weight"], directory / "model.safetensors")
        return directory

    return write
