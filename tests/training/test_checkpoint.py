"""Checkpoints come back to the bit, damage and misfits are named, and no kill or full disk costs an earlier one."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmindexer_jax.errors import UserError
from lmindexer_jax.training.checkpoint import Checkpoints, DamagedCheckpoint, load_tree, save_tree


def state(seed=0):
    key = jax.random.key(seed)
    params = {
        "encoder": {"kernel": jax.random.normal(key, (7, 5)), "half": jnp.ones((3,), jnp.bfloat16) / 3},
        "codebook_0": jax.random.normal(key, (4, 2)) * 1e-30,
    }
    moments = optax.adam(1e-3).init(params)
    return {"params": params, "moments": moments, "codes": np.arange(6).reshape(3, 2), "step": jnp.int32(seed)}


def same(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert isinstance(a, np.ndarray) == isinstance(b, np.ndarray) and a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_states_come_back_to_the_bit(tmp_path):
    meta = {"stage": "position 1", "step": 3, "iterator": {"next": [1, 2]}}
    with Checkpoints(tmp_path / "new" / "folder") as checkpoints:
        assert checkpoints.steps() == []
        checkpoints.save(3, state(3), meta=meta)
        meta["step"] = "changed after the save began"
        checkpoints.wait()
        restored, read = checkpoints.restore(3, state())
        same(restored, state(3))
        assert read == checkpoints.meta(3) == {"stage": "position 1", "step": 3, "iterator": {"next": [1, 2]}}


def test_the_newest_are_kept(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 10, 9):
            checkpoints.save(step, state(step), meta={})
        checkpoints.wait()
        assert checkpoints.steps() == [9, 10]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000009", "00000010"]


def test_arrays_may_be_given_away_once_save_returns(tmp_path):
    """The next training step overwrites the buffers while the checkpoint is still being written."""
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 0 - 1, tree), donate_argnums=0)
    device = {"w": jnp.arange(2_000_000, dtype=jnp.float32)}
    host = np.arange(10)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"device": device, "host": host}, meta={})
        jax.block_until_ready(overwrite(device))
        host[:] = -1
    tree = load_tree(tmp_path / "00000001")
    np.testing.assert_array_equal(tree["device"]["w"], np.arange(2_000_000))
    np.testing.assert_array_equal(tree["host"], np.arange(10))


def test_a_tree_is_replaced_whole(tmp_path):
    (tmp_path / "neighbour.txt").write_text("not ours")
    for seed in (0, 1):
        save_tree(tmp_path, state(seed)["params"])
        same(load_tree(tmp_path), jax.tree.map(np.asarray, state(seed)["params"]))
    assert len(list(tmp_path.glob("data-*"))) == 1
    assert (tmp_path / "neighbour.txt").read_text() == "not ours"


@pytest.mark.parametrize("leaf", [3, "text", np.int64(3), jnp.zeros((0, 4))])
def test_what_cannot_be_saved_is_said_at_once(tmp_path, leaf):
    with pytest.raises(ValueError, match="a/b"):
        save_tree(tmp_path / "tree", {"a": {"b": leaf}})
    assert not (tmp_path / "tree").exists()


def test_a_misfit_is_one_line_with_its_first_differences(tmp_path):
    save = {f"layer_{i}": jnp.zeros((4, 2)) for i in range(9)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, save, meta={})
        checkpoints.wait()
        for wanted, texts in {
            "shape": (save | {"layer_3": jnp.zeros((4, 3))}, ["layer_3: saved float32[4, 2], wanted float32[4, 3]"]),
            "type": (save | {"layer_3": jnp.zeros((4, 2), jnp.int32)}, ["wanted int32[4, 2]"]),
            "more": (save | {"extra": jnp.zeros((1,))}, ["extra: saved nothing, wanted float32[1]"]),
            "less": ({"layer_0": save["layer_0"]}, ["layer_1: saved float32[4, 2], wanted nothing", "and 5 more"]),
        }.values():
            with pytest.raises(UserError) as error:
                checkpoints.restore(1, wanted)
            assert not isinstance(error.value, DamagedCheckpoint), "no reason to take an older one"
            assert "\n" not in str(error.value) and len(str(error.value)) < 400
            for text in texts:
                assert text in str(error.value)


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [truncate, flip, pathlib.Path.unlink], ids=["truncated", "one bit", "missing"])
def test_harm_to_any_file_is_found(tmp_path, harm):
    save_tree(tmp_path, {"w": jnp.arange(100.0), "b": jnp.ones((3,))})
    for path in files(tmp_path):
        content = path.read_bytes()
        if harm is flip and not content:
            continue
        harm(path)
        if path.exists() and path.read_bytes() == content:
            continue  # an empty file cannot be cut
        with pytest.raises(DamagedCheckpoint) as error:
            load_tree(tmp_path)
        assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)
        path.write_bytes(content)
    same(load_tree(tmp_path), {"b": np.ones(3, np.float32), "w": np.arange(100.0, dtype=np.float32)})


def positions(size, sampled):
    """Where to flip a bit: anywhere, or at some places of which the first and the last are two."""
    if size <= sampled:
        return range(size)
    return sorted({0, size - 1, *random.Random(size).sample(range(size), sampled)})


@pytest.mark.parametrize("sampled", [12, pytest.param(1 << 30, marks=pytest.mark.slow)], ids=["some bytes", "every byte"])
def test_no_flipped_byte_is_believed(tmp_path, sampled):
    """The tree that was saved or a refusal: a byte of white space in the manifest alone may change without harm."""
    tree = {"w": jnp.arange(6.0), "b": jnp.ones((3,), jnp.bfloat16)}
    save_tree(tmp_path, tree)
    wanted, refused, harmless = jax.tree.map(np.asarray, tree), 0, 0
    for path in files(tmp_path):
        content = path.read_bytes()
        for at in positions(len(content), sampled):
            changed = bytearray(content)
            changed[at] ^= 1 << random.Random(at).randrange(8)
            path.write_bytes(changed)
            try:
                same(load_tree(tmp_path), wanted)
                harmless += 1
                assert path.name == "manifest.json" and content[at : at + 1].isspace()
            except DamagedCheckpoint as error:
                refused += 1
                assert "\n" not in str(error) and str(tmp_path) in str(error)
        for cut in positions(len(content), sampled):
            path.write_bytes(content[:cut])
            with pytest.raises(DamagedCheckpoint):
                load_tree(tmp_path)
        path.write_bytes(content)
    same(load_tree(tmp_path), wanted)
    assert refused > 10 * harmless


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"step": 3}'])
def test_foreign_folders_are_refused(tmp_path, text):
    with pytest.raises(DamagedCheckpoint, match="no checkpoint here"):
        load_tree(tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DamagedCheckpoint):
        load_tree(tmp_path)


def test_another_format_is_named(tmp_path):
    save_tree(tmp_path, {"w": jnp.ones((2,))})
    path = tmp_path / "manifest.json"
    content = json.loads(path.read_text())["content"] | {"format": 99}
    checksum = zlib.crc32(json.dumps(content, sort_keys=True).encode())
    path.write_text(json.dumps({"checksum": checksum, "content": content}))
    with pytest.raises(UserError, match="format 99"):
        load_tree(tmp_path)


def test_the_newest_that_is_whole_is_taken(tmp_path):
    told = []
    find = {"like": lambda meta: state(), "fingerprint": "mine", "warn": told.append}
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        assert checkpoints.newest(**find) is None
        for step in (1, 2):
            checkpoints.save(step, state(step), meta={"fingerprint": "mine"})
        checkpoints.wait()
        step, found, meta = checkpoints.newest(**find)
        assert step == 2 and meta == {"fingerprint": "mine"} and not told
        same(found, state(2))
        truncate(max(files(checkpoints.directory / "00000002"), key=lambda path: path.stat().st_size))
        step, found, _ = checkpoints.newest(**find)
        assert step == 1
        same(found, state(1))
        assert len(told) == 1 and "00000002" in told[0] and "trying the checkpoint before it" in told[0]
        with pytest.raises(UserError, match="of other settings or data"):
            checkpoints.newest(**find | {"fingerprint": "yours"})
        with pytest.raises(UserError, match="of other settings or data"):
            checkpoints.refuse_others("yours")
        checkpoints.refuse_others("mine")
        truncate(max(files(checkpoints.directory / "00000001"), key=lambda path: path.stat().st_size))
        with pytest.raises(UserError, match="no checkpoint can be read"):
            checkpoints.newest(**find)


def test_a_damaged_step_is_replaced_and_costs_no_other(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state(step), meta={})
        checkpoints.wait()
        truncate(tmp_path / "00000003" / "manifest.json")
        with pytest.raises(DamagedCheckpoint):
            checkpoints.restore(3, state())
        same(checkpoints.restore(2, state())[0], state(2))
        checkpoints.save(3, state(30), meta={})
        checkpoints.wait()
        same(checkpoints.restore(3, state())[0], state(30))
        assert checkpoints.steps() == [2, 3]


FULL = """
import resource, signal, sys
import jax, jax.numpy as jnp
from lmindexer_jax.training.checkpoint import Checkpoints
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
checkpoints = Checkpoints(sys.argv[1])
checkpoints.save(1, {"w": jnp.arange(1000.0)}, meta={})
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
checkpoints.save(2, {"w": jax.random.normal(jax.random.key(0), (500_000,))}, meta={})
try:
    checkpoints.close()
