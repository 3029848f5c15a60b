"""The corpus on disk: built once, whole or not at all, and the same as the stream it was built from."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmindexer_jax.data import corpus as corpus_module
from lmindexer_jax.data.cache import build_once, cache_root
from lmindexer_jax.data.corpus import open_corpus
from lmindexer_jax.data.documents import CorpusConfig, OnBad
from lmindexer_jax.errors import UserError


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def make(tmp_path, records, **changes):
    write(tmp_path / "x.jsonl", records)
    return open_corpus(CorpusConfig(path=str(tmp_path / "x.jsonl"), cache_dir=str(tmp_path / "cache"), **changes))


def numbered(count):
    return [{"id": f"d{n}", "text": f"text {n}", "path": ["p", str(n % 3)][: n % 4]} for n in range(count)]


def test_holds_what_was_read(tmp_path):
    records = numbered(10_000)  # several Arrow batches
    taken = []
    write(tmp_path / "x.jsonl", records)
    config = CorpusConfig(path=str(tmp_path / "x.jsonl"), cache_dir=str(tmp_path / "cache"))
    corpus = open_corpus(config, progress=taken.append)
    assert len(corpus) == 10_000 == sum(taken)
    assert corpus.ids().to_pylist() == [record["id"] for record in records]
    assert [text for batch in corpus.batches() for text in batch] == [record["text"] for record in records]
    assert corpus.texts(np.array([9999, 0, 4096])) == ["text 9999", "text 0", "text 4096"]
    assert corpus.path(3) == ("p", "0") and corpus.path(4) == ()
    assert corpus.fields == ()


def test_long_documents_do_not_pile_up(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "_CHARACTERS", 100)
    corpus = make(tmp_path, [{"id": n, "text": "x" * 60} for n in range(7)])
    assert [len(batch) for batch in corpus.batches()] == [2, 2, 2, 1]


def test_drops_are_counted_with_their_first_example(tmp_path):
    records = [{"id": 1, "text": "t"}, {"id": 1, "text": "t"}, {"id": 2, "text": ""}, {"id": 1, "text": "t"}]
    corpus = make(tmp_path, records)
    assert corpus.dropped == {"duplicate id": 2, "empty text": 1}
    assert "x.jsonl:2: duplicate id" in corpus.examples["duplicate id"]
    with pytest.raises(UserError, match="x.jsonl:2: duplicate id"):
        make(tmp_path, records, on_bad=OnBad.FAIL)


def test_an_empty_corpus_is_refused(tmp_path):
    with pytest.raises(UserError, match="x.jsonl: no documents left; 2 empty text .first: .*x.jsonl:1"):
        make(tmp_path, [{"id": 1, "text": ""}, {"id": 2, "text": ""}])
    with pytest.raises(UserError, match="no documents left; it holds no records"):
        make(tmp_path, [])
    assert not list((tmp_path / "cache" / "corpora").glob("[!.]*"))


def test_reads_its_source_once_and_again_when_it_changes(tmp_path, monkeypatch):
    first = make(tmp_path, numbered(5))
    reads = []
    monkeypatch.setattr(corpus_module, "read_documents", lambda config: reads.append(config) or iter(()))
    config = CorpusConfig(path=str(tmp_path / "x.jsonl"), cache_dir=str(tmp_path / "cache"))
    assert open_corpus(config).hash == first.hash and not reads
    for change in ({"template": "{id}"}, {"max_documents": 2}, {"id_field": "text"}):
        with pytest.raises(UserError):
            open_corpus(CorpusConfig(**{**vars(config), **change}))
    write(tmp_path / "x.jsonl", numbered(6))
    with pytest.raises(UserError):
        open_corpus(config)
    assert len(reads) == 4


def test_hash_is_of_the_content_alone(tmp_path):
    base = [{"id": "a", "text": "b c"}, {"id": "d", "text": "e", "path": ["f", "g"]}]
    variants = [
        [{"id": "ab", "text": "c"}, base[1]],
        [base[0], {"id": "d", "text": "e", "path": ["f"]}],
        [base[0], {"id": "d", "text": "e", "path": ["fg"]}],
        base[::-1],
        [{"id": "a", "text": "b c", "path": ["d", "e", "f", "g"]}],  # the same words in one document
    ]
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    same = {make(tmp_path / "one", base).hash, make(tmp_path / "two", base, split="other").hash}
    assert len(same) == 1
    assert len(same | {make(tmp_path / "one", variant).hash for variant in variants}) == 6


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abc"), max_size=4), min_size=1, max_size=30))
def test_labels_number_the_distinct_prefixes(tmp_path_factory, paths):
    tmp_path = tmp_path_factory.mktemp("labels")
    corpus = make(tmp_path, [{"id": n, "text": "t", "path": path} for n, path in enumerate(paths)])
    assert corpus.depth() == max(map(len, paths))
    for depth in range(1, 6):
        labels, names = corpus.labels(depth), corpus.label_names(depth)
        assert labels.dtype == np.int32 and labels.shape == (len(paths),)
        assert len(set(names)) == len(names) == labels.max() + 1
        for path, label in zip(paths, labels, strict=True):
            assert (label == -1) == (len(path) < depth)
            assert label == -1 or names[label] == tuple(path[:depth])


def test_a_damaged_corpus_is_named(tmp_path):
    make(tmp_path, numbered(5))
    (file,) = (tmp_path / "cache").glob("corpora/*/documents.arrow")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="damaged corpus .*delete the folder"):
        make_again = CorpusConfig(path=str(tmp_path / "x.jsonl"), cache_dir=str(tmp_path / "cache"))
        open_corpus(make_again)


def test_cache_root_follows_the_setting_then_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("LMINDEXER_CACHE", str(tmp_path / "environment"))
    assert cache_root("") == tmp_path / "environment"
    assert cache_root(str(tmp_path / "given")) == tmp_path / "given"


def test_a_failed_build_leaves_nothing_and_the_next_one_succeeds(tmp_path):
    def fail(partial):
        (partial / "half").write_text("x")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        build_once(tmp_path / "thing", fail)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    built = build_once(tmp_path / "thing", lambda partial: (partial / "whole").write_text("x"))
    assert [path.name for path in built.iterdir()] == ["whole"]


_BUILD_SLOWLY = """
import sys, time
from pathlib import Path
from lmindexer_jax.data.cache import build_once

def build(partial):
    for number in range(100):
        (partial / str(number)).write_text("x")
        print(number, flush=True)
        time.sleep(0.02)

build_once(Path(sys.argv[1]), build)
"""


def test_a_killed_build_is_done_again_from_the_start(tmp_path):
    target = tmp_path / "thing"
    process = subprocess.Popen([sys.executable, "-c", _BUILD_SLOWLY, target], stdout=subprocess.PIPE)
    process.stdout.readline()
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not target.exists()
    built = build_once(target, lambda partial: (partial / "whole").write_text("x"))
    assert [path.name for path in built.iterdir()] == ["whole"]


def test_two_processes_build_once(tmp_path):
    command = [sys.executable, "-c", _BUILD_SLOWLY.replace("range(100)", "range(20)"), tmp_path / "thing"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(len(output.split()) for output in outputs) == [0, 20]
