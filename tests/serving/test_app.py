"""The interface: what it answers, what it refuses, and that no input makes it fall over."""

import json
import queue
import re
import threading

import numpy as np
import pytest
import retrievers
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from lmindexer_jax.evaluation.gloss import Gloss
from lmindexer_jax.evaluation.id_quality import prefix_ids
from lmindexer_jax.retrieval.searcher import Hit, Searcher, Step, Trace
from lmindexer_jax.serving.answers import Answers
from lmindexer_jax.serving.app import Limits, make_app

LIMITS = Limits(query=300, k=20, running=2, waiting=3)


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    searcher = Searcher.load(retrievers.make(tmp_path_factory.mktemp("app")))
    return Answers(searcher, Gloss(searcher.table, searcher.corpus), title="corpus.jsonl")


@pytest.fixture(scope="module")
def client(answers):
    with TestClient(make_app(answers, limits=LIMITS, hosts=("localhost",)), base_url="http://localhost:8000") as client:
        yield client


def refused(response, status: int, line: str):
    assert response.status_code == status
    error = response.json()["error"]
    assert line in error and "\n" not in error


def test_documents_and_beams_that_belong_together(client, answers):
    found = client.get("/api/search", params={"q": " t1w3 s12w1 ", "k": 7}).json()
    assert found["query"] == "t1w3 s12w1" and found["k"] == 7 and found["milliseconds"] > 0
    (hits,) = answers.searcher.search(["t1w3 s12w1"], k=7)
    assert [(hit["document"], hit["full_id"], hit["text"]) for hit in found["hits"]] == [
        (hit.document, hit.full_id, hit.text) for hit in hits
    ]
    np.testing.assert_allclose([hit["log_prob"] for hit in found["hits"]], [hit.log_prob for hit in hits], atol=1e-5)
    beams = {beam["prefix"]: beam for position in found["positions"] for beam in position["beams"]}
    assert [position["codes"] for position in found["positions"]] == list(retrievers.SIZES)
    for hit in found["hits"]:
        assert hit["path"] == [f"topic {hit['prefixes'][0]}", f"sub {hit['prefixes'][1].replace('-', '.')}"]
        given = np.prod([beams[prefix]["given"] for prefix in hit["prefixes"]])
        last = beams[hit["prefixes"][-1]]
        np.testing.assert_allclose(given, last["probability"], rtol=1e-4)
        assert hit["probability"] <= last["probability"] * (1 + 1e-5) and last["documents"] >= 1
    first = found["positions"][0]
    assert first["kept"] == pytest.approx(1, abs=1e-5) and len(first["beams"]) == 4
    for beam in first["beams"]:
        assert all(word[:2] in (f"t{beam['prefix']}", f"s{beam['prefix']}") for word in beam["words"][:5]), "the topic's own"
        assert {mix["path"][0] for mix in beam["categories"]} == {f"topic {beam['prefix']}"}


def test_beams_are_told_from_all_that_were_kept_not_from_those_shown(client, answers, monkeypatch):
    """Where three are shown, "3" is for the sake of "3-0"; "1" goes on, but unseen; and of "2" nothing was kept."""
    table, rows = answers.searcher.table, {}
    for row, codes in enumerate(table.codes.tolist()):
        rows |= {"-".join(map(str, codes[:length])): row for length in (1, 2, 3)}
    ends = [next(name for name in rows if name.startswith(above)) for above in ("0-0-", "0-1-", "3-0-", "1-0-")]
    kept = [["0", "1", "2", "3"], ["3-0", "0-0", "0-1", "1-0", "0-2"], ends]
    steps = []
    for length, names in enumerate(kept):
        nodes = prefix_ids(table.codes)[[rows[name] for name in names], length]
        codes = np.array([name.split("-") for name in names], np.int32)
        steps.append(Step(codes, nodes, np.log(0.1 * np.arange(len(names), 0, -1)) - length))
    hit = Hit(table.ids[rows[ends[0]]].as_py(), -3.0, None, table.texts[rows[ends[0]]].as_py(), "")
    monkeypatch.setattr(answers.searcher, "trace", lambda *args, **options: [Trace([hit], steps)])
    monkeypatch.setattr("lmindexer_jax.serving.answers.BEAMS", 3)
    positions = client.get("/api/search?q=a").json()["positions"]
    assert [position["alive"] for position in positions] == [4, 5, 4]
    assert [position["kept"] for position in positions] == pytest.approx([1, 1.5 / np.e, 1 / np.e**2])
    assert [{beam["prefix"]: beam["continued"] for beam in position["beams"]} for position in positions] == [
        {"0": True, "1": True, "2": False, "3": True},
        {"3-0": True, "0-0": True, "0-1": True},
        {ends[0]: True, ends[1]: False, ends[2]: False},
    ]
    assert [beam["prefix"] for beam in positions[0]["beams"]] == kept[0], "best first"


