"""The user's own vectors, from .npy or .parquet, put in the order of the documents."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from lmindexer_jax.errors import UserError
from lmindexer_jax.files import load_array

_ROWS = 65_536  # rows that are checked together


def read_embeddings(path: Path, ids: Sequence[str]) -> Float[np.ndarray, "N D"]:
    """One float32 vector for every document.

    Args:
        path: `.parquet` with the columns `id` (string or whole number) and `vector` (a list of numbers), in any order and
            with any further rows; or `.npy` with one row per document, in the order of the documents, memory-mapped.
        ids: of the documents.

    Raises:
        UserError: no such file, another kind of file, a document without a vector, two vectors for one document,
            vectors of different widths, or a number that is NaN or infinite.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the document vectors as .npy or .parquet")
    if path.suffix.lower() == ".npy":
        vectors = _read_npy(path, len(ids))
    elif path.suffix.lower() == ".parquet":
        vectors = _read_parquet(path, ids)
    else:
        raise UserError(f"{path}: unknown file type; give vectors as .npy (one row per document) or .parquet (id, vector)")
    for first in range(0, len(vectors), _ROWS):
        whole = np.isfinite(vectors[first : first + _ROWS]).all(axis=1)
        if not whole.all():
            row = first + int(np.argmin(whole))
            raise UserError(f"{path}: the vector of document {ids[row]!r} holds NaN or infinity; mend or leave out the document")
    return vectors


def content_hash(path: Path) -> str:
    """Hash of the file, by which a run knows that its vectors are still the same; a UserError where it is not there."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the document vectors as .npy or .parquet")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_npy(path: Path, documents: int) -> Float[np.ndarray, "N D"]:
    try:
        array = load_array(path, mapped=True)
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not an array of numbers ({error}); save it by numpy.save") from None
    if array.ndim != 2 or array.dtype.kind not in "fiu" or 0 in array.shape:
        raise UserError(f"{path}: {array.dtype}{list(array.shape)}; give one row of numbers per document")
    if len(array) != documents:
        raise UserError(
            f"{path}: {len(array):,} rows for {documents:,} documents; a .npy file has one row per document in the corpus' "
            "order, a .parquet file (id, vector) may be in any order"
        )
    return array if array.dtype == np.float32 else array.astype(np.float32)


def _read_parquet(path: Path, ids: Sequence[str]) -> Float[np.ndarray, "N D"]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
        missing = [name for name in ("id", "vector") if name not in names]
        if missing:
            raise UserError(f"{path}: no column {missing[0]!r}; it needs the columns id and vector, and has {', '.join(names)}")
        table = pq.read_table(path, columns=["id", "vector"])
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from error
    kind = table["vector"].type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise UserError(f"{path}: column vector holds {kind}; it must hold lists of numbers")
    if not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise UserError(f"{path}: column vector holds lists of {kind.value_type}; it must hold lists of numbers")
    if not (pa.types.is_string(named := table["id"].type) or pa.types.is_large_string(named) or pa.types.is_integer(named)):
        raise UserError(f"{path}: column id holds {named}; it must hold strings or whole numbers")
    table = table.filter(pc.is_valid(table["id"]))
    known = pc.cast(table["id"], pa.string()).combine_chunks()
    if pc.count_distinct(known).as_py() < len(known):
        counts = pc.value_counts(known)
        twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        raise UserError(f"{path}: document {twice[0].as_py()!r} has two vectors; keep one")
    wanted = pa.array(ids, pa.string())
    rows = pc.index_in(wanted, value_set=known)
    if rows.null_count:
        absent = wanted.filter(pc.is_null(rows))
        raise UserError(f"{path}: no vector for document {absent[0].as_py()!r} ({len(absent):,} such of {len(ids):,})")
    picked = table["vector"].combine_chunks().take(rows)
    widths = pc.fill_null(pc.list_value_length(picked), 0).to_numpy(zero_copy_only=False)
    other = np.flatnonzero(widths != widths[0])
    if len(other) or widths[0] == 0:
        row = int(other[0]) if len(other) else 0
        raise UserError(f"{path}: the vector of document {ids[row]!r} has {widths[row]} numbers, others have {widths.max()}")
    flat = pc.cast(pc.list_flatten(picked), pa.float32(), safe=False)
    flat = flat.combine_chunks() if isinstance(flat, pa.ChunkedArray) else flat
    return pc.fill_null(flat, float("nan")).to_numpy(zero_copy_only=False).reshape(len(ids), -1)
