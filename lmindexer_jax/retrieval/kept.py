"""A retriever on disk. `W/retriever/` holds

    params/          a checkpoint
    tokenizer/
    trie/            of the ID table
    vectors/         of the documents, where they are compared with the query's gist: a file for each piece that was added, named by
                     its first row
    retriever.json   written last: without it there is none
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lmindexer_jax.data.tokenizer import Tokenizer, load_tokenizer
from lmindexer_jax.errors import UserError
from lmindexer_jax.files import load_array, replacing, save_array
from lmindexer_jax.indexing.id_table import IdTable
from lmindexer_jax.models.bert import BertConfig
from lmindexer_jax.models.retriever import Params, Retriever, RetrieverConfig, RetrieverFunctions
from lmindexer_jax.models.t5 import T5Config
from lmindexer_jax.retrieval import trie as tries
from lmindexer_jax.retrieval.build import of_table
from lmindexer_jax.retrieval.temper import TEMPERATURE
from lmindexer_jax.training import hosts
from lmindexer_jax.training.checkpoint import load_tree, save_tree

HOME, META, VECTORS, FORMAT = "retriever", "retriever.json", "vectors", 2
FAMILIES = {"t5": T5Config, "bert": BertConfig}


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """What is read back.

    Attributes:
      query_length: tokens that are read of a query.
      vectors: (N, D) in half precision, unit length, in the order of the table; NaN for a document that has none. None
        without a gist.
      temperature: of the cosines that join log p.
    """

    functions: RetrieverFunctions
    params: Params
    tokenizer: Tokenizer
    trie: tries.Trie
    query_length: int
    vectors: Float[np.ndarray, "N D"] | None
    temperature: float


def save(
    workdir: pathlib.Path, functions: RetrieverFunctions, params: Params, tokenizer: Tokenizer, *, table: IdTable,
    query_length: int, vectors: Float[np.ndarray, "N D"] | None,
) -> None:  # fmt: skip
    """Keep a trained retriever; only once the last file is there, `load` sees it. Of several processes all call."""
    home = workdir / HOME
    if hosts.first():
        (home / VECTORS).mkdir(parents=True, exist_ok=True)
        (home / META).unlink(missing_ok=True)
    save_tree(home / "params", params)
    if hosts.first():
        _save_rest(home, functions, tokenizer, table, query_length, vectors)
    hosts.barrier()


def _save_rest(
    home: pathlib.Path, functions: RetrieverFunctions, tokenizer: Tokenizer, table: IdTable, query_length: int,
    vectors: Float[np.ndarray, "N D"] | None,
) -> None:  # fmt: skip
    tokenizer.save(home / "tokenizer")
    tries.save(of_table(table, counters=room(functions.module.sizes)), home / "trie", table=table)
    for old in (home / VECTORS).iterdir():
        old.unlink()
    if vectors is not None:
        _save_vectors(home, 0, vectors)
    meta = described(functions) | {
        "format": FORMAT,
        "query_length": query_length,
        "model": table.manifest.model_hash,
        "table": table.digest,
        "temperature": TEMPERATURE,
    }
    with replacing(home / META) as path:
        path.write_text(json.dumps(meta, indent=1))


def described(functions: RetrieverFunctions) -> dict[str, object]:
    """A retriever's shape, for JSON."""
    module = functions.module
    return {
        "family": next(name for name, kind in FAMILIES.items() if isinstance(module.language_model, kind)),
        "language_model": dataclasses.asdict(module.language_model),
        "config": dataclasses.asdict(module.config),
        "sizes": module.sizes,
        "precision": np.dtype(module.dtype).name,
    }


def functions_of(meta: dict) -> RetrieverFunctions:
    """The retriever that was `described`; raises ValueError, KeyError or TypeError where it was not."""
    model = FAMILIES[meta["family"]](**meta["language_model"])
    return RetrieverFunctions(Retriever(RetrieverConfig(**meta["config"]), model, tuple(meta["sizes"]), jnp.dtype(meta["precision"])))