def test_words_of_the_query_and_of_the_whole_text_that_prefixes_have(client, answers, monkeypatch):
    corpus, rows = answers.searcher.corpus, {name: row for row, name in enumerate(answers.searcher.table.ids.to_pylist())}
    texts = {name: corpus.text(row) for name, row in rows.items()}

    def ask(before: str) -> dict:
        monkeypatch.setattr(corpus, "text", lambda row: before + texts[list(rows)[row]].upper())
        return client.get("/api/search", params={"q": "the 3D-printer's T1W3", "k": 20}).json()

    found = ask(before=150 * "- ")  # behind what is shown
    assert found["words"] == ["d-printer's", "t1w3", "the"], "as the words of prefixes are taken"
    beams = {beam["prefix"]: beam["words"] for position in found["positions"] for beam in position["beams"]}
    for hit in found["hits"]:
        assert not hit["text"].strip("- ")
        told = {word for prefix in hit["prefixes"] for word in beams[prefix]}
        assert hit["words"] == sorted(told & set(re.findall(r"\w+", texts[hit["document"]]))) != []
        assert told - set(hit["words"])
    assert not any(hit["words"] for hit in ask(before=2000 * "- ")["hits"]), "behind what was read of it"


def test_within_a_category_and_different_ones(client):
    found = client.get("/api/search", params={"q": "t1w3", "category": "topic 2 > sub 2.1", "k": 20}).json()
    assert found["hits"] and all(hit["full_id"].startswith("2-1-") for hit in found["hits"])
    assert all(beam["prefix"][:3] in ("2", "2-1") for place in found["positions"] for beam in place["beams"])
    plain, diverse = (client.get("/api/search", params={"q": "t1w3", "diverse": d}).json()["hits"] for d in "01")
    assert len(plain) == len(diverse) == 10
    refused(client.get("/api/search", params={"q": "t1w3", "category": "none"}), 400, "no document has a category path")


def test_names_of_a_category_may_have_the_sign_that_joins_them(client, answers, monkeypatch):
    asked = []
    monkeypatch.setattr(answers.searcher.corpus, "label_names", lambda depth: [("Size > 10",), ("Tools",)])
    monkeypatch.setattr(answers.searcher, "subset", lambda *, category: asked.append(category))
    for given in ("Size > 10", ["Tools", "Size > 10"], ["Size > 10", "Tools"], "Tools > Size > 10", ["Tools ", ""]):
        assert client.get("/api/search", params={"q": "t1w3", "category": given}).status_code == 200
    assert asked == [("Size > 10",), ("Tools", "Size > 10"), ("Size > 10", "Tools"), ("Tools", "Size", "10"), ("Tools",)]
    refused(client.get("/api/search", params={"q": "a", "category": 31 * ["x" * 10]}), 400, "category has 310 characters; at most 300")


def test_about(client):
    about = client.get("/api/about").json()
    assert about["documents"] == 60 and about["codes"] == [4, 3, 4] and about["categories"] and about["title"] == "corpus.jsonl"
    assert about["limits"]["query"] == 300 and 0 < len(about["examples"]) <= 4
    assert all(client.get("/api/search", params={"q": text}).status_code == 200 for text in about["examples"])


