"""Things built once and reopened: a directory appears whole or not at all, whoever is killed while building it."""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


def cache_root(cache_dir: str) -> Path:
    """Where prepared corpora and token stores live: `cache_dir`, else $LMINDEXER_CACHE, else ~/.cache/lmindexer_jax."""
    return Path(cache_dir or os.environ.get("LMINDEXER_CACHE") or "~/.cache/lmindexer_jax").expanduser()


def keep_compiled(cache_dir: str) -> None:
    """Let JAX keep what it compiles in the cache, so that the next process need not; a folder set otherwise stays."""
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_root(cache_dir) / "compiled"))


@contextlib.contextmanager
def locked(directory: Path, *, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Wait until no other process works on `directory`, which need not exist, and keep others waiting meanwhile. The system
    frees the lock when its holder dies. Where a file system knows no locks, nobody waits.

    Args:
      directory: what is worked on.
      waiting: called before a wait.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with open(directory.with_name(f".{directory.name}.lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield


def build_once(directory: Path, build: Callable[[Path], None]) -> Path:
    """Returns `directory`, built by `build(partial_directory)` if it is not there yet.

    The build goes to a hidden neighbour that is renamed when it is complete. A second process waits for the first; what a
    killed build has left is removed by the next one.
    """
    if directory.exists():
        return directory
    partial = directory.with_name(f".{directory.name}.partial")
    with locked(directory):
        if directory.exists():
            return directory
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir()
        try:
            build(partial)
            partial.rename(directory)
        finally:  # also after Ctrl-C or a full disk: a build that does not end well leaves nothing
            if partial.exists():
                shutil.rmtree(partial)
    return directory