except OSError as error:
    print("told:", error)
"""


def test_a_write_that_fails_is_told_and_leaves_the_others(tmp_path):
    """A limit on file sizes stands in for a full disk."""
    done = run(FULL, tmp_path)
    told, rest = done.communicate()
    assert told.startswith("told:") and told.count("\n") == 1, told
    assert rest == "", "nothing else is printed"
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
        like = {"w": jnp.zeros((1000,))}
        np.testing.assert_array_equal(checkpoints.restore(1, like)[0]["w"], np.arange(1000.0))
        assert not list(tmp_path.glob("*2/data-*")), "the disk gets its space back"
        checkpoints.save(2, like, meta={})
    assert checkpoints.steps() == [1, 2]


LOOP = """
import itertools, sys
import jax.numpy as jnp
from lmindexer_jax.training.checkpoint import Checkpoints, save_tree
checkpoints = Checkpoints(sys.argv[1] + "/steps")
for step in itertools.count((checkpoints.steps() or [0])[-1] + 1):
    tree = {f"leaf_{i}": jnp.full((20_000,), step, jnp.int32) for i in range(8)}
    checkpoints.save(step, tree, meta={"step": step})
    save_tree(sys.argv[1] + "/tree", tree)
    if step % 3 == 0:
        print(step, flush=True)
"""


def run(script, folder):
    root = pathlib.Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", script, str(folder)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path, kills):
    rng = random.Random(kills)
    like = {f"leaf_{i}": jnp.zeros((20_000,), jnp.int32) for i in range(8)}
    reached = 0
    for _ in range(kills):
        process = run(LOOP, tmp_path)
        told = int(process.stdout.readline())  # saving is under way
        time.sleep(rng.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with Checkpoints(tmp_path / "steps") as checkpoints:
            steps = checkpoints.steps()
            assert steps[-1] >= max(told - 1, reached), "no more than the save under way is lost"
            for step in steps:
                tree, meta = checkpoints.restore(step, like)
                assert meta == {"step": step} and all((leaf == step).all() for leaf in tree.values())
            reached = steps[-1]
        leaves = list(load_tree(tmp_path / "tree").values())
        assert len({int(value) for leaf in leaves for value in np.unique(leaf)}) == 1
    assert len(list((tmp_path / "steps").iterdir())) <= 4, "what kills leave behind does not pile up"