@pytest.mark.parametrize(
    ("query", "line"),
    [
        ("", "q is empty"), ("q=%20%0a", "q is empty"), ("q=a&k=0", "k goes from 1 to 20"), ("q=a&k=21", "k goes from"),
        ("q=a&k=", "k goes from"), ("q=a&k=1e1", "k goes from"), ("q=a&k=-1", "k goes from"), ("q=a&k=%D9%A3", "k goes from"),
        ("q=a&k=1_0", "k goes from"), ("q=a&k=99999999999999999999", "k goes from"), ("q=a&q=b", "q is given twice"),
        ("q=a&limit=3", "unknown parameter 'limit'"), ("q=" + "a" * 301, "at most 300"), ("q=a&diverse=yes", "diverse is 0 or 1"),
        ("q=a&category=%3E", "names no category"), ("q=a&category=" + "x" * 301, "at most 300"),
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_one_line(client, query, line):
    refused(client.get(f"/api/search?{query}"), 400, line)


def test_there_is_one_page_and_nothing_else(client):
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8" and "<!doctype html>" in page.text
    assert "innerHTML" not in page.text and "http://www.w3.org/2000/svg" in page.text
    assert page.text.count("://") == page.text.count("http://www.w3.org/2000/svg"), "no address of another machine"
    for path in ("/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/page.html", "/static/..%2f", "//etc/passwd", "/api/search/", "/api"):
        refused(client.get(path), 404, "Not Found")
    refused(client.put("/api/search"), 405, "Method Not Allowed")
    refused(client.post("/", content=b"x" * 100), 413, "no body is read here")
    refused(client.request("GET", "/api/search?q=a", content=iter([b"x"])), 413, "no body is read here")


def test_headers_are_on_everything_and_name_the_pages_own_script(client):
    answers = [client.get("/"), client.get("/api/search?q=a"), client.get("/api/search"), client.get("/no"), client.post("/", content=b"x")]
    answers.append(client.get("/", headers={"host": "evil.example"}))
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["cache-control"] == "no-store"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and policy.count("'sha256-") == 2
    refused(answers[-1], 400, "this server is not called 'evil.example'")


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST:8000", "[::1]", "[::1]:8000"])
def test_names_of_this_machine_are_answered(answers, name):
    client = TestClient(make_app(answers, hosts=("localhost", "[::1]")))
    assert client.get("/api/about", headers={"host": name}).status_code == 200


@pytest.mark.parametrize("name", ["evil.example", "localhost.evil.example", "localhost@evil.example", "localhost:80@evil", "::1", ":8000", ""])
def test_other_names_are_refused(answers, name):
    """Else a page under another name could read the documents."""
    client = TestClient(make_app(answers, hosts=("localhost", "[::1]")))
    refused(client.get("/api/about", headers={"host": name}), 400, "this server is not called")


def test_a_fault_of_the_server_is_one_line_and_goes_on_to_the_log(answers, client, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("secret")

    monkeypatch.setattr(answers, "search", broken)
    with pytest.raises(RuntimeError, match="secret"):
        client.get("/api/search?q=a")
    quiet = TestClient(make_app(answers), raise_server_exceptions=False).get("/api/search?q=a")
    refused(quiet, 500, "the search failed; the server's log says why")
    assert "secret" not in quiet.text and quiet.headers["cache-control"] == "no-store"


def test_too_many_at_a_time_are_refused_with_one_line(answers, monkeypatch):
    """Who is inside is counted before anything waits for a thread, so that the refusal of one of six tells that five are in."""
    held, begun = threading.Event(), threading.Semaphore(0)
    search = answers.search

    def slow(*args, **kwargs):
        begun.release()
        held.wait(60)
        return search(*args, **kwargs)

    monkeypatch.setattr(answers, "search", slow)
    found = queue.SimpleQueue()
    with TestClient(make_app(answers, limits=LIMITS)) as client:
        threads = [threading.Thread(target=lambda: found.put(client.get("/api/search?q=a"))) for _ in range(6)]
        for thread in threads:
            thread.start()
        more = found.get(timeout=30)  # the others are held, so only a refusal can come
        refused(more, 503, "too many searches are waiting")
        assert begun.acquire(timeout=30) and begun.acquire(timeout=30), "two run"
        assert more.headers["retry-after"] == "1" and not begun.acquire(blocking=False), "and two alone"
        held.set()
        for thread in threads:
            thread.join(60)
        assert [found.get(timeout=1).status_code for _ in range(5)] == [200] * 5
        assert client.get("/api/search?q=a").status_code == 200


ODD = st.one_of(
    st.text(max_size=400),
    st.text(st.characters(categories=["Cc", "Cf", "Zs", "Co", "Mn"]), max_size=60),
    st.integers().map(str),
    st.sampled_from(["", "10", "20", "0", "-0", "+5", "1.0", "NaN", "∞", "５", "a" * 5000, "\0", "../../etc/passwd", "1"]),
    st.sampled_from(["topic 1", "topic 1 > sub 1.0", " topic 2>", ">"]),
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.one_of(st.sampled_from(["q", "k", "category", "diverse"]), st.text(max_size=5)), ODD, max_size=5))
def test_no_parameters_are_an_error_of_the_server(client, parameters):
    answer = client.get("/api/search", params=parameters)
    assert answer.status_code in (200, 400)
    content = json.loads(answer.content)
    assert content.keys() == {"query", "words", "k", "milliseconds", "hits", "positions"} if answer.status_code == 200 else {"error"}


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1, max_size=300))
def test_no_query_is_an_error_of_the_server(client, query):
    answer = client.get("/api/search", params={"q": query})
    assert answer.status_code == (200 if query.strip() else 400)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_are_an_error_of_the_server(client, raw):
    escaped = "".join(f"%{byte:02x}" for byte in raw)
    assert client.get(f"/api/search?q={escaped}").status_code in (200, 400)
    assert client.get(f"/api/search?{escaped}=1").status_code == 400
    assert client.get(f"/{escaped}x").status_code == 404
