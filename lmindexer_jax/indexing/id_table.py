"""The ID table: what everything downstream of the indexer loads.

A directory of two files. `ids-<hash>.parquet` has one row per document:

    id        string                 the document's own identifier
    codes     list<int32>, T long    the learned codes
    counter   int32                  0, 1, 2, ... over the documents that share all T codes, in the order of arrival
    full_id   string                 "12-7-3"; "12-7-3-1" where the counter is not 0

`manifest.json` says what the table belongs to and names the Parquet file with its SHA-256. It is written last and
replaced in one step, so that at every moment the directory holds one whole table: the old one or the new one.
"""

import dataclasses
import functools
import hashlib
import io
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int

import lmindexer_jax
from lmindexer_jax.errors import UserError
from lmindexer_jax.files import sealed, unsealed

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a table belongs to.

    Attributes:
      config: the settings of the run that made it.
      corpus_hash: of the corpus that the codes were learned from; documents appended later do not change it.
      model_hash: of the parameters that assigned the codes.
      codebook_sizes: K of every position.
      documents: rows of the table.
      created_by: version of this package.
      extra: whatever else the run wants to say, as JSON.
    """

    config: dict[str, Any]
    corpus_hash: str
    model_hash: str
    codebook_sizes: tuple[int, ...]
    documents: int = 0
    created_by: str = lmindexer_jax.__version__
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION


@dataclasses.dataclass(frozen=True, eq=False)
class IdTable:
    """Documents and their IDs, in corpus order; make one with `build` or `load`."""

    ids: pa.Array
    codes: Int[np.ndarray, "N T"]
    counter: Int[np.ndarray, " N"]
    manifest: Manifest

    def __len__(self) -> int:
        """Documents."""
        return len(self.ids)

    @property
    def full_ids(self) -> Int[np.ndarray, "N T+1"]:
        """The codes and the counter, int32: no two rows are equal."""
        return np.column_stack([self.codes, self.counter])

    @property
    def texts(self) -> pa.Array:
        """The full IDs as text: "12-7-3", or "12-7-3-1" where the counter is not 0."""
        columns = [pc.cast(pa.array(column), pa.string()) for column in self.full_ids.T]
        short = pc.binary_join_element_wise(*columns[:-1], "-")
        return pc.if_else(pa.array(self.counter > 0), pc.binary_join_element_wise(short, columns[-1], "-"), short)

    def row(self, document: str) -> int:
        """The row of a document.

        Raises:
          UserError: it is not in the table.
        """
        row = pc.index(self.ids, pa.scalar(document, self.ids.type)).as_py()
        if row < 0:
            raise UserError(f"document {document!r} is not in the ID table of {len(self):,} documents")
        return row

    def id_of(self, document: str) -> str:
        """The full ID of a document as text; a UserError where it is not in the table."""
        row = self.row(document)
        return _text((*self.codes[row], self.counter[row]) if self.counter[row] else self.codes[row])

    def parse(self, text: str) -> tuple[int, ...]:
        """The codes of "12-7", a prefix or a full ID.

        Raises:
          UserError: it is no ID of this table's form.
        """
        sizes = self.manifest.codebook_sizes
        parts = text.split("-")
        if not all(part.isascii() and part.isdigit() for part in parts) or len(parts) > len(sizes) + 1:
            raise UserError(f"{text!r} is no ID: up to {len(sizes)} codes and a counter, as in {_text(range(len(sizes)))!r}")
        codes = tuple(map(int, parts))
        for position, (code, size) in enumerate(zip(codes, sizes, strict=False), 1):
            if code >= size:
                raise UserError(f"{text!r} is no ID: code {position} goes from 0 to {size - 1}")
        return codes

    def documents_of(self, prefix: Sequence[int]) -> Int[np.ndarray, " M"]:
        """Rows, ascending, of the documents whose full ID begins with the prefix; () means all of them."""
        low, high = 0, len(self)
        for column, code in zip(self.full_ids.T, prefix, strict=False):
            inside = column[self._sorted[low:high]]
            low, high = low + np.searchsorted(inside, code), low + np.searchsorted(inside, code, side="right")
        return np.sort(self._sorted[low:high])

    @functools.cached_property
    def _sorted(self) -> Int[np.ndarray, " N"]:
        return np.lexsort(self.full_ids.T[::-1])

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the documents' ids and codes in their order: what an artefact made from the table remembers."""
        _, offsets, characters = self.ids.buffers()
        ends = np.frombuffer(offsets, np.int32)[self.ids.offset : self.ids.offset + len(self) + 1]
        found = hashlib.sha256(np.diff(ends).tobytes())
        found.update(memoryview(characters)[ends[0] : ends[-1]] if characters else b"")
        found.update(np.ascontiguousarray(self.codes, np.int32))
        return found.hexdigest()

    def append(self, ids: Sequence[str] | pa.Array, codes: Int[np.ndarray, "M T"]) -> "IdTable":
        """A longer table: new documents take the next free counters, and no old ID changes.

        Raises:
          UserError: a document is already there or twice among the new ones, or its codes do not fit the codebooks.
        """
        joined = pa.concat_arrays([self.ids, _as_strings(ids)])
        return build(joined, np.concatenate([self.codes, _as_codes(codes, self.manifest)]), self.manifest)

    def save(self, directory: str | os.PathLike) -> None:
        """Write the table; whatever happens meanwhile, a table that was there before stays whole until it is replaced."""
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        content = self._parquet()
        digest = hashlib.sha256(content).hexdigest()
        name = f"ids-{digest[:16]}.parquet"
        manifest = sealed(dataclasses.asdict(self.manifest) | {"parquet": name, "sha256": digest})
        _write(directory / name, content)
        _write(directory / MANIFEST, json.dumps(manifest, indent=2).encode() + b"\n")
        for other in directory.glob("ids-*.parquet"):
            if other.name != name:
                other.unlink()

    def _parquet(self) -> bytes:
        flat = pa.array(self.codes.reshape(-1))
        table = pa.table(
            {
                "id": self.ids,
                "codes": pa.FixedSizeListArray.from_arrays(flat, self.codes.shape[1]),
                "counter": pa.array(self.counter),
                "full_id": self.texts,
            }
        )
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        return buffer.getvalue()


