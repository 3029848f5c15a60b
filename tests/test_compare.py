"""The command `lmindexer-compare`: means of runs, and whether one is ahead by more than luck."""

import json
import sys

import numpy as np
import pytest

from lmindexer_jax import compare as command
from lmindexer_jax.compare import compare
from lmindexer_jax.errors import UserError
from lmindexer_jax.evaluation.significance import paired_test

QUERIES = 60


@pytest.fixture
def folder(tmp_path):
    """Judgements of 60 queries with one answer each; `good` finds that of four in five queries, `bad` of one in five."""
    (tmp_path / "qrels").write_text("".join(f"q{q} 0 d{q} 1\n" for q in range(QUERIES)) + "none 0 d0 0\n")
    for name, found in (("good", lambda q: q % 5 < 4), ("bad", lambda q: q % 5 == 0), ("other", lambda q: q % 5 == 1)):
        lines = (f"q{q} Q0 {f'd{q}' if found(q) else 'wrong'} 1 0.5 {name}\n" for q in range(QUERIES))
        (tmp_path / name).write_text("".join(lines))
    return tmp_path


def test_a_better_run_is_ahead_and_the_same_one_is_not(folder):
    good, bad = folder / "good", folder / "bad"
    found = compare(folder / "qrels", [[good], [bad], [good]], metrics=["recall@1"])
    worse, same = found["rows"]
    assert found["queries"] == QUERIES, "a query that nothing answers counts nowhere"
    assert (worse["first"], worse["second"]) == pytest.approx((0.8, 0.2)) and worse["p_value"] < 0.001
    assert worse["low"] < worse["difference"] < worse["high"] < 0
    assert same["difference"] == 0 and same["p_value"] == 1


def test_seeds_of_a_system_are_averaged_query_by_query(folder):
    systems = [[folder / "good"], [folder / "bad", folder / "other"]]
    (row,) = compare(folder / "qrels", systems, metrics=["ndcg@10"], seed=3)["rows"]
    place = np.arange(QUERIES) % 5
    wanted = paired_test(place < 4, ((place == 0) + 1.0 * (place == 1)) / 2, seed=3)
    assert (row["second"], row["low"], row["high"], row["p_value"]) == (wanted.second, wanted.low, wanted.high, wanted.p_value)


def test_the_command_shows_and_writes(folder, monkeypatch, capsys):
    out = folder / "new" / "out.json"
    runs = [str(folder / "good"), f"{folder / 'bad'},{folder / 'other'}"]
    flags = ["compare", str(folder / "qrels"), *runs, "--metric", "mrr@5", "-o", str(out), "--console", "json"]
    monkeypatch.setattr(sys, "argv", flags)
    command.main()
    shown, note = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    (row,) = json.loads(out.read_text())["rows"]
    assert "not corrected for their number" in note["text"] and "no interval" not in note["text"]
    assert shown["rows"][0]["second system"] == runs[1] and shown["rows"][0]["second"] == row["second"] == pytest.approx(0.2)


def test_of_one_query_nothing_is_claimed(folder, monkeypatch, capsys):
    (folder / "one").write_text("".join(f"q{q} 0 d{q} {int(q == 0)}\n" for q in range(QUERIES)))
    systems = [str(folder / name) for name in ("one", "other", "good")]
    flags = [*systems, "--metric", "recall@1", "-o", str(folder / "out.json"), "--console", "json"]
    monkeypatch.setattr(sys, "argv", ["compare", *flags])
    command.main()
    (row,) = json.loads((folder / "out.json").read_text())["rows"]
    assert row["difference"] == 1 and row["low"] is row["high"] is None and row["p_value"] == 1
    assert "so few queries give no interval" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "wrong"),
    [
        (["--seed", "-1"], "--seed -1: give 0 or more"),
        (["-o", "."], ".: a folder; give a file by -o"),
        (["-o", "good/out.json"], "good is no folder to write to"),
        (["-o", "good/new/out.json"], "good is no folder to write to"),
    ],
)
def test_a_wrong_flag_is_one_line_before_the_work(flags, wrong, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["compare", "qrels", "good", "bad", *flags])
    with pytest.raises(SystemExit) as end:
        command.run()
    said = capsys.readouterr()
    assert end.value.code == 2 and said.out == "" and said.err.count("\n") == 1 and wrong in said.err


@pytest.mark.parametrize(
    ("systems", "metrics", "message"),
    [
        (["good"], ["recall@1"], "at least two systems"),
        (["good", "bad"], ["recall"], "'recall' is no metric: hit, recall, mrr, map, ndcg, with a cutoff"),
        (["good", "bad"], ["p@0"], "'p@0' is no metric"),
        (["good", "lost"], ["recall@1"], "lost: no such file"),
        (["good", "qrels"], ["recall@1"], "qrels:1: 4 fields"),
    ],
)
def test_what_cannot_be_compared_is_said_in_a_line(systems, metrics, message, folder):
    with pytest.raises(UserError, match=message):
        compare(folder / "qrels", [[folder / name] for name in systems], metrics=metrics)
