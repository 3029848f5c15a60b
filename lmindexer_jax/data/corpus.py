"""A validated corpus on disk: built once from a stream of documents, then memory-mapped.

Texts live in an Arrow file, so that a million documents cost address space and not memory.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int

from lmindexer_jax.data.cache import build_once, cache_root
from lmindexer_jax.data.documents import CorpusConfig, Document, read_documents, source_stamp
from lmindexer_jax.data.records import Dropped
from lmindexer_jax.errors import UserError

FORMAT = 1
CHUNK = 4096  # documents per Arrow batch
SCHEMA = pa.schema(
    [("id", pa.string()), ("text", pa.large_string()), ("path", pa.list_(pa.string())), ("fields", pa.string())]
)


class Corpus:
    """N documents, memory-mapped.

    Attributes:
      hash: of all ids, texts and paths in order.
      dropped: how many records were left out, by reason.
      first_dropped: for each reason where it happened first, as a line to read.
    """

    def __init__(self, directory: Path):
        """Open a corpus that `open_corpus` built."""
        manifest = json.loads((directory / "manifest.json").read_text())
        self.hash: str = manifest["hash"]
        self.dropped: dict[str, int] = manifest["dropped"]
        self.first_dropped: dict[str, str] = manifest["first_dropped"]
        with pa.memory_map(str(directory / "documents.arrow")) as source:
            self._table = pa.ipc.open_file(source).read_all()
        self._labels: dict[int, tuple[np.ndarray, list[str]]] = {}

    def __len__(self) -> int:
        return self._table.num_rows

    def ids(self) -> np.ndarray:
        """All ids, in corpus order."""
        return self._table.column("id").to_numpy()

    def text(self, index: int) -> str:
        """Text of one document."""
        return self._table.column("text")[int(index)].as_py()

    def texts(self, indices: Iterable[int]) -> list[str]:
        """Texts of several documents."""
        if isinstance(indices, range) and indices.step == 1:
            return self._table.column("text").slice(indices.start, len(indices)).to_pylist()
        return self._table.column("text").take(pa.array(np.asarray(indices))).to_pylist()

    def path(self, index: int) -> tuple[str, ...]:
        """Category path of one document, root first."""
        return tuple(self._table.column("path")[int(index)].as_py())

    def fields(self, index: int) -> dict[str, str | list[str]]:
        """What an embedded corpus keeps beside id, text and path."""
        return json.loads(self._table.column("fields")[int(index)].as_py())

    def depth(self) -> int:
        """Length of the longest category path; 0 where nothing is labelled."""
        lengths = pc.list_value_length(self._table.column("path"))
        return int(pc.max(lengths).as_py() or 0)

    def labels(self, depth: int) -> Int[np.ndarray, " N"]:
        """A number for each different path of the first `depth` categories; -1 where a path is shorter."""
        return self._labelled(depth)[0]

    def label_names(self, depth: int) -> list[str]:
        """Paths behind the numbers of `labels`, joined by " > "."""
        return self._labelled(depth)[1]

    def _labelled(self, depth: int) -> tuple[np.ndarray, list[str]]:
        if depth not in self._labels:
            numbers: dict[tuple[str, ...], int] = {}
            out = np.full(len(self), -1, np.int32)
            row = 0
            for chunk in self._table.column("path").chunks:
                for path in chunk.to_pylist():
                    if len(path) >= depth:
                        out[row] = numbers.setdefault(tuple(path[:depth]), len(numbers))
                    row += 1
            self._labels[depth] = out, [" > ".join(path) for path in numbers]
        return self._labels[depth]


def open_corpus(config: CorpusConfig) -> Corpus:
    """The configured corpus, from the cache or validated and built now.

    Raises:
      UserError: the source is unreadable, a record is unfit and `on_bad` is FAIL, or no document is left.
    """
    asked = (source_stamp(config), config.split, config.id_field, config.template, config.path_field)
    key = hashlib.sha256(repr((FORMAT, *asked, str(config.on_bad), config.max_documents)).encode()).hexdigest()[:32]
    return Corpus(build_once(cache_root(config.cache_dir) / "corpora" / key, lambda path: _build(config, path)))


def _build(config: CorpusConfig, directory: Path) -> None:
    digest = hashlib.sha256()
    dropped: dict[str, int] = {}
    first_dropped: dict[str, str] = {}
    pending: list[Document] = []
    count = 0
    with pa.OSFile(str(directory / "documents.arrow"), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for result in read_documents(config):
            if isinstance(result, Dropped):
                dropped[result.reason] = dropped.get(result.reason, 0) + 1
                first_dropped.setdefault(result.reason, str(result))
                continue
            digest.update(json.dumps([result.id, result.text, result.path]).encode())
            pending.append(result)
            count += 1
            if len(pending) == CHUNK:
                writer.write_batch(_as_batch(pending))
                pending = []
        if pending:
            writer.write_batch(_as_batch(pending))
    if not count:
        reasons = "; ".join(first_dropped.values()) or "the source is empty"
        raise UserError(f"{config.path or config.name}: no document is left: {reasons}")
    manifest = {"hash": digest.hexdigest(), "dropped": dropped, "first_dropped": first_dropped}
    (directory / "manifest.json").write_text(json.dumps(manifest))


def _as_batch(documents: list[Document]) -> pa.RecordBatch:
    columns = [
        [d.id for d in documents],
        [d.text for d in documents],
        [list(d.path) for d in documents],
        [json.dumps(dict(d.fields)) for d in documents],
    ]
    return pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, SCHEMA)], schema=SCHEMA)