def build(ids: Sequence[str] | pa.Array, codes: Int[np.ndarray, "N T"], manifest: Manifest) -> IdTable:
    """A table of documents and their codes; documents that share all codes are counted in their order.

    Raises:
      UserError: two documents have the same id, or codes do not fit the manifest's codebooks.
    """
    ids, codes = _as_strings(ids), _as_codes(codes, manifest)
    if len(ids) != len(codes):
        raise UserError(f"ID table: {len(ids):,} documents but codes for {len(codes):,}")
    if pc.count_distinct(ids).as_py() < len(ids):
        counts = pc.value_counts(ids)
        twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        raise UserError(f"ID table: document {twice[0].as_py()!r} is there twice ({len(twice):,} such); give each its own id")
    return IdTable(ids, codes, _counters(codes), dataclasses.replace(manifest, documents=len(ids)))


def load(directory: str | os.PathLike, *, corpus_hash: str | None = None, model_hash: str | None = None) -> IdTable:
    """The table that a run saved.

    Args:
      corpus_hash: refuse a table of another corpus.
      model_hash: refuse a table of other parameters.

    Raises:
      UserError: no table, a damaged one, another schema, or another corpus or model than asked for.
    """
    path = pathlib.Path(directory) / MANIFEST
    while True:
        before = path.read_bytes() if path.is_file() else b""
        try:
            return _load(path, corpus_hash=corpus_hash, model_hash=model_hash)
        except UserError:
            if not path.is_file() or path.read_bytes() == before:
                raise  # else another process has replaced the table meanwhile, and removed the old one's file


def _load(path: pathlib.Path, *, corpus_hash: str | None, model_hash: str | None) -> IdTable:
    if not path.is_file():
        raise UserError(f"{path}: no such file; a finished run writes it, so let the run finish first")
    try:
        stored = json.loads(path.read_bytes())
        version = stored["schema_version"]
        if version != SCHEMA_VERSION:
            raise UserError(f"{path}: schema {version}, but this version reads {SCHEMA_VERSION}; index the corpus again")
        stored = unsealed(stored)
        name, digest = stored.pop("parquet"), stored.pop("sha256")
        manifest = Manifest(**stored | {"codebook_sizes": tuple(stored["codebook_sizes"])})
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not a whole manifest; restore the file or run the indexer again") from None
    for kind, found, wanted in (
        ("corpus", manifest.corpus_hash, corpus_hash),
        ("model", manifest.model_hash, model_hash),
    ):
        if wanted is not None and found != wanted:
            raise UserError(f"{path}: made for {kind} {found[:12]}, not for {kind} {wanted[:12]}; index the corpus again")
    parquet = path.with_name(name)
    content = parquet.read_bytes() if parquet.is_file() else b""
    if hashlib.sha256(content).hexdigest() != digest:
        state = "damaged or cut short" if content else "missing or empty"
        raise UserError(f"{parquet}: {state}; restore the file or run the indexer again")
    # In this thread: one of Arrow's that still holds a Python object when the interpreter ends aborts it (arrow 50482).
    table = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False).combine_chunks()
    codes = table["codes"].combine_chunks().flatten().to_numpy().reshape(-1, len(manifest.codebook_sizes))
    return IdTable(table["id"].combine_chunks(), codes, table["counter"].to_numpy(), manifest)


def _as_strings(ids: Sequence[str] | pa.Array) -> pa.Array:
    array = ids if isinstance(ids, pa.Array) else pa.array(ids, pa.string())
    return array.cast(pa.string())


def _as_codes(codes: Int[np.ndarray, "N T"], manifest: Manifest) -> Int[np.ndarray, "N T"]:
    codes, sizes = np.ascontiguousarray(codes, np.int32), manifest.codebook_sizes
    if codes.ndim != 2 or codes.shape[1] != len(sizes):
        raise UserError(f"ID table: codes of shape {codes.shape}, but the manifest has {len(sizes)} codebooks")
    wrong = (codes < 0) | (codes >= np.asarray(sizes, np.int32)[None, :])
    if wrong.any():
        row, position = np.argwhere(wrong)[0]
        code, size = codes[row, position], sizes[position]
        raise UserError(f"ID table: row {row} has code {code} at position {position + 1}, which goes from 0 to {size - 1}")
    return codes


def _counters(codes: Int[np.ndarray, "N T"]) -> Int[np.ndarray, " N"]:
    """How many earlier rows have the same codes."""
    order = np.lexsort(codes.T[::-1])  # stable: equal codes stay in their order
    ordered = codes[order]
    fresh = np.append(True, np.any(ordered[1:] != ordered[:-1], axis=1))[: len(codes)]
    places = np.arange(len(codes))
    counter = np.empty(len(codes), np.int32)
    counter[order] = places - np.maximum.accumulate(np.where(fresh, places, 0))
    return counter


def _text(codes: Sequence[int]) -> str:
    return "-".join(map(str, codes))


def _write(path: pathlib.Path, content: bytes) -> None:
    """Put a whole file in place in one step, on the disk before it is seen."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
