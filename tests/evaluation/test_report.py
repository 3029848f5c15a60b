"""The report: what goes into it, and (slow) what a browser makes of it."""

import base64
import gzip
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from lmindexer_jax.errors import UserError
from lmindexer_jax.evaluation.report import curves, write_report
from lmindexer_jax.evaluation.table import Evidence, evaluate_table

TOPICS = ("lipstick", "shampoo", "perfume", "sunscreen")
CODES = np.array([[i % 4, (i // 4) % 5, i % 3] for i in range(120)], np.int32)
IDS = [f"item-{i}" for i in range(120)]
TEXTS = [f"{TOPICS[i % 4]} number {i}\n<b>bold</b> shade{(i // 4) % 5} </script>" for i in range(120)]
PATHS = [("Beauty", TOPICS[i % 4].title(), f"Kind {i % 3}") for i in range(120)]


def fill(workdir):
    """What a run leaves behind."""
    stages, rows = [], []
    for position in (1, 2, 3):
        for kind, steps in (("continuous", 250), ("quantised", 500), ("assign", 0)):
            name = f"position-{position}/{kind}"
            stages.append({"name": name, "steps": steps, "epochs": 1.0, "estimated_seconds": 9.0, "seconds": 7.5, "peak_memory_mb": 300.0})
            rows += [
                {"stage": name, "kind": kind, "position": position, "step": s, "steps": steps, "time": 1.0, "loss": 9 / (s + 1), "perplexity": 3.5}
                for s in range(steps)
            ]
            rows.append({"event": "stage", "stage": name, "position": position, "nats": 5.0, "shuffled_nats": float("nan")})
    finding = {"mode": "prefix drift", "stage": "table", "evidence": "codes <moved>", "remedy": "hold them"}
    rows.append({"event": "finding", **finding, "mode": "posterior collapse"})
    labels = [np.array([i % 4 for i in range(120)]), np.array([i % 12 for i in range(120)])]
    ami = evaluate_table(CODES, (5, 5, 5), Evidence(labels))["agreement"]
    summary = {
        "findings": [finding],
        "rows": [{"position": t + 1, "codes": 5, "usage": 0.8, "perplexity": 4.0 - t, "bow_gain": 0.5} for t in range(3)],
        "collisions": {"distinct": 60, "distinct_share": 0.5},
        "ami": ami,
        "prefixes": [
            {"codes": "c1", "distinct": 4, "perplexity": 4.0, "neighbours": {"share": 0.4, "agreement": 0.3}},
            {"codes": "c1..c2", "distinct": 20, "perplexity": 9.0, "bow_gain": 0.5, "over_reference": {"bow_gain": 0.1}},
        ],
        "baseline": {"what": "k-means", "perplexity": 3.3, "bow_gain": 0.4, "ami": ami[:2]},
    }
    (workdir / "plan.json").write_text(json.dumps({"run": {"corpus": "made <things>", "documents": 120}, "stages": stages}))
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (workdir / "summary.json").write_text(json.dumps(summary))


def write(workdir, **changes):
    given = {"codes": CODES, "ids": IDS, "text": TEXTS.__getitem__, "paths": PATHS.__getitem__} | changes
    return write_report(workdir, **given)


def content(report):
    """The data that a page carries."""
    packed = re.search(r'id="content">([^<]*)<', report.read_text()).group(1)
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_tree_holds_every_document_in_the_order_of_ids(tmp_path):
    tree = content(write(tmp_path))["tree"]
    assert tree["codes"] == sorted(CODES.tolist())
    number = {document: row for row, document in enumerate(tree["ids"])}
    assert sorted(number) == sorted(IDS)
    for i in (0, 7, 119):
        row = number[IDS[i]]
        assert tree["codes"][row] == CODES[i].tolist() and tree["texts"][row] == " ".join(TEXTS[i].split())
        assert tuple(tree["paths"][tree["path"][row]]) == PATHS[i]
    for t, depth in enumerate(tree["depths"]):
        prefixes, counts = np.unique(CODES[:, : t + 1], axis=0, return_counts=True)
        assert depth["sizes"] == counts.tolist()
        assert [tree["codes"][start][: t + 1] for start in depth["starts"]] == prefixes.tolist()
        assert len(depth["words"]) == len(prefixes)
    assert [tree["words"][words[0]] for words in tree["depths"][0]["words"]] == list(TOPICS)


def test_prefixes_that_are_not_listed_whole_have_examples(tmp_path):
    codes = CODES.copy()
    codes[4, 0] = 1  # a lipstick among shampoos
    tree = content(write(tmp_path, codes=codes))["tree"]
    first = tree["depths"][0]
    for index, start in enumerate(first["starts"]):
        kind = [tree["texts"][document].split()[0] for document in first["typical"][index]]
        assert kind == [TOPICS[tree["codes"][start][0]]] * 3
    ((stray, sibling),) = first["borderline"][1]
    assert tree["ids"][stray] == "item-4" and tree["codes"][sibling][0] == 0
    assert tree["depths"][1]["typical"] == [[]] * len(tree["depths"][1]["starts"]), "small ones are listed"


def test_a_large_corpus_is_thinned_but_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("lmindexer_jax.evaluation.report.MOST_DOCUMENTS", 50)
    tree = content(write(tmp_path))["tree"]
    assert len(tree["ids"]) == 40 and tree["documents"] == 120
    assert tree["depths"][0]["sizes"] == [30, 30, 30, 30]


def test_curves_are_averaged_down():
    rows = [{"stage": "a", "position": 1, "step": i, "kind": "k", "loss": float(i)} for i in range(1000)]
    rows += [{"stage": "b", "position": 2, "step": 0, "loss": 5.0, "extra": float("nan")}]
    first, second = curves(rows)
    assert len(first["x"]) == len(first["series"]["loss"]) == 200 and first["x"][-1] == 999
    assert first["series"]["loss"][0] == pytest.approx(2.0) and list(first["series"]) == ["loss"]
    assert second["x"] == [1000] and second["series"] == {"loss": [5.0], "extra": [None]}


def test_events_and_summary_go_in(tmp_path):
    fill(tmp_path)
    data = content(write(tmp_path))
    assert [row["mode"] for row in data["findings"]] == ["posterior collapse", "prefix drift"]
    assert len(data["health"]) == 9 and data["health"][0]["shuffled_nats"] is None
    assert data["summary"]["collisions"]["distinct"] == 60 and len(data["curves"]) == 6
    assert data["sizes"][0] == [30, 30, 30, 30]


def test_an_empty_workdir_and_no_categories_are_enough(tmp_path):
    data = content(write(tmp_path, paths=None))
    assert data["plan"] == {} and data["tree"]["path"] == [] and len(data["tree"]["ids"]) == 120


def test_the_page_asks_nothing_of_the_network_and_trusts_no_text(tmp_path):
    fill(tmp_path)
    page = write(tmp_path).read_text()
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page) and "@import" not in page
    assert "innerHTML" not in page and "lipstick" not in page and "{{" not in page


def test_the_same_run_gives_the_same_bytes(tmp_path):
    fill(tmp_path)
    assert write(tmp_path).read_bytes() == write(tmp_path).read_bytes()


def test_a_damaged_file_is_one_clear_line(tmp_path):
    (tmp_path / "plan.json").write_text('{"run": ')
    with pytest.raises(UserError, match=r"plan.json: not JSON .*run the same command again"):
        write(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"loss": 1.5}\n{"lo\n')
    with pytest.raises(UserError, match=r"metrics.jsonl:2: damaged; .* run the same command again"):
        write(tmp_path)
    assert not (tmp_path / "report.html").exists()


# What a person would do: open a prefix, open what is below it, search. Results end up in the page, where --dump-dom sees them.
PERSON = """
<script>
const errors = [], told = text => document.body.dataset.told = (document.body.dataset.told || "") + text + "|";
addEventListener("error", event => told("ERROR " + event.message));
addEventListener("unhandledrejection", event => told("ERROR " + event.reason));
const person = setInterval(async () => {
  if (document.body.dataset.ready !== "all") return;
  clearInterval(person);
  const tree = document.getElementById("tree"), count = what => tree.querySelectorAll(what).length;
  told("roots " + count(".node"));
  const first = tree.querySelector(".node > button"); first.click();
  told("documents " + count(".document") + " nodes " + count(".node") + " " + first.getAttribute("aria-expanded"));
  tree.querySelector(".inside .node > button").click();
  told("deeper " + tree.querySelector(".inside .node").dataset.prefix + " " + (count(".inside .inside") === 1));
  first.click();
  told("closed " + tree.querySelector(".inside").hidden);
  const search = document.getElementById("search");
  const type = async text => { search.value = text; search.dispatchEvent(new Event("input")); await new Promise(done => setTimeout(done, 400)); };
  await type("SHAMPOO shade3");
  told("found " + tree.querySelector(".mix").textContent);
  await type("2-1");
  told("opened " + tree.querySelector(".inside .node.open").dataset.prefix);
  told("plots " + document.querySelectorAll(".plot.js-plotly-plot .main-svg:first-child").length + " of " + document.querySelectorAll(".plot").length);
  told("width " + (document.documentElement.scrollWidth <= innerWidth));
}, 50);
</script>
"""


def chromium(page, profile, *options):
    """Run Debian's Chromium without a window; its standard output and what the page's console said."""
    browser = shutil.which("chromium")
    assert browser, "this test looks at the report in a browser: apt-get install chromium"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    command += ["--disable-component-update", "--disable-sync", "--enable-logging=stderr", f"--user-data-dir={profile}"]
    command += ["--virtual-time-budget=20000", *options, page]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 500])
def test_in_a_browser(tmp_path, width):
    fill(tmp_path)
    report = write(tmp_path)
    report.write_text(report.read_text().replace("</head>", PERSON + "</head>"))
    dom, said = chromium(report.as_uri(), tmp_path / "profile", f"--window-size={width},1000", "--dump-dom")
    assert said == []
    told = re.search(r'data-told="([^"]*)"', dom).group(1).rstrip("|").split("|")
    assert told == [
        "roots 4",
        "documents 3 nodes 9 true",
        "deeper 0-0 true",
        "closed true",
        "found 6 documents; first codes: ",
        "opened 2-1",
        "plots 5 of 5",
        "width true",
    ]
    # Texts stay texts: no element was made of them.
    assert "&lt;b&gt;bold&lt;/b&gt;" in dom and "<b>bold</b>" not in dom
    assert "codes &lt;moved&gt;" in dom


@pytest.mark.slow
def test_a_prefix_has_an_address(tmp_path):
    fill(tmp_path)
    dom, said = chromium(write(tmp_path).as_uri() + "#tree=3-2", tmp_path / "profile", "--dump-dom")
    assert said == [] and re.search(r'class="node open" data-prefix="3-2"', dom)
    assert 'class="card finding"' in dom and 'class="card verdict"' not in dom


@pytest.mark.slow
@pytest.mark.parametrize(("address", "shown"), [("#100%", 'data-prefix="3"'), ("#tree=100%", "0 documents")])
def test_an_address_that_is_no_prefix_stops_nothing(tmp_path, address, shown):
    fill(tmp_path)
    dom, said = chromium(write(tmp_path).as_uri() + address, tmp_path / "profile", "--dump-dom")
    assert said == [] and 'data-ready="all"' in dom and shown in dom
