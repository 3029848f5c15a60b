"""New documents get the codes that training would have given them, alone or in company."""

import json
import random
import shutil
import sys
import threading
import time

import numpy as np
import pytest
import runs
from hypothesis import given, settings
from hypothesis import strategies as st

from lmindexer_jax import index as command
from lmindexer_jax.console import Console, Mode
from lmindexer_jax.data.documents import CorpusConfig
from lmindexer_jax.errors import UserError
from lmindexer_jax.index import index
from lmindexer_jax.indexing import encode, id_lines, id_table
from lmindexer_jax.indexing.assigners import Assigners
from lmindexer_jax.prepare import prepare, read_run
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


def test_what_a_killed_call_has_coded_is_not_coded_again(home, monkeypatch):
    whole = index(home / "run", renamed(home, range(60), "whole.jsonl"), console=Console(Mode.QUIET))[1]
    monkeypatch.setattr(command, "CHUNK", 16)
    code, sizes = command.code, []

    def killed(functions, assigners, store, **rest):
        if len(sizes) == 3:
            raise KeyboardInterrupt
        sizes.append(len(store))
        return code(functions, assigners, store, **rest)

    monkeypatch.setattr(command, "code", killed)
    corpus = renamed(home, range(60), "killed.jsonl")
    with pytest.raises(KeyboardInterrupt):
        index(home / "run", corpus, console=Console(Mode.QUIET))
    first, *_ = left = sorted((home / "cache" / "coded").rglob("*.npy"))
    assert len(left) == 3
    first.write_bytes(first.read_bytes()[:100])
    sizes.clear()
    again = index(home / "run", corpus, console=Console(Mode.QUIET))[1]
    assert sizes == [16, 12], "the damaged part and the one that was missing"
    np.testing.assert_array_equal(again.full_ids, whole.full_ids)
    assert not list((home / "cache" / "coded").rglob("*.npy"))


def test_of_two_calls_for_the_same_documents_the_second_waits(home, monkeypatch):
    entered, ended, code = threading.Event(), threading.Event(), command.code

    def slow(*given, **rest):
        if threading.current_thread() is second:
            entered.set()
            assert ended.wait(60)
        else:
            second.start()
            entered.wait(0.5)  # it does not come
        return code(*given, **rest)

    monkeypatch.setattr(command, "code", slow)
    corpus, found = renamed(home, range(60), "both.jsonl"), {}

    def call(name):
        found[name] = index(home / "run", corpus, console=Console(Mode.QUIET))[1]

    second = threading.Thread(target=call, args=("second",))
    call("first")
    ended.set()
    second.join()
    np.testing.assert_array_equal(found["second"].full_ids, found["first"].full_ids)


def test_the_one_output_of_an_older_run_serves_every_position(tmp_path):
    params = {"encoder": np.ones(3), "codebook_0": np.ones((2, 4)), "codebook_1": np.ones((2, 4)), "output": np.arange(16.0).reshape(4, 4)}
    Assigners(tmp_path).save(0, params, codes=np.zeros(1, np.int32))
    np.testing.assert_array_equal(Assigners(tmp_path).load(0)["output"], np.stack([params["output"]] * 2))


def test_the_command_writes_ids_and_keeps_known_documents(home, monkeypatch):
    out = home / "out.jsonl"
    flags = ["lmindexer-index", str(home / "corpus.jsonl"), "--workdir", str(home / "run"), "-o", str(out)]
    monkeypatch.setattr(sys, "argv", [*flags, "--cache-dir", str(home / "cache"), "--console", "quiet"])
    command.main()
    table = id_table.load(home / "run" / "ids")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["full_id"] for row in rows] == table.texts.to_pylist()


@pytest.mark.parametrize("given, source", [("icd10cm", "name"), ("icd10cm.jsonl", "path"), ("my_folder", "path")])
def test_an_embedded_data_set_is_given_by_its_name(given, source, home, monkeypatch):
    asked = []

    def stop(workdir, corpus_config, **_):
        asked.append(corpus_config)
        raise UserError("enough")

    monkeypatch.setattr(command, "index", stop)
    monkeypatch.setattr(sys, "argv", ["lmindexer-index", given, "--workdir", str(home / "run"), "-o", str(home / "out.jsonl")])
    with pytest.raises(UserError, match="enough"):
        command.main()
    assert {"name": asked[0].name, "path": asked[0].path} == {"name": "", "path": ""} | {source: given}


def test_no_run_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no run here"):
        index(tmp_path, CorpusConfig(path="x.jsonl"), console=Console(Mode.QUIET))


def test_no_folder_to_write_to_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lmindexer-index", "x.jsonl", "--workdir", str(tmp_path), "-o", str(tmp_path / "no" / "x")])
    with pytest.raises(UserError, match="no such folder to write to"):
        command.main()


def coded(home, rows):
    """IDs of new documents by the command's own function, or its refusal."""
    path = home / "odd.jsonl"
    path.write_bytes(b"\n".join(row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows))
    corpus, table = index(home / "run", CorpusConfig(path=str(path), cache_dir=str(home / "odd")), console=Console(Mode.QUIET))
    names = corpus.ids().to_pylist()
    id_lines.write(home / "odd.out", table, names)
    np.testing.assert_array_equal(id_lines.read(home / "odd.out", names), table.codes[-len(names) :])
    return corpus, [json.loads(line) for line in (home / "odd.out").read_text(encoding="utf-8").split("\n")[:-1]]


