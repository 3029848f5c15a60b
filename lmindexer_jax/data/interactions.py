"""What users did, in time order: `user TAB item item item ...`, one user a line."""

import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from lmindexer_jax.errors import UserError


def read_interactions(path: pathlib.Path, ids: Sequence[str]) -> tuple[Int[np.ndarray, " M"], Int[np.ndarray, " U+1"]]:
    """Items of all users end to end as row numbers of the corpus, and where each user begins.

    Args:
      path: the file; items are document ids, or their row numbers from 1 where no document has such an id.
      ids: of the corpus.

    Raises:
      UserError: no such file, a line without a tab, or an unknown item.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a file of lines `user TAB item item ...` as --config.interactions")
    row_of = {name: row for row, name in enumerate(ids)}
    numbers = {str(row + 1): row for row in range(len(ids))}
    items: list[int] = []
    offsets = [0]
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            user, tab, rest = line.rstrip("\n").partition("\t")
            if not tab:
                raise UserError(f"{path}:{number}: no tab between user and items; write `user TAB item item ...`")
            for name in rest.split():
                row = row_of.get(name, numbers.get(name))
                if row is None:
                    raise UserError(f"{path}:{number}: item {name!r} of user {user!r} is not in the corpus")
                items.append(row)
            offsets.append(len(items))
    return np.asarray(items), np.asarray(offsets)
