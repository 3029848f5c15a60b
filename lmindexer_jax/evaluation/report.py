"""report.html: what a run did, what it cost, whether its IDs are healthy, and what they mean.

One file that asks nothing of the network: the page, the plotting library and the data, the latter two compressed (the
browser unpacks them). The tree of prefixes is drawn as it is opened, so that many documents open fast.
"""

import base64
import gzip
import importlib.resources
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from lmindexer_jax.errors import UserError
from lmindexer_jax.evaluation import examples
from lmindexer_jax.evaluation.explain import distinguishing_words
from lmindexer_jax.evaluation.id_quality import prefix_ids
from lmindexer_jax.evaluation.text_space import TextSpace, text_space
from lmindexer_jax.files import replacing
from lmindexer_jax.training import journal

MOST_DOCUMENTS = 50_000  # in the tree; of a larger corpus every n-th in the order of the IDs
MOST_POINTS = 200  # of a curve per stage
SNIPPET = 160  # characters of a document's text
LISTED = 12  # documents of a prefix that the page lists one and all
NOT_CURVES = {"number", "time", "step", "steps", "position"}


def write_report(
    workdir: pathlib.Path,
    *,
    codes: Int[np.ndarray, "N T"],
    ids: Sequence[str],
    text: Callable[[int], str],
    paths: Callable[[int], Sequence[str]] | None = None,
) -> pathlib.Path:
    """Write `report.html` into a workdir, from its plan.json, metrics.jsonl and summary.json as far as they exist.

    Findings are rows of metrics.jsonl (`"event": "finding"`) and those that summary.json lists as `findings`.

    Args:
      workdir: of the run.
      codes: of all documents.
      ids: the documents' own identifiers.
      text: document number to its text.
      paths: document number to its category path, root first.

    Returns:
      the file.

    Raises:
      UserError: a file of the workdir is damaged.
    """
    rows = list(journal.read(workdir / "metrics.jsonl"))
    summary = read_json(workdir / "summary.json")
    events = [row for row in rows if "event" in row]
    content = {
        "plan": read_json(workdir / "plan.json"),
        "summary": summary,
        "curves": curves(row for row in rows if "event" not in row),
        "health": [row for row in events if row["event"] != "finding"],
        "findings": [row for row in events if row["event"] == "finding"] + summary.get("findings", []),
        "sizes": [np.sort(np.bincount(column))[::-1].tolist() for column in codes.T],
        "tree": tree(codes, ids=ids, text=text, paths=paths),
    }
    page = importlib.resources.files(__package__).joinpath("report.html").read_text(encoding="utf-8")
    # The template's two holes; base64 can hold neither of their names.
    page = page.replace("{{library}}", pack(plotting_library()))
    page = page.replace("{{content}}", pack(json.dumps(finite(content), ensure_ascii=False, separators=(",", ":"))))
    report = workdir / "report.html"
    with replacing(report) as path:
        path.write_text(page, encoding="utf-8")
    return report


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """A JSON object, {} where there is no file."""
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); run the same command again to have it made anew") from None