def load(workdir: pathlib.Path, table: IdTable) -> Kept:
    """The retriever of a workdir, for the documents of its ID table as it is now.

    Raises:
      UserError: no retriever there, a damaged one, or one that does not fit the table.
    """
    home = workdir / HOME
    again = f"run `python -m lmindexer_jax.finetune --workdir {workdir}` again"
    functions, meta = _read_meta(workdir)
    if meta["model"] != table.manifest.model_hash:
        raise UserError(f"{home}: made for other IDs than those of {workdir / 'ids'}; remove it, and {again}")
    sizes = functions.module.sizes
    trie = _open_trie(home / "trie", table, sizes)
    if trie.sizes != sizes:
        raise UserError(f"{home}: more documents share all codes than the {room(sizes)} it was made for; remove it, and {again}")
    vectors = _load_vectors(home, len(table)) if functions.module.config.gist else None
    tokenizer = load_tokenizer(home / "tokenizer")
    return Kept(functions, load_tree(home / "params"), tokenizer, trie, meta["query_length"], vectors, meta["temperature"])


def balance(workdir: pathlib.Path, temperature: float) -> None:
    """Set how much likeness counts in a kept retriever."""
    path = workdir / HOME / META
    meta = json.loads(path.read_text()) | {"temperature": temperature}
    with replacing(path) as partial:
        partial.write_text(json.dumps(meta, indent=1))


def extend(workdir: pathlib.Path, vectors: Float[np.ndarray, "M D"], *, first: int) -> None:
    """Keep the vectors of documents that are about to join the ID table, where `first` is the row of the first of them."""
    _save_vectors(workdir / HOME, first, vectors)


def has_vectors(workdir: pathlib.Path) -> bool:
    """Whether there is a retriever that compares documents by their vectors."""
    return (workdir / HOME / META).is_file() and _read_meta(workdir)[0].module.config.gist


def room(sizes: Sequence[int]) -> int:
    """Documents of the same codes that a retriever can tell apart; the last code of its last position is the end."""
    return sizes[-1] - 1


def _read_meta(workdir: pathlib.Path) -> tuple[RetrieverFunctions, dict]:
    path = workdir / HOME / META
    again = f"run `python -m lmindexer_jax.finetune --workdir {workdir}` again"
    if not path.is_file():
        raise UserError(f"{workdir}: no retriever yet; make one with `python -m lmindexer_jax.finetune --workdir {workdir}`")
    try:
        meta = json.loads(path.read_text())
        if meta["format"] != FORMAT:
            raise UserError(f"{path}: format {meta['format']}, but this version reads {FORMAT}; {again}")
        meta = {"temperature": TEMPERATURE} | meta  # which was the same for all once
        return functions_of(meta), {name: meta[name] for name in ("model", "query_length", "temperature")}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); {again}") from None


def _open_trie(folder: pathlib.Path, table: IdTable, sizes: tuple[int, ...]) -> tries.Trie:
    """The kept trie; made anew where documents have been added since, or it cannot be read."""
    try:
        return tries.load(folder, table=table)
    except UserError:
        return of_table(table, counters=room(sizes))


def _save_vectors(home: pathlib.Path, first: int, vectors: Float[np.ndarray, "N D"]) -> None:
    save_array(home / VECTORS / f"{first}.npy", vectors.astype(np.float16))


def _load_vectors(home: pathlib.Path, documents: int) -> Float[np.ndarray, "N D"]:
    """The pieces in their places, NaN where none was kept: documents that were added before the retriever was trained.

    Raises:
      UserError: a damaged piece, or the first is missing.
    """
    pieces, again = {}, f"run `python -m lmindexer_jax.finetune --workdir {home.parent}` again"
    for path in (home / VECTORS).glob("*.npy"):
        try:
            pieces[int(path.stem)] = load_array(path, mapped=True)
        except (OSError, ValueError):
            raise UserError(f"{path}: damaged; {again}") from None
    if 0 not in pieces:
        raise UserError(f"{home / VECTORS / '0.npy'}: missing; {again}")
    if len(pieces[0]) == documents:
        return pieces[0]  # on disk
    vectors = np.full((documents, pieces[0].shape[1]), np.nan, np.float16)
    for first, piece in sorted(pieces.items()):
        vectors[first : first + len(piece)] = piece[: max(0, documents - first)]
    return vectors