ODD = ["\0", "\u200b", "\ufffe", "\U0010ffff", "\u202e", "</s>", "<pad>", "e\u0301" * 50, "x" * 100_000, "\r\n\x85\u2028.", "\ufeff"]


def test_any_text_and_any_name_gets_an_id(home):
    """Also half lines, bytes that are no text, and names that a line of output has to escape."""
    sound = [{"id": text or "empty", "text": text} for text in ODD]
    corpus, lines = coded(home, [*sound, b'{"id": "cut', b"\xff", b"[" * 9999, {"id": ODD[0], "text": "twice"}, {"id": "e", "text": " "}])
    assert corpus.dropped == {"invalid JSON": 2, "bad UTF-8": 1, "duplicate id": 1, "empty text": 1}
    assert [line["id"] for line in lines] == ODD
    assert len({line["full_id"] for line in lines}) == len(ODD)


@settings(max_examples=3, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=60), min_size=1, max_size=20, unique=True))
def test_any_texts_get_ids(home, texts):
    rows = [{"id": text, "text": text} for text in texts]
    if any(text.strip() for text in texts):
        corpus, lines = coded(home, rows)
        assert [line["id"] for line in lines] == [text for text in texts if text.strip()]
        assert len(lines) + sum(corpus.dropped.values()) == len(texts)
    else:
        with pytest.raises(UserError, match="no documents left"):
            coded(home, rows)


def kept(run):
    """All that `index` reads of a run beside its checkpoints, as something that can be compared."""
    assigners, table = Assigners(run / "assigners"), id_table.load(run / "ids")
    arrays = [array for p in range(3) for array in (*assigners.load_centres(p), assigners.learned_codes(p))]
    texts = [str(array.dtype) + str(array.tolist()) for array in arrays]
    return read_run(run), table.manifest, table.digest, table.texts.to_pylist(), [assigners.meta(p) for p in range(3)], texts


@pytest.mark.parametrize("sampled", [8, pytest.param(400, marks=pytest.mark.slow)])
def test_no_flipped_byte_of_a_run_is_believed(home, tmp_path, sampled):
    """What is read of a run is as it was written, or refused in one line; so are files cut short."""
    shutil.copytree(home / "run", tmp_path / "run")
    run = tmp_path / "run"
    wanted, rng, refused = kept(run), random.Random(0), 0
    read = [run / "run.json", *(run / "ids").iterdir(), *(path for path in (run / "assigners").iterdir() if path.is_file())]
    assert {path.suffix for path in read} == {".json", ".parquet", ".npy", ".npz"}
    for path in read:
        content = path.read_bytes()
        for at in [0, len(content) - 1, *(rng.randrange(len(content)) for _ in range(sampled))]:
            changed = bytearray(content)
            changed[at] ^= 1 << rng.randrange(8)
            for damaged in (changed, content[:at]):
                path.write_bytes(damaged)
                try:
                    assert kept(run) == wanted, (path, at)
                except UserError as error:
                    refused += 1
                    assert "\n" not in str(error) and str(run) in str(error)
        path.write_bytes(content)
    assert kept(run) == wanted and refused > 100


def test_fields_are_those_of_the_run(home, monkeypatch):
    asked = []

    def stop(workdir, corpus_config, **_):
        asked.append(corpus_config)
        raise UserError("enough")

    monkeypatch.setattr(command, "index", stop)
    trained = CorpusConfig(id_field="sku", path_field="shelf", template="{title}")
    described = json.loads((home / "run" / "run.json").read_text())
    described["config"]["corpus"] |= {name: getattr(trained, name) for name in ("id_field", "path_field", "template")}
    monkeypatch.setattr(command, "read_run", lambda _: described)
    for flags in ([], ["--id-field", "no", "--template", "{a}"]):
        monkeypatch.setattr(sys, "argv", ["lmindexer-index", "x.jsonl", "--workdir", str(home / "run"), "-o", str(home / "o"), *flags])
        with pytest.raises(UserError, match="enough"):
            command.main()
    assert [(c.id_field, c.path_field, c.template) for c in asked] == [("sku", "shelf", "{title}"), ("no", "shelf", "{a}")]


def test_two_runs_may_encode_the_same_documents_at_once(home, tmp_path, monkeypatch):
    """One encodes a part, the other waits and takes what it finds."""
    config, encode_part, inside, found = runs.ours(home / "corpus.jsonl", tmp_path / "cache"), encode._encode_part, [], []

    def alone(*given, done, **rest):
        inside.append(done)
        assert len(inside) == 1
        time.sleep(0.3)
        encode_part(*given, done=done, **rest)
        found.append(inside.pop())

    monkeypatch.setattr(encode, "_encode_part", alone)
    threads = [
        threading.Thread(target=prepare, args=(config, tmp_path / f"run{number}"), kwargs={"console": Console(Mode.QUIET)})
        for number in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) in (1, 2) and found[0] == 0 and all(found[1:]), "what the first has made is not made again"
