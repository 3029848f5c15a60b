"""New documents get the codes that training would have given them, alone or in company."""

import json
import sys

import numpy as np
import pytest
import runs

from lmindexer_jax import index as command
from lmindexer_jax.console import Console, Mode
from lmindexer_jax.data.documents import CorpusConfig
from lmindexer_jax.errors import UserError
from lmindexer_jax.index import index
from lmindexer_jax.indexing import id_table
from lmindexer_jax.indexing.assigners import Assigners
from lmindexer_jax.run import execute


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("index")
    runs.write_corpus(home / "corpus.jsonl", documents=60)
    execute(runs.ours(home / "corpus.jsonl", home / "cache"), home / "run", console=Console(Mode.QUIET))
    return home


def renamed(home, rows, name):
    lines = [json.loads(line) for line in (home / "corpus.jsonl").read_text().splitlines()]
    path = home / name
    path.write_text("".join(json.dumps(lines[row] | {"id": f"new-{row}"}) + "\n" for row in rows))
    return CorpusConfig(path=str(path), cache_dir=str(home / "cache"))


def test_the_same_text_gets_the_same_codes_alone_and_in_company(home):
    assigners = Assigners(home / "run" / "assigners")
    learned = np.stack([assigners.learned_codes(p) for p in range(2)], axis=1)
    old = id_table.load(home / "run" / "ids")
    _, many = index(home / "run", renamed(home, range(40), "many.jsonl"), console=Console(Mode.QUIET))
    _, one = index(home / "run", renamed(home, [7], "one.jsonl"), console=Console(Mode.QUIET))
    np.testing.assert_array_equal(many.codes[60:, :2], learned[:40])
    np.testing.assert_array_equal(many.codes[67], one.codes[60])
    np.testing.assert_array_equal(many.full_ids[:60], old.full_ids)
    assert len({tuple(row) for row in many.full_ids.tolist()}) == 100, "collisions are counted apart"


def test_the_command_writes_ids_and_keeps_known_documents(home, monkeypatch):
    out = home / "out.jsonl"
    flags = ["lmindexer-index", str(home / "corpus.jsonl"), "--workdir", str(home / "run"), "-o", str(out)]
    monkeypatch.setattr(sys, "argv", [*flags, "--cache-dir", str(home / "cache"), "--console", "quiet"])
    command.main()
    table = id_table.load(home / "run" / "ids")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["full_id"] for row in rows] == table.texts.to_pylist()


def test_no_run_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no run here"):
        index(tmp_path, CorpusConfig(path="x.jsonl"), console=Console(Mode.QUIET))
