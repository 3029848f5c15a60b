"""Runs the published recipe and its three ablations in small and draws how each fails: results/collapse.json, figures/collapse.svg.

    python docs/figures/collapse.py            # about four minutes
    python docs/figures/collapse.py --drawn    # draws again what was measured
"""

import html
import json
import pathlib
import subprocess
import sys
import tempfile

DOCS = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(DOCS.parent), str(DOCS.parent / "tests")]

import collapses  # noqa: E402

from lmindexer_jax.evaluation.health import HealthConfig  # noqa: E402

RESULT = DOCS / "results" / "collapse.json"
NAMES = {
    "published": "the published recipe",
    "ablations/no_progression": "without progression",
    "ablations/no_warm_up": "without warm-up",
    "ablations/no_reconstruction": "without reconstruction",
}
LIMITS = HealthConfig()
PANELS = (  # title, unit, value of a run, where health ends, whether it lies above, most that is shown
    ("Codes in even use", "share of the documents in one code", lambda row: row["largest_share"], LIMITS.most_largest_share, False, 0.5),
    (
        "Codes inform about words",
        "nats a token, over dealt codes",
        lambda row: row["own_bow_gain"] - row["random_bow_gain"],
        LIMITS.least_information,
        True,
        0.4,
    ),
    (
        "The reconstructor listens",
        "nats a token, over word frequencies",
        lambda row: row["unigram_nats"] - row["nats"],
        LIMITS.least_nats,
        True,
        0.5,
    ),
)
LEFT, TOP, ROW, BAR, WIDTH, GAP = 182, 64, 44, 18, 190, 36
GOOD, BAD, INK, FAINT = "#3b7a57", "#b5452c", "#222222", "#999999"


def measure() -> dict:
    """Run all four and keep what was measured when the codes were assigned."""
    with tempfile.TemporaryDirectory() as home:
        runs = {name: collapses.run(name, pathlib.Path(home)) for name in NAMES}
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=DOCS, capture_output=True, text=True, check=True).stdout.strip()
    return {
        "command": "python docs/figures/collapse.py",
        "git": git,
        "documents": {name: collapses.RUNS[name] for name in NAMES},
        "runs": {name: stages["position-1/assign"] for name, stages in runs.items()},
    }


def draw(runs: dict[str, dict]) -> str:
    """Three panels of bars side by side, a row for every run; a bar on the wrong side of the detector's limit is red."""
    parts = []

    def text(x: float, y: float, words: str, *, colour: str = INK, size: int = 13, anchor: str = "start") -> None:
        parts.append(f'<text x="{x:g}" y="{y:g}" fill="{colour}" font-size="{size}" text-anchor="{anchor}">{html.escape(words)}</text>')

    def bar(x: float, y: float, width: float, colour: str) -> None:
        parts.append(f'<rect x="{x:g}" y="{y:g}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>')

    for number, (name, said) in enumerate(NAMES.items()):
        y = TOP + number * ROW
        text(LEFT - 12, y + 13, said, anchor="end")
        text(LEFT - 12, y + 28, ", ".join(runs[name]["found"]) or "healthy", colour=BAD if runs[name]["found"] else GOOD, size=11, anchor="end")
    for number, (title, unit, value_of, limit, above, most) in enumerate(PANELS):
        x = LEFT + number * (WIDTH + GAP)
        text(x, 22, title)
        text(x, 40, unit, colour=FAINT, size=11)
        edge = x + WIDTH * limit / most
        for row, name in enumerate(NAMES):
            y, judged = TOP + row * ROW, not (number == 2 and name == "ablations/no_reconstruction")
            if not judged:
                text(x, y + 13, "not trained", colour=FAINT, size=11)
                continue
            value = value_of(runs[name])
            bar(x, y, WIDTH * min(max(value, 0.01 * most), most) / most, GOOD if (value >= limit) == above else BAD)
            text(x + WIDTH * min(max(value, 0), most) / most + 4, y + 13, f"{value:.2f}", size=11)
        bottom = TOP + len(NAMES) * ROW - 18
        parts.append(f'<line x1="{edge:g}" y1="{TOP - 8}" x2="{edge:g}" y2="{bottom}" stroke="{INK}" stroke-dasharray="3 3"/>')
    width, height = LEFT + len(PANELS) * (WIDTH + GAP) + 10, TOP + len(NAMES) * ROW
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="white"/>', *parts, "</svg>"]) + "\n"


def main() -> None:
    """Measure unless told not to, and draw."""
    if "--drawn" not in sys.argv[1:]:
        RESULT.write_text(json.dumps(measure(), indent=1) + "\n")
    (DOCS / "figures" / "collapse.svg").write_text(draw(json.loads(RESULT.read_text())["runs"]))


if __name__ == "__main__":
    main()