def plotting_library() -> str:
    """The JavaScript of plotly."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def pack(text: str) -> str:
    """gzip in base64, the same for the same text."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def finite(value: Any) -> Any:
    """The same with None in place of NaN and infinity, which JSON has no words for, and plain numbers for NumPy's."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def curves(rows: Iterable[dict]) -> list[dict]:
    """Training scalars per stage, averaged down to `MOST_POINTS`; `x` counts steps through the whole run."""
    stages: dict[str, dict] = {}
    for number, row in enumerate(rows):
        stage = stages.setdefault(row["stage"], {"name": row["stage"], "position": row.get("position"), "x": [], "rows": []})
        stage["x"].append(number)
        stage["rows"].append(row)
    for stage in stages.values():
        rows = stage.pop("rows")
        names = {name: None for row in rows for name, value in row.items() if isinstance(value, (int, float))}
        parts = np.array_split(np.arange(len(rows)), min(MOST_POINTS, len(rows)))
        stage["x"] = [stage["x"][part[-1]] for part in parts]
        stage["series"] = {
            name: [average([rows[i].get(name) for i in part]) for part in parts] for name in names if name not in NOT_CURVES
        }
    return list(stages.values())


def average(values: list[float | None]) -> float | None:
    """Mean of what is there, to five digits."""
    there = [value for value in values if value is not None and math.isfinite(value)]
    return float(f"{sum(there) / len(there):.5g}") if there else None


def tree(
    codes: Int[np.ndarray, "N T"],
    *,
    ids: Sequence[str],
    text: Callable[[int], str],
    paths: Callable[[int], Sequence[str]] | None,
) -> dict[str, Any]:
    """Documents in the order of their IDs; for every depth where its prefixes start, their sizes, words and examples.

    Examples are `typical` documents per prefix, and `borderline` ones with the first document of the sibling that is
    nearly as near. Prefixes whose documents are listed one and all have none.
    """
    order = np.lexsort(codes.T[::-1])
    step = -(-len(order) // MOST_DOCUMENTS)
    shown = order[::step]
    whole = prefix_ids(codes)
    prefixes = prefix_ids(codes[shown])
    texts = [text(int(document)) for document in shown]
    space = text_space(texts)
    best = distinguishing_words(space, prefixes)
    used = sorted({word for depth in best for prefix in depth for word in prefix})
    place = {word: number for number, word in enumerate(used)}
    depths = []
    for t, prefix in enumerate(prefixes.T):
        starts = np.flatnonzero(np.diff(prefix, prepend=-1))
        sizes = np.bincount(whole[:, t])[whole[shown[starts], t]]
        typical, borderline = examples_of(space, prefix, prefixes[:, t - 1] if t else np.zeros_like(prefix), starts=starts)
        depths.append(
            {
                "starts": starts.tolist(),
                "sizes": sizes.tolist(),
                "words": [[place[word] for word in prefix_words] for prefix_words in best[t]],
                "typical": typical,
                "borderline": borderline,
            }
        )
    categories = [tuple(paths(int(document))) for document in shown] if paths else []
    known = {path: number for number, path in enumerate(sorted(set(categories)))}
    return {
        "documents": len(codes),
        "codes": codes[shown].tolist(),
        "ids": [str(ids[int(document)]) for document in shown],
        "texts": [snippet(document) for document in texts],
        "words": [space.vocabulary[word] for word in used],
        "depths": depths,
        "paths": list(known),
        "path": [known[path] for path in categories],
    }


def examples_of(
    space: TextSpace, prefix: Int[np.ndarray, " N"], parent: Int[np.ndarray, " N"], *, starts: Int[np.ndarray, " P"]
) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Typical documents of every prefix, and [document, first document of the sibling] of borderline ones."""
    typical: list[list[int]] = [[] for _ in starts]
    borderline: list[list[list[int]]] = [[] for _ in starts]
    ends = np.append(starts[1:], len(prefix))
    large = ends - starts > LISTED
    for family in np.unique(parent[starts[large]]):
        members = np.flatnonzero(parent == family)
        fitted = examples.fit(space, members, prefix[members])
        for child in np.unique(prefix[members]):
            if large[child]:
                mine = np.flatnonzero(prefix[members] == child)
                its = examples.Fit(*(part[mine] for part in fitted))
                best = examples.typical(its, most=3)
                unsure = [i for i in examples.borderline(its, most=2) if i not in best]
                typical[child] = members[mine[best]].tolist()
                borderline[child] = [[int(members[mine[i]]), int(starts[its.sibling[i]])] for i in unsure]
    return typical, borderline


def snippet(text: str) -> str:
    """The beginning of a text on one line."""
    text = " ".join(text[: 4 * SNIPPET].split())
    return text if len(text) <= SNIPPET else text[: SNIPPET - 1].rstrip() + "…"
