"""(slow) What a browser makes of the page, from answers that are made up."""

import re

import browser
import pytest
import server

from lmindexer_jax.errors import UserError
from lmindexer_jax.serving.app import make_app

pytestmark = pytest.mark.slow


def beam(prefix: str, probability: float, **more) -> dict:
    return {"prefix": prefix, "log_prob": -1.0, "probability": probability, "given": 0.5, "documents": 2, "words": [], "categories": [], "continued": True} | more


def hit(prefix: str, **more) -> dict:
    parts = prefix.split("-")
    return {
        "rank": 1, "document": "d1", "full_id": prefix + "-0", "log_prob": -1.0, "probability": 0.3, "similarity": None, "text": "",
        "path": [], "words": [], "prefixes": ["-".join(parts[: t + 1]) for t in range(len(parts))],
    } | more  # fmt: skip


class Made:
    """In the place of `Answers`: whatever is asked, `hits` and `positions`."""

    def __init__(self):
        self.asked = []
        self.hits = [hit("0-1", path=["Tools", "Size > 10"], words=["lamp"])]
        self.positions = [
            {
                "position": 1, "codes": 4, "kept": 1.0, "alive": 2,
                "beams": [beam("0", 0.6, words=["lamp", "d-printer", "oil"]), beam("2", 0.4)],
            },
            {
                "position": 2, "codes": 4, "kept": 0.8, "alive": 100,
                "beams": [beam("0-1", 0.3), beam("0-3", 0.2, continued=False)],
            },
        ]  # fmt: skip

    def about(self) -> dict:
        return {"title": "made", "documents": 3, "codes": [4, 4], "categories": True, "texts": True, "examples": [], "version": "0"}

    def search(self, query: str, **asked) -> dict:
        self.asked.append(asked)
        if query == "none":
            raise UserError("nothing is called so")
        return {"query": query, "words": ["d-printer"], "k": 10, "milliseconds": 1.0, "hits": self.hits, "positions": self.positions}


@pytest.fixture(scope="module")
def made():
    return Made()


@pytest.fixture(scope="module")
def port(made):
    with server.serving(make_app(made, hosts=("127.0.0.1",))) as port:
        yield port


@pytest.fixture(params=[False, True], ids=["light", "dark"], scope="module")
def page(port, request, tmp_path_factory):
    with browser.Browser(tmp_path_factory.mktemp("page"), width=1280, dark=request.param) as page:
        page.open(f"http://127.0.0.1:{port}/")
        page.until("document.body && document.body.dataset.ready === 'start'")
        yield page


def search(page, query: str) -> None:
    page.do(f"$('q').value = {query!r}; go()")
    page.until("document.body.dataset.ready === 'answer'")


def test_a_refusal_is_told_whoever_refuses(page):
    search(page, "none")
    status = "document.getElementById('status').textContent"
    assert page.do(status) == "nothing is called so"
    page.do("window.kept = window.fetch; window.fetch = async () => new Response('Service Unavailable', { status: 503 })")
    search(page, "some")
    assert page.do(status) == "The server refused with status 503. Ask again in a moment."
    page.do("window.fetch = async () => { throw new TypeError('Failed to fetch'); }")
    search(page, "more")
    assert page.do(status) == "The server does not answer. Is it still running?"
    page.do("window.fetch = window.kept")
    search(page, "again")
    assert page.do(status) == "1 document in 1.0 ms"


def test_every_name_of_a_path_can_be_chosen(made, page):
    search(page, "narrow")
    for number, names in enumerate((("Tools",), ("Tools", "Size > 10"))):
        page.do(f"document.querySelectorAll('.crumbs button')[{number}].click()")
        page.until("document.body.dataset.ready === 'answer'")
        assert made.asked[-1]["category"] == names
        assert page.do("document.getElementById('within').textContent") == f"only {' › '.join(names)}  ✕"
    page.do("window.old = true; location.reload()")
    page.until("!window.old && document.body && document.body.dataset.ready === 'answer'")
    assert made.asked[-1]["category"] == ("Tools", "Size > 10"), "the address says it, too"
    page.do("document.getElementById('within').click()")
    page.until("document.body.dataset.ready === 'answer'")
    assert made.asked[-1]["category"] == () and "category" not in page.do("location.search")


def test_the_server_says_which_words_are_shared(page):
    search(page, "3d-printer")
    shown = "[...document.querySelectorAll('.why {}')].map(each => each.textContent)"
    assert page.do(shown.format("mark")) == ["d-printer"] and page.do(shown.format("b")) == ["lamp"]
    page.do("light('0')")
    assert page.do("document.querySelector('#told mark').textContent") == "d-printer"


def test_beams_are_told_as_the_server_counts_them(page):
    search(page, "beams")
    heads = page.do("[...document.querySelectorAll('.column h3 span')].map(each => each.textContent)")
    assert heads == ["2 kept hold 100 %", "100 kept hold 80 %; 2 shown"]
    ended = page.do("[...document.querySelectorAll('.beam.ended')].map(each => each.dataset.prefix)")
    assert ended == ["0-3"], "what goes on unseen was not given up"


def test_a_new_answer_begins_with_nothing_lit(page):
    search(page, "first")
    page.do("document.querySelector('.beam').click()")
    assert page.do("columns.classList.contains('looking')")
    search(page, "second")
    assert not page.do("columns.classList.contains('looking')"), "all would be pale"


def luminance(colour: str) -> float:
    """Relative, as WCAG 2 has it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


SEEN = """(() => {
  const of = (node, name) => getComputedStyle(node)[name], card = of(columns, "backgroundColor");
  const solid = colour => colour === "rgba(0, 0, 0, 0)" ? card : colour;
  return [...document.querySelectorAll(".beam")].flatMap(beam => [...beam.querySelectorAll("b, span")].map(text => ({
    of: `${beam.className} ${text.className}`, ink: of(text, "color"), opacity: of(beam, "opacity"),
    paper: [of(beam.querySelector("i"), "backgroundColor"), solid(of(beam, "backgroundColor"))] })));
})()"""


def test_every_beam_can_be_read(page):
    search(page, "contrast")
    page.until("!columns.classList.contains('growing')")
    seen = page.do(SEEN)
    assert {each["of"] for each in seen} >= {"beam number", "beam ended number", "beam ended words"}
    for each in seen:
        assert each["opacity"] == "1", each
        for paper in each["paper"]:
            dark, light = sorted([luminance(each["ink"]), luminance(paper)])
            assert (light + 0.05) / (dark + 0.05) >= 4.5, each
    assert page.do("getComputedStyle(document.querySelector('.beam.ended')).borderTopStyle") == "dashed"


def test_only_the_status_is_read_out_unasked(page):
    """A beam's button says what is shown below the beams while it has the focus: it would be said twice."""
    assert page.do("[...document.querySelectorAll('[aria-live]')].map(each => each.id)") == ["status"]
