"""The command that says what an ID means."""

import json
import sys

import numpy as np
import pytest
import runs
from finished import finish, places

from lmindexer_jax import explain as command
from lmindexer_jax.errors import UserError
from lmindexer_jax.explain import explain
from lmindexer_jax.finished import open_finished


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("explain")
    finish(home / "run", runs.write_corpus(home / "corpus.jsonl", documents=150), home / "cache")
    return home


@pytest.fixture(scope="module")
def corpus(home):
    return open_finished(home / "run").corpus()


def say(monkeypatch, capsys, *flags):
    monkeypatch.setattr(sys, "argv", ["lmindexer-explain", *map(str, flags)])
    command.main()
    return capsys.readouterr().out


def test_without_a_prefix_all_first_codes_are_listed(home, corpus):
    found = explain(home / "run")
    sizes = np.bincount(places(corpus)[:, 0])
    assert [child["documents"] for child in found["children"]] == sorted(sizes.tolist(), reverse=True)
    assert found["documents"] == 150 and found["words"] == [] and found["typical"] == []
    for child in found["children"]:
        topic = child["prefix"]
        assert all(word[:2] in (f"t{topic}", f"s{topic}") for word in child["words"])


def test_a_prefix(home, corpus):
    found = explain(home / "run", "2")
    members = np.flatnonzero(places(corpus)[:, 0] == 2)
    assert found["documents"] == len(members) and found["share"] == pytest.approx(len(members) / 150)
    assert all(word.startswith(("t2", "s2")) for word in found["words"]) and len(found["words"]) == 8
    assert sum(row["documents"] for row in found["categories"]) == len(members)
    assert {row["path"][0] for row in found["categories"]} == {"topic 2"}
    assert sum(row["share"] for row in found["categories"]) == pytest.approx(1)
    assert len(found["typical"]) == 4 and all(row["full_id"].startswith("2-") for row in found["typical"])
    near = [row["nearness"] for row in found["typical"]]
    assert near == sorted(near, reverse=True) and near[0] > 0.4
    assert found["borderline"] == [], "topics share no word"
    below = explain(home / "run", "2-1")
    assert below["prefix"] == "2-1" and {child["prefix"][:4] for child in below["children"]} == {"2-1-"}
    assert all(word.startswith("s21") for word in below["words"][:3])


def test_borderline_documents_name_the_sibling(home, tmp_path):
    corpus = open_finished(home / "run").corpus()
    codes = np.stack([places(corpus)[:, 0], np.zeros(150, int), np.arange(150) % 8], 1)
    stray = int(np.flatnonzero(codes[:, 0] == 2)[0])
    codes[stray, 0] = 3
    finish(tmp_path / "run", home / "corpus.jsonl", home / "cache", codes=codes)
    (found,) = explain(tmp_path / "run", "3")["borderline"]
    assert found["id"] == corpus.ids()[stray].as_py() and found["sibling"] == "2"
    assert found["sibling_nearness"] > found["nearness"]


def test_a_document_explains_each_step_of_its_id(home, corpus):
    name, table = corpus.ids()[7].as_py(), open_finished(home / "run").table
    found = explain(home / "run", name)
    assert found["id"] == name and found["full_id"] == table.id_of(name) and found["text"] == corpus.text(7)
    assert [step["prefix"] for step in found["steps"]] == ["-".join(map(str, table.codes[7, :t])) for t in (1, 2, 3)]
    first = found["steps"][0]
    assert set(first["shared"]) == set(first["words"]) & set(corpus.text(7).split())
    assert first["nearness"] > first["sibling_nearness"] and found["steps"][2]["documents"] < first["documents"]
    assert explain(home / "run", name, document=True) == found


def test_tables_and_one_json_object(home, corpus, monkeypatch, capsys):
    said = say(monkeypatch, capsys, "--workdir", home / "run", "--console", "plain", "2")
    for part in ("2: ", "words: ", "categories: ", "typical", "what follows"):
        assert part in said
    assert "more with fewer documents" in say(monkeypatch, capsys, "--workdir", home / "run", "--most", 2, "--console", "plain")
    assert "steps" in say(monkeypatch, capsys, "--workdir", home / "run", "--console", "plain", corpus.ids()[3].as_py())
    said = say(monkeypatch, capsys, "--workdir", home / "run", "--console", "json", "2-1")
    assert json.loads(said) == json.loads(json.dumps(explain(home / "run", "2-1")))


def test_a_document_whose_id_looks_like_a_prefix(tmp_path):
    lines = [json.dumps({"id": str(number), "text": f"word{'ab'[number % 2]} common"}) for number in range(6)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    codes = np.array([[1, 0]] * 6)
    finish(tmp_path / "run", tmp_path / "corpus.jsonl", tmp_path / "cache", codes=codes, sizes=(2, 2))
    assert explain(tmp_path / "run", "1")["prefix"] == "1"
    assert explain(tmp_path / "run", "1", document=True)["id"] == "1"
    assert explain(tmp_path / "run", "5")["id"] == "5", "no such prefix, but a document"
    assert explain(tmp_path / "run", "1-0-3")["id"] == "3", "a full ID with its counter"


def test_what_is_not_there_is_one_line(home):
    for what in ("3-2-1-7-9", "99", "nobody"):
        with pytest.raises(UserError, match="neither a prefix .* nor the id"):
            explain(home / "run", what)
    with pytest.raises(UserError, match="not in the ID table"):
        explain(home / "run", "nobody", document=True)
