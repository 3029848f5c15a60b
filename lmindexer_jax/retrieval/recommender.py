"""A trained recommender, in two lines:

    recommender = Recommender.load("runs/beauty")
    recommender.recommend(["B004756YJA", "B004ZT0SSG"], k=10)

Loading reads one folder; the run's data are not needed any more. A recommender may be used from many threads.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Float, Int

from lmindexer_jax.errors import UserError
from lmindexer_jax.files import load_array, replacing, save_array
from lmindexer_jax.indexing import id_table
from lmindexer_jax.indexing.id_table import IdTable
from lmindexer_jax.models.recommender import (
    Catalogue,
    Head,
    Histories,
    Params,
    RecommenderConfig,
    RecommenderFunctions,
)
from lmindexer_jax.models.recommender import Recommender as Module
from lmindexer_jax.retrieval import text_recommender
from lmindexer_jax.retrieval.build import build
from lmindexer_jax.retrieval.catalogue import full_codes, make_catalogue
from lmindexer_jax.retrieval.rank_items import by_both, by_codes, by_vectors
from lmindexer_jax.retrieval.recommendation import NextItem, histories_of, in_batches
from lmindexer_jax.retrieval.text_recommender import TextRecommender
from lmindexer_jax.retrieval.topk import Ranked
from lmindexer_jax.retrieval.trie import Trie
from lmindexer_jax.training.checkpoint import load_tree

MANIFEST = "recommender.json"
USERS = 256  # histories that are ranked for at a time
EXACT_USERS = 16  # and where every ID is scored


@dataclasses.dataclass(frozen=True, eq=False)
class Recommender(NextItem):
    """A catalogue of N items and a model that ranks them after a history.

    Attributes:
      functions: the model.
      params: its parameters, on the device.
      catalogue: what it knows of the items, on the device.
      trie: the valid IDs, on the device.
      table: document ids and semantic IDs.
      beams: prefixes that the search keeps; the item head ranks all items.
    """

    functions: RecommenderFunctions
    params: Params
    catalogue: Catalogue
    trie: Trie
    table: IdTable
    beams: int

    def rank(
        self,
        items: Int[np.ndarray, " M"],
        offsets: Int[np.ndarray, " U+1"],
        *,
        count: int,
        exclude_seen: bool,
        every_id: bool = False,
    ) -> Ranked:
        """See `NextItem.rank`."""
        length = self.functions.module.config.length
        read, best = make_read(self.functions), make_rank(self.functions, self.beams)

        def rank(users: Int[np.ndarray, " B"]) -> Ranked:
            seen = histories_of(items, offsets, users)
            latest = seen[:, -length:]
            memory = read(self.params, Histories(np.maximum(latest, 0), (latest >= 0).astype(np.int32)), self.catalogue)
            known = self.params, memory, self.catalogue, self.trie, seen if exclude_seen else None
            return best(*known, count=count, every_id=every_id)

        return in_batches(rank, np.diff(offsets), count=count, size=EXACT_USERS if every_id else USERS)

    def _save_rest(self, folder: pathlib.Path) -> None:
        if self.catalogue.text is not None:
            save_array(folder / "text.npy", np.asarray(self.catalogue.text))
        module = self.functions.module
        content = {
            "head": module.head,
            "model": dataclasses.asdict(module.config),
            "text_width": module.text_width,
            "beams": self.beams,
        }
        with replacing(folder / MANIFEST) as path:
            path.write_text(json.dumps(content, indent=1))

    @classmethod
    def load(cls, workdir: str | pathlib.Path) -> "Recommender | TextRecommender":
        """The recommender of a finished run of `lmindexer_jax.recommend`.

        Raises:
          UserError: no finished run there, or damaged files.
        """
        folder = pathlib.Path(workdir) / "recommender"
        if (folder / text_recommender.MANIFEST).is_file():
            return TextRecommender.load(folder)
        path = folder / MANIFEST
        if not path.is_file():
            raise UserError(f"{path}: no such file; a finished run writes it, so let `lmindexer_jax.recommend` finish first")
        try:
            content = json.loads(path.read_text())
            config = RecommenderConfig(**content["model"])
            head, text_width, beams = Head(content["head"]), content["text_width"], content["beams"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: damaged ({error}); run `lmindexer_jax.recommend` again") from None
        table = id_table.load(folder / "ids")
        try:
            text = load_array(folder / "text.npy") if text_width else None
        except (ValueError, OSError) as error:
            raise UserError(f"{folder / 'text.npy'}: damaged ({error}); run `lmindexer_jax.recommend` again") from None
        params = jax.device_put(load_tree(folder / "params"))
        return make(config, head, table, text, params=params, beams=beams)


@functools.cache
def make_read(functions: RecommenderFunctions) -> Callable:
    """Compiled `(params, histories, catalogue) -> memory`."""
    return jax.jit(functions.start_search)


@functools.cache
def make_rank(functions: RecommenderFunctions, beams: int) -> Callable:
    """Compiled `(params, memory, catalogue, trie, seen, count=..., every_id=...) -> Ranked`; a beam keeps `beams` prefixes
    or `count`, if that is more."""

    @functools.partial(jax.jit, static_argnames=("count", "every_id"))
    def rank(params, memory, catalogue, trie, seen, *, count: int, every_id: bool) -> Ranked:
        if functions.module.head == Head.ITEMS:
            return by_vectors(functions, params, memory[0][:, 0], catalogue, count=count, seen=seen)
        found = by_codes(functions, params, memory, trie, beams=max(beams, count), seen=seen, every_id=every_id)
        return by_both(functions, params, memory, catalogue, found) if functions.module.config.dense else found

    return rank


def make(
    config: RecommenderConfig,
    head: Head,
    table: IdTable,
    text: Float[np.ndarray, "N E"] | None,
    *,
    params: Params | None = None,
    beams: int,
) -> Recommender:
    """A recommender over a table's documents; without parameters it is still to be trained.

    Raises:
      UserError: the text embeddings are not one per document.
    """
    if config.read_text and (text is None or len(text) != len(table)):
        have = "none" if text is None else f"{len(text):,}"
        raise UserError(f"text embeddings: {have} for {len(table):,} documents; give one row for each, or model.read_text=false")
    codes, sizes = full_codes(table)
    catalogue = make_catalogue(codes, sizes, text if config.read_text else None)
    width = text.shape[1] if config.read_text else 0
    functions = RecommenderFunctions(Module(config, head, len(table), sizes, width))
    trie = jax.device_put(build(codes, sizes))
    return Recommender(functions, params or {}, catalogue, trie, table, beams)
