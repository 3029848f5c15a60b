"""Two-stage runs: the same workdir as a learned run's, kills that change nothing, and codes for new documents."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import runs

from lmindexer_jax import index as command
from lmindexer_jax.console import Console, Mode
from lmindexer_jax.data.documents import CorpusConfig
from lmindexer_jax.errors import UserError
from lmindexer_jax.index import index
from lmindexer_jax.indexing import id_table
from lmindexer_jax.indexing.two_stage import IndexerKind
from lmindexer_jax.indexing.vectors import VectorSource
from lmindexer_jax.run import execute

KINDS = [kind for kind in IndexerKind if kind != IndexerKind.LEARNED]
QUIET = Console(Mode.QUIET)
ROWS = 80


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("two-stage")
    runs.write_corpus(home / "corpus.jsonl", documents=ROWS)
    return home


def settings(home, kind, **vectors):
    config = runs.two_stage(kind, home / "corpus.jsonl", home / "cache")
    for name, value in vectors.items():
        setattr(config.two_stage.vectors, name, value)
    return config


@pytest.fixture(scope="module", params=KINDS)
def finished(request, home):
    execute(settings(home, request.param), home / request.param, console=QUIET)
    return request.param, home / request.param


def renamed(home, rows, name):
    lines = [json.loads(line) for line in (home / "corpus.jsonl").read_text().splitlines()]
    (home / name).write_text("".join(json.dumps(lines[row] | {"id": f"new-{row}"}) + "\n" for row in rows))
    return CorpusConfig(path=str(home / name), cache_dir=str(home / "cache"))


def test_a_run_leaves_what_a_learned_run_leaves(finished):
    kind, workdir = finished
    table = id_table.load(workdir / "ids")
    sizes = (ROWS,) if kind == IndexerKind.ATOMIC else (6, 6, 6)
    assert table.manifest.codebook_sizes == sizes and table.codes.shape == (ROWS, len(sizes))
    summary, plan = (json.loads((workdir / f"{name}.json").read_text()) for name in ("summary", "plan"))
    assert summary["indexer"] == kind and summary["ami"] and "nats" not in summary["rows"][0]
    assert all(stage["seconds"] > 0 for stage in plan["stages"])
    assert (workdir / "report.html").exists() and (workdir / "ids.json").exists()
    if kind in (IndexerKind.RESIDUAL, IndexerKind.PRODUCT, IndexerKind.RQVAE):
        assert all(row["usage"] >= 0.95 for row in summary["rows"])
    if kind == IndexerKind.HIERARCHICAL:
        assert summary["collisions"]["distinct_share"] > 0.7, "leaves hold up to six documents apart"
    if kind == IndexerKind.ATOMIC:
        assert summary["collisions"]["distinct"] == ROWS


def test_a_finished_run_is_not_run_again_and_refuses_other_settings(finished, home):
    kind, workdir = finished
    before = {name: (workdir / name).read_bytes() for name in ("metrics.jsonl", "ids/manifest.json") if (workdir / name).exists()}
    execute(settings(home, kind), workdir, console=QUIET)
    assert before == {name: (workdir / name).read_bytes() for name in before}
    config = settings(home, kind)
    config.seed = 1
    with pytest.raises(UserError, match="seed=0, now it is 1"):
        execute(config, workdir, console=QUIET)


@pytest.mark.parametrize("kind", [IndexerKind.HIERARCHICAL, IndexerKind.RQVAE])
def test_killed_anywhere_and_started_again_ends_alike(home, kind):
    config, workdir, deaths = settings(home, kind), home / f"{kind}-killed", 0
    config.checkpoint_seconds = 0.0
    whole = home / kind
    execute(settings(home, kind), whole, console=QUIET)
    while True:
        try:
            execute(config, workdir, console=runs.Mortal(2 if kind == IndexerKind.HIERARCHICAL else 6))
            break
        except runs.Killed:
            deaths += 1
    assert deaths >= 1
    one, two = (id_table.load(home / "ids") for home in (whole, workdir))
    np.testing.assert_array_equal(one.codes, two.codes)
    assert one.manifest.model_hash == two.manifest.model_hash
    rows = [[json.loads(line) for line in (home / "metrics.jsonl").read_text().splitlines()] for home in (whole, workdir)]
    plain = [[{k: v for k, v in row.items() if k not in ("time", "seconds")} for row in run] for run in rows]
    assert plain[0] == plain[1]


def test_new_documents_are_coded_alone_as_in_company(finished, home):
    kind, workdir = finished
    if kind == IndexerKind.ATOMIC:
        with pytest.raises(UserError, match="atomic"):
            index(workdir, renamed(home, [7], "one.jsonl"), console=QUIET)
        return
    old = id_table.load(workdir / "ids")
    _, many = index(workdir, renamed(home, range(40), f"many-{kind}.jsonl"), console=QUIET)
    _, one = index(workdir, renamed(home, [7], f"one-{kind}.jsonl"), console=QUIET)
    np.testing.assert_array_equal(many.full_ids[:ROWS], old.full_ids)
    np.testing.assert_array_equal(many.codes[ROWS + 7], one.codes[ROWS])
    if kind != IndexerKind.RANDOM:
        np.testing.assert_array_equal(many.codes[ROWS:], old.codes[:40], "the same text, the same codes")


@pytest.mark.parametrize("source", [VectorSource.FIRST, VectorSource.WORDS])
def test_other_vectors_of_the_language_model(home, source):
    workdir = home / f"residual-{source}"
    config = settings(home, IndexerKind.RESIDUAL, source=source)
    config.language_model.cache_states = source == VectorSource.WORDS
    execute(config, workdir, console=QUIET)
    old = id_table.load(workdir / "ids")
    _, one = index(workdir, renamed(home, [11], "eleven.jsonl"), console=QUIET)
    np.testing.assert_array_equal(one.codes[ROWS], old.codes[11])
    if source == VectorSource.FIRST:  # kept states give the same vectors as fresh ones
        config.language_model.cache_states = True
        execute(config, home / "first-kept", console=QUIET)
        np.testing.assert_array_equal(id_table.load(home / "first-kept" / "ids").codes, old.codes)


def test_ones_own_vectors(home, monkeypatch, capsys):
    ids = [json.loads(line)["id"] for line in (home / "corpus.jsonl").read_text().splitlines()]
    rng = np.random.default_rng(0)
    groups = rng.integers(6, size=ROWS)
    vectors = (np.eye(6, dtype=np.float32)[groups] + 0.01 * rng.normal(size=(ROWS, 6))).astype(np.float32)
    order = rng.permutation(ROWS)
    path = home / "mine.parquet"
    pq.write_table(pa.table({"id": [ids[row] for row in order], "vector": vectors[order].tolist()}), path)
    config = settings(home, IndexerKind.RESIDUAL, source=VectorSource.FILE, path=str(path))
    workdir = home / "mine"
    execute(config, workdir, console=QUIET)
    table = id_table.load(workdir / "ids")
    assert len({(group, code) for group, code in zip(groups, table.codes[:, 0])}) == 6, "the first code is the group"

    new = renamed(home, [3, 5], "new.jsonl")
    with pytest.raises(UserError, match="--vectors"):
        index(workdir, new, console=QUIET)
    np.save(home / "new.npy", vectors[[3, 5]])
    _, longer = index(workdir, new, console=QUIET, vectors=str(home / "new.npy"))
    np.testing.assert_array_equal(longer.codes[ROWS:], table.codes[[3, 5]])
    np.save(home / "wide.npy", np.zeros((2, 9), np.float32))
    with pytest.raises(UserError, match="vectors of 9 numbers"):
        index(workdir, new, console=QUIET, vectors=str(home / "wide.npy"))
    out = home / "out.jsonl"
    flags = ["lmindexer-index", str(home / "new.jsonl"), "--workdir", str(workdir), "-o", str(out), "--vectors", str(home / "new.npy")]
    monkeypatch.setattr("sys.argv", [*flags, "--cache-dir", str(home / "cache"), "--console", "quiet"])
    command.main()
    assert [json.loads(line)["codes"] for line in out.read_text().splitlines()] == table.codes[[3, 5]].tolist()

    vectors[0] += 1
    pq.write_table(pa.table({"id": ids, "vector": vectors.tolist()}), path)
    with pytest.raises(UserError, match="vectors content"):
        execute(config, workdir, console=QUIET)


def test_more_codes_than_documents_is_one_line(home):
    config = settings(home, IndexerKind.PRODUCT)
    config.indexer.codebook_sizes = (200, 200)
    with pytest.raises(UserError, match="200 codes for 80 documents"):
        execute(config, home / "too-many", console=QUIET)
