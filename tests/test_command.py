"""The commands as a person runs them: processes of their own, what they say on standard error, and their exit codes."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import runs

from lmindexer_jax.console import Console, Mode
from lmindexer_jax.data.cache import locked
from lmindexer_jax.data.corpus import open_corpus
from lmindexer_jax.indexing import id_table
from lmindexer_jax.models import presets
from lmindexer_jax.prepare import bind, open_tokenizer
from lmindexer_jax.run import execute

TESTS = pathlib.Path(__file__).parent
CACHE = TESTS.parent / ".cache" / "jax"
CONFIG = """
import pathlib, runs

def get_config():
    return runs.ours(pathlib.Path({corpus!r}), pathlib.Path({cache!r}))
"""


def environment():
    path = os.pathsep.join(map(str, (TESTS.parent, TESTS)))
    same = {"JAX_PLATFORMS": "cpu", "JAX_DEFAULT_MATMUL_PRECISION": "float32", "JAX_COMPILATION_CACHE_DIR": str(CACHE)}
    return os.environ | same | {"PYTHONPATH": path}


def call(module, *flags):
    """Run a command and wait for it."""
    command = [sys.executable, "-m", f"lmindexer_jax.{module}", *map(str, flags)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True)


def refused(done, *texts):
    """Exit code 2, nothing on standard error but one line that holds all the texts."""
    assert done.returncode == 2, done.stderr
    line = done.stderr.removesuffix("\n")
    assert line.startswith("error: ") and "\n" not in line, done.stderr
    for text in texts:
        assert text in line


def content(folder):
    """Every file below a folder, with its bytes."""
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("command")
    runs.write_corpus(home / "corpus.jsonl", documents=60)
    (home / "config.py").write_text(CONFIG.format(corpus=str(home / "corpus.jsonl"), cache=str(home / "cache")))
    return home


def learn(home, workdir, *flags):
    return call("main", "--config", home / "config.py", "--workdir", workdir, "--config.console=quiet", *flags)


@pytest.fixture(scope="module")
def finished(home):
    """A run by the command that nobody disturbed."""
    done = learn(home, home / "whole")
    assert done.returncode == 0, done.stderr
    return home / "whole"


@pytest.fixture
def copy(finished, tmp_path):
    return pathlib.Path(shutil.copytree(finished, tmp_path / "copy"))


@pytest.mark.parametrize(
    "flags, texts",
    [
        (["--config.recipe.first.roundz=2"], ["roundz"]),
        (["--config.seed=many"], ["seed", "many"]),
        (["--config.corpus.path=nowhere.jsonl"], ["nowhere.jsonl"]),
        (["--config.corpus.path=", "--config.corpus.name=/data/my.jsonl"], ["/data/my.jsonl", "corpus.path"]),
        (["--config.language_model.name=minilm", "--config.language_model.max_length=513"], ["max_length=513", "512 positions"]),
        (["--config.seed=-1"], ["seed=-1", "at least 0"]),
        (["--config.interactions=nowhere.tsv"], ["nowhere.tsv", "no such file"]),
    ],
    ids=["unknown field", "wrong type", "no corpus", "a path as a name", "too long", "seed", "interactions"],
)
def test_a_slip_is_one_line(home, tmp_path, flags, texts):
    refused(learn(home, tmp_path / "run", *flags), *texts)
    assert not list(tmp_path.rglob("*.json"))


def test_bad_lines_are_named_by_their_numbers(home, tmp_path):
    good = json.dumps({"id": "a", "text": "some words"})
    for name, bad in {"json": "{not json", "type": json.dumps({"id": "b", "text": {"x": 1}}), "twice": good}.items():
        corpus = tmp_path / f"{name}.jsonl"
        corpus.write_text(f"{good}\n{bad}\n")
        flags = (f"--config.corpus.path={corpus}", "--config.corpus.on_bad=fail")
        refused(learn(home, tmp_path / "run", *flags), f"{name}.jsonl:2")


def test_another_size_of_codebook_on_the_same_workdir(home, finished):
    before = content(finished)
    refused(learn(home, finished, "--config.indexer.codebook_sizes=(3,3,3)"), "indexer.codebook_sizes", str(finished))
    assert content(finished) == before


@pytest.mark.parametrize("seed", [0, 1])
def test_the_seed_decides_the_codes(home, finished, seed):
    """Another process of the same seed ends with the same bits; another seed with other codes."""
    config = runs.ours(home / "corpus.jsonl", home / "cache")
    config.seed = seed
    execute(config, home / f"seed-{seed}", console=Console(Mode.QUIET))
    first, other = (id_table.load(workdir / "ids") for workdir in (finished, home / f"seed-{seed}"))
    same = seed == 0
    assert (first.manifest.model_hash == other.manifest.model_hash) == same
    assert np.array_equal(first.codes, other.codes) == same


def newest(workdir):
    """The newest checkpoint's largest file."""
    step = max((workdir / "checkpoints").iterdir())
    return max((path for path in step.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def test_a_truncated_checkpoint_costs_the_stage_before_it(home, finished, copy):
    os.truncate(newest(copy), 10)
    done = learn(home, copy)
    assert done.returncode == 0 and done.stderr.startswith("warning: ") and "trying the checkpoint before it" in done.stderr
    assert content(copy)[pathlib.Path("ids.json")] == content(finished)[pathlib.Path("ids.json")]
    assert id_table.load(copy / "ids").manifest.model_hash == id_table.load(finished / "ids").manifest.model_hash


def test_no_checkpoint_that_can_be_read(home, copy):
    for path in (copy / "checkpoints").rglob("manifest.json"):
        os.truncate(path, 10)
    before = content(copy / "ids")
    done = learn(home, copy)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ") and "no checkpoint can be read" in done.stderr
    assert content(copy / "ids") == before


@pytest.mark.slow
def test_checkpoints_of_another_run(home, finished, copy, tmp_path):
    assert learn(home, tmp_path / "other", "--config.seed=1").returncode == 0
    shutil.rmtree(copy / "checkpoints")
    shutil.copytree(tmp_path / "other" / "checkpoints", copy / "checkpoints")
    before = content(copy / "checkpoints")
    refused(learn(home, copy), "of other settings or data", "--workdir")
    assert content(copy / "checkpoints") == before


# In a name space of its own the test may mount a small disk; what the second call left is copied out of it.
FULL = """
mount -t tmpfs -o size={size} none {disk} || exit 77
"$@"; echo code $?
find {disk} -name 'tmp-*' -o -name '.*.partial'
mount -o remount,size=64m {disk}
echo again >&2
"$@"; echo code $?
cp -r {disk}/run/ids {disk}/run/assigners {out}
"""


@pytest.mark.slow
@pytest.mark.parametrize("size, with_cache", [("16k", False), ("1m", False), ("4m", False), ("150k", True)])
def test_a_full_disk_is_one_line_and_costs_nothing(home, finished, tmp_path, size, with_cache):
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    out.mkdir()
    script = FULL.format(size=size, disk=disk, out=out)
    command = [sys.executable, "-m", "lmindexer_jax.main", "--config", home / "config.py", "--workdir", disk / "run"]
    command += [f"--config.corpus.cache_dir={disk / 'cache'}"] if with_cache else []
    command = ["unshare", "-rm", "sh", "-c", script, "sh", *map(str, command), "--config.console=quiet"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"this system lets nobody mount a disk: {done.stderr.strip()}")
    assert done.stdout == "code 2\ncode 0\n", done.stdout + done.stderr
    first, second = (half.splitlines() for half in done.stderr.split("\nagain\n", 1))
    *findings, line = first
    assert all(each.startswith("warning: ") for each in findings + second)
    assert line.startswith("error: ") and "the disk is full" in line
    np.testing.assert_array_equal(id_table.load(out / "ids").codes, id_table.load(finished / "ids").codes)


def test_index_by_the_command(home, copy, tmp_path):
    old = id_table.load(copy / "ids")
    lines = (home / "corpus.jsonl").read_text().splitlines()
    new = [json.dumps(json.loads(line) | {"id": f"new-{number}"}) for number, line in enumerate(lines)]

    def ask(name, rows, *flags):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
        out = tmp_path / f"{name}-ids.jsonl"
        given = ("--workdir", copy, "-o", out, "--cache-dir", tmp_path / "cache", "--console", "quiet", *flags)
        done = call("index", tmp_path / f"{name}.jsonl", *given)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in out.read_text().splitlines()]

    many = ask("many", new, "--add")
    table = id_table.load(copy / "ids")
    np.testing.assert_array_equal(table.full_ids[: len(old)], old.full_ids)
    assert table.texts.to_pylist()[len(old) :] == [row["full_id"] for row in many]
    assert len(set(table.texts.to_pylist())) == len(table) == 2 * len(old)
    (alone,) = ask("alone", [json.dumps(json.loads(lines[7]) | {"id": "alone"})])
    assert alone["codes"] == many[7]["codes"] and alone["full_id"] not in table.texts.to_pylist()


def test_index_refuses_in_one_line(finished, tmp_path):
    before = content(finished / "ids")
    given = ("--workdir", finished, "-o", tmp_path / "out.jsonl", "--cache-dir", tmp_path / "cache")
    refused(call("index", tmp_path / "nowhere.jsonl", *given), "nowhere.jsonl")
    (tmp_path / "empty.jsonl").write_text("{broken\n")
    refused(call("index", tmp_path / "empty.jsonl", *given), "empty.jsonl")
    assert content(finished / "ids") == before and not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("file, text", [("nowhere.py", "nowhere.py"), (TESTS / "runs.py", "no get_config()")])
def test_a_file_that_is_no_config_is_one_line(tmp_path, file, text):
    refused(call("main", "--config", file, "--workdir", tmp_path / "run"), text)


def test_a_workdir_that_is_a_file_is_one_line(home, tmp_path):
    (tmp_path / "run").touch()
    refused(learn(home, tmp_path / "run"), str(tmp_path / "run"))


def test_documents_that_joined_the_table_stay_when_the_command_is_called_again(home, copy):
    (home / "more.jsonl").write_text(json.dumps({"id": "later", "text": "one more document"}) + "\n")
    done = call("index", home / "more.jsonl", "--workdir", copy, "-o", copy / "new.jsonl", "--add", "--console", "quiet")
    assert done.returncode == 0, done.stderr
    before = content(copy / "ids")
    assert "later" in id_table.load(copy / "ids").ids.to_pylist()
    assert learn(home, copy).returncode == 0 and content(copy / "ids") == before


def test_a_command_waits_for_another_in_the_same_workdir(home, copy):
    with locked(copy / "workdir"):
        waiting = subprocess.Popen(
            [sys.executable, "-m", "lmindexer_jax.main", "--config", home / "config.py", "--workdir", copy, "--config.console=plain"],
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert f"another process works in {copy}" in waiting.stdout.readline()
        time.sleep(1)
        assert waiting.poll() is None
    said, _ = waiting.communicate(timeout=300)
    assert waiting.returncode == 0 and "IDs in" in said


def test_a_call_with_other_settings_before_the_first_stage_leaves_no_tokenizer_behind(home, tmp_path):
    config = runs.ours(home / "corpus.jsonl", home / "cache")
    preset = presets.resolve(config.language_model.name, pretrained=config.language_model.pretrained)
    corpus = open_corpus(config.corpus)
    for vocabulary in (262, 268):
        config.language_model.vocabulary = vocabulary
        assert open_tokenizer(config, preset, corpus, tmp_path).vocab_size == vocabulary
    bind(tmp_path, settings={}, precision="float32", config=config)
    config.language_model.vocabulary = 262
    assert open_tokenizer(config, preset, corpus, tmp_path).vocab_size == 268, "from now on it is the run's"


@pytest.mark.parametrize("module, field", [("main", "corpus.template={text}"), ("recommend", "beams=30"), ("bakeoff", "seeds=")])
def test_help_names_every_field(module, field):
    done = call(module, "--help")
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert f"--config.{field}" in done.stdout and done.stdout.startswith("usage: ")


def test_help_shows_what_a_config_sets(home):
    done = call("main", "--config", home / "config.py", "--help")
    assert f"--config.corpus.path={home / 'corpus.jsonl'}" in done.stdout
