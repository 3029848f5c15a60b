"""bakeoff.html: a bake-off's comparison as one page that asks nothing of the network."""

import importlib.resources
import json
import pathlib

from lmindexer_jax.evaluation.report import finite, pack
from lmindexer_jax.files import replacing


def write_page(result: dict, path: pathlib.Path) -> None:
    """Write the page.

    Args:
      result: what bakeoff.json holds.
      path: of the page.
    """
    shown = dict(result, indexers=[{name: part for name, part in row.items() if name != "cells"} for row in result["indexers"]])
    page = importlib.resources.files(__package__).joinpath("comparison.html").read_text(encoding="utf-8")
    page = page.replace("{{content}}", pack(json.dumps(finite(shown), ensure_ascii=False, separators=(",", ":"))))
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
