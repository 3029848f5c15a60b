"""Writing files so that a kill at any moment leaves the old content or the new, never a half."""

import contextlib
import os
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Give a path to write to, beside `path`; it takes the place of `path` when the block ends without an error."""
    temporary = path.with_name(f"tmp-{path.name}")
    yield temporary
    os.replace(temporary, path)
