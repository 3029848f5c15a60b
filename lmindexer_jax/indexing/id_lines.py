"""IDs as lines of JSON, one document each, as `index` writes them and any other tool may:

    {"id": "B001", "codes": [12, 7, 3], "counter": 0, "full_id": "12-7-3"}
"""

import json
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from lmindexer_jax.errors import UserError
from lmindexer_jax.files import replacing
from lmindexer_jax.indexing.id_table import IdTable

MOST = 2**24  # the highest code that is read: books are as large as their highest code, and counted code by code
LINE = 'a line is {"id": "B001", "codes": [12, 7, 3]}, with codes from 0 on'


def write(path: pathlib.Path, table: IdTable, documents: Sequence[str]) -> None:
    """Write the IDs of some documents of a table, in the order given."""
    texts = table.texts
    row_of = {name: row for row, name in enumerate(table.ids.to_pylist())}
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for name in documents:
            row = row_of[name]
            line = {"id": name, "codes": table.codes[row].tolist(), "counter": int(table.counter[row])}
            file.write(json.dumps(line | {"full_id": texts[row].as_py()}, ensure_ascii=False) + "\n")


def read(path: pathlib.Path, documents: Sequence[str]) -> Int[np.ndarray, "N T"]:
    """Codes of the documents, in their order.

    Raises:
      UserError: what `read_all` raises, or a document without a line.
    """
    names, codes = read_all(path)
    row_of = {name: row for row, name in enumerate(names)}
    missing = [name for name in documents if name not in row_of]
    if missing:
        raise UserError(f"{path}: no line for {missing[0]!r}, and {len(missing) - 1:,} other documents; give all of them")
    return codes[[row_of[name] for name in documents]]


def read_all(path: pathlib.Path) -> tuple[list[str], Int[np.ndarray, "N T"]]:
    """Documents and their codes, in the file's order; of a line only `id` and `codes` are read.

    Raises:
      UserError: no such file, a line that is none of the above, a code above `MOST`, two lines of one document, or codes of
        several lengths.
    """
    found: dict[str, list[int]] = {}
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # names may hold what else ends a line
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    length = None
    for number, line in enumerate(lines, start=1):
        name, codes = _parsed(line, f"{path}:{number}")
        length = length or len(codes)
        if len(codes) != length:
            raise UserError(f"{path}:{number}: {len(codes)} codes, where the lines before have {length}")
        if name in found:
            raise UserError(f"{path}:{number}: {name!r} has a line already; keep one of them")
        found[name] = codes
    return list(found), np.array(list(found.values()), np.int32)


def _parsed(line: str, where: str) -> tuple[str, list[int]]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg})") from None
    except (ValueError, RecursionError):
        raise UserError(f"{where}: a number too long, or lists in lists too deep; {LINE}") from None
    name, codes = (row.get("id"), row.get("codes")) if isinstance(row, dict) else (None, None)
    good = isinstance(codes, list) and codes and all(type(code) is int and code >= 0 for code in codes)
    if not isinstance(name, str) or not good:
        raise UserError(f"{where}: {LINE}")
    if max(codes) > MOST:
        raise UserError(f"{where}: a code above {MOST:,}; number the codes of each position from 0")
    return name, codes
