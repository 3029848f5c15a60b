"""The corpus: documents in a memory-mapped Arrow file, built once from the stream of validated documents."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int

from lmindexer_jax.data.cache import build_once, cache_root
from lmindexer_jax.data.documents import CorpusConfig, Document, read_documents, source_stamp
from lmindexer_jax.data.records import Dropped
from lmindexer_jax.errors import UserError

_FORMAT = 2  # raised when the files below change their meaning; older builds are then left alone and made anew
_ROWS = 4096  # documents per Arrow batch
_CHARACTERS = 1 << 24  # and at most this much text, so that long documents do not pile up in memory


class Corpus:
    """N documents in the order of their source, read from disk as they are asked for.

    Attributes:
        hash: of every id, text and category path, in order.
        dropped: how many records were left out, by reason.
        examples: the first record left out for each reason, with its place.
        fields: names of further columns, see `field`.
    """

    def __init__(self, directory: Path):
        """Opens a built corpus.

        Raises:
            UserError: the files are damaged.
        """
        try:
            with pa.memory_map(str(directory / "documents.arrow")) as file:
                self._table = pa.ipc.open_file(file).read_all()
            meta = json.loads((directory / "corpus.json").read_text())
        except (pa.ArrowInvalid, OSError, ValueError) as error:
            raise UserError(f"{directory}: damaged corpus ({str(error).splitlines()[0]}); delete the folder") from error
        self.hash: str = meta["hash"]
        self.dropped: dict[str, int] = meta["dropped"]
        self.examples: dict[str, str] = meta["examples"]
        self.fields = tuple(name for name in self._table.column_names if name not in ("id", "text", "path"))

    def __len__(self) -> int:
        return self._table.num_rows

    def ids(self) -> pa.ChunkedArray:
        """Document ids, memory-mapped (N,)."""
        return self._table["id"]

    def text(self, index: int) -> str:
        """The text of one document."""
        return self._table["text"][int(index)].as_py()

    def texts(self, indices: Sequence[int]) -> list[str]:
        """The texts of some documents."""
        return [self.text(index) for index in indices]

    def batches(self) -> Iterator[list[str]]:
        """All texts in order, a few thousand at a time."""
        for chunk in self._table["text"].chunks:
            yield chunk.to_pylist()

    def path(self, index: int) -> tuple[str, ...]:
        """The category path of one document, root first; empty where it has no label."""
        return tuple(self._table["path"][int(index)].as_py())

    def paths(self, indices: Int[np.ndarray, " M"]) -> list[tuple[str, ...]]:
        """The category paths of some documents."""
        return [tuple(path) for path in self._table["path"].take(pa.array(indices)).to_pylist()]

    def field(self, name: str) -> pa.ChunkedArray:
        """A further column (N,) that the source keeps, one of `fields`."""
        return self._table[name]

    def depth(self) -> int:
        """Length of the longest category path."""
        return int(self._depths().max(initial=0))

    def labels(self, depth: int) -> Int[np.ndarray, " N"]:
        """One int32 label per distinct `path[:depth]`, numbered without gaps; -1 where the path is shorter."""
        return self._label(depth)[0]

    def label_names(self, depth: int) -> list[tuple[str, ...]]:
        """The `path[:depth]` that each label of `labels(depth)` stands for."""
        return [self.path(index)[:depth] for index in self._label(depth)[1]]

    def _depths(self) -> Int[np.ndarray, " N"]:
        return pc.list_value_length(self._table["path"]).to_numpy()

    def _label(self, depth: int) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " C"]]:
        """Labels at a depth, and for each label the first document that bears it."""
        depths = self._depths()
        parts = pc.list_flatten(self._table["path"]).combine_chunks().dictionary_encode()
        values = parts.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        starts = np.cumsum(depths) - depths
        labelled = np.flatnonzero(depths >= depth)
        label = np.zeros(len(labelled), np.int64)
        first = np.zeros(min(1, len(labelled)), np.int64)
        for level in range(depth):
            # Equal prefix so far and equal next part: labels stay small, so the product cannot overflow.
            pairs = label * len(parts.dictionary) + values[starts[labelled] + level]
            _, first, label = np.unique(pairs, return_index=True, return_inverse=True)
        labels = np.full(len(depths), -1, np.int32)
        labels[labelled] = label
        return labels, labelled[first]


def open_corpus(config: CorpusConfig, *, progress: Callable[[int], None] | None = None) -> Corpus:
    """Returns the corpus that `config` describes; reads and validates its source the first time only.

    A changed file (size or time), data set or setting gives another corpus; a killed build leaves nothing behind.

    Args:
        config: of the corpus.
        progress: called now and then while building, with the number of documents taken since the last call.

    Raises:
        UserError: see `read_documents`; also when no document is left.
    """
    settings = dataclasses.asdict(config) | {"cache_dir": "", "stamp": source_stamp(config), "format": _FORMAT}
    key = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=12).hexdigest()
    stem = Path(config.path).name.split(".")[0] if config.path else config.name.replace("/", "_").replace(":", "_")
    directory = cache_root(config.cache_dir) / "corpora" / f"{stem[:40]}-{key}"  # systems limit names to some 255 bytes
    return Corpus(build_once(directory, lambda partial: _build(partial, config, progress)))


def _build(directory: Path, config: CorpusConfig, progress: Callable[[int], None] | None) -> None:
    digest = hashlib.blake2b(digest_size=16)
    dropped: Counter[str] = Counter()
    examples: dict[str, str] = {}

    def documents() -> Iterator[Document]:
        for item in read_documents(config):
            if isinstance(item, Dropped):
                dropped[item.reason] += 1
                examples.setdefault(item.reason, str(item))
                continue
            for part in (item.id, item.text, str(len(item.path)), *item.path):
                encoded = part.encode()
                digest.update(len(encoded).to_bytes(8) + encoded)
            yield item

    count = _write(directory / "documents.arrow", documents(), progress)
    if not count:
        reasons = ", ".join(f"{number} {reason} (first: {examples[reason]})" for reason, number in dropped.items())
        raise UserError(f"{config.path or config.name}: no documents left; {reasons or 'it holds no records'}")
    meta = {"hash": digest.hexdigest(), "dropped": dropped, "examples": examples}
    (directory / "corpus.json").write_text(json.dumps(meta, indent=1))


def _write(path: Path, documents: Iterator[Document], progress: Callable[[int], None] | None) -> int:
    """Streams documents into an Arrow file; returns how many there were."""
    schema: pa.Schema | None = None
    count = 0
    with pa.OSFile(str(path), "wb") as file:
        writer = None
        for rows in _grouped(documents):
            if schema is None:
                schema = _schema(rows[0])
                writer = pa.ipc.new_file(file, schema)
            columns = {"id": [row.id for row in rows], "text": [row.text for row in rows], "path": [row.path for row in rows]}
            columns |= {name: [row.fields[name] for row in rows] for name in rows[0].fields}
            writer.write_batch(pa.record_batch(columns, schema=schema))
            count += len(rows)
            if progress:
                progress(len(rows))
        if writer:
            writer.close()
    return count


def _grouped(documents: Iterator[Document]) -> Iterator[list[Document]]:
    rows: list[Document] = []
    characters = 0
    for document in documents:
        rows.append(document)
        characters += len(document.text)
        if len(rows) == _ROWS or characters > _CHARACTERS:
            yield rows
            rows, characters = [], 0
    if rows:
        yield rows


def _schema(document: Document) -> pa.Schema:
    """Columns of the file; the further fields of the first document are those of all."""
    text, texts = pa.large_string(), pa.list_(pa.string())
    further = [(name, texts if isinstance(value, list) else text) for name, value in document.fields.items()]
    return pa.schema([("id", text), ("text", text), ("path", texts), *further])
