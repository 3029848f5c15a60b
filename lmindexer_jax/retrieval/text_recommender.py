"""A recommender that reads a history as text: a retriever whose query is what the last items say (LMIndexer, 2024).

It is used as `retrieval.recommender.Recommender` is, whose `load` finds it.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Int

from lmindexer_jax.data.history_tokens import HistoryTokens, ItemTokens
from lmindexer_jax.data.packing import Spans
from lmindexer_jax.errors import UserError
from lmindexer_jax.files import load_array, replacing, save_array
from lmindexer_jax.indexing import id_table
from lmindexer_jax.indexing.id_table import IdTable
from lmindexer_jax.models.retriever import Params, RetrieverFunctions
from lmindexer_jax.retrieval import kept
from lmindexer_jax.retrieval.beam import BeamConfig
from lmindexer_jax.retrieval.build import build
from lmindexer_jax.retrieval.catalogue import full_codes
from lmindexer_jax.retrieval.generate import make_generator
from lmindexer_jax.retrieval.recommendation import NextItem, histories_of, in_batches
from lmindexer_jax.retrieval.topk import Ranked
from lmindexer_jax.retrieval.trie import Trie
from lmindexer_jax.training.checkpoint import load_tree

MANIFEST = "text_recommender.json"
USERS, EXACT_USERS = 64, 4  # histories that are ranked for at a time; where every ID is scored
FEWEST_TOKENS = 32  # for histories, however short: each size is compiled


@dataclasses.dataclass(frozen=True, eq=False)
class TextRecommender(NextItem):
    """A catalogue of N items and a language model that emits the ID of the next one.

    Attributes:
      functions, params: the retriever; parameters on the device.
      trie: the valid IDs, on the device.
      table: document ids and semantic IDs.
      tokens: of the items' texts.
      length: tokens that are read of a history.
      beams: prefixes that the search keeps.
    """

    functions: RetrieverFunctions
    params: Params
    trie: Trie
    table: IdTable
    tokens: ItemTokens
    length: int
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
        read = HistoryTokens(self.tokens, items, Spans(offsets[:-1], offsets[1:]), length=self.length)
        generate = make_generate(self.functions, max(self.beams, count), every_id)

        def rank(users: Int[np.ndarray, " B"]) -> Ranked:
            longest = max(FEWEST_TOKENS, 1 << (int(read.lengths[users].max()) - 1).bit_length())
            tokens, mask = read.batch(users, length=min(longest, self.length))
            seen = histories_of(items, offsets, users) if exclude_seen else None
            found, _ = generate(self.params, self.trie, tokens, mask, np.ones(len(users), bool), seen=seen)
            return Ranked(found.documents, found.log_probs)

        return in_batches(rank, np.diff(offsets), count=count, size=EXACT_USERS if every_id else USERS)

    def _save_rest(self, folder: pathlib.Path) -> None:
        save_array(folder / "tokens.npy", self.tokens.flat)
        save_array(folder / "offsets.npy", self.tokens.offsets)
        content = kept.described(self.functions) | {"pad_id": self.tokens.pad_id, "length": self.length, "beams": self.beams}
        with replacing(folder / MANIFEST) as path:
            path.write_text(json.dumps(content, indent=1))

    @classmethod
    def load(cls, folder: pathlib.Path) -> "TextRecommender":
        """What `save` wrote.

        Raises:
          UserError: damaged files.
        """
        path, again = folder / MANIFEST, "run `lmindexer_jax.recommend` again"
        try:
            content = json.loads(path.read_text())
            functions = kept.functions_of(content)
            length, beams, pad_id = content["length"], content["beams"], content["pad_id"]
            tokens = ItemTokens(load_array(folder / "tokens.npy", mapped=True), load_array(folder / "offsets.npy"), pad_id)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: damaged ({error}); {again}") from None
        params = jax.device_put(load_tree(folder / "params"))
        return make(functions, params, id_table.load(folder / "ids"), tokens, length=length, beams=beams)


@functools.cache
def make_generate(functions: RetrieverFunctions, beams: int, every_id: bool) -> Callable:
    """`make_generator`, once for the same arguments."""
    return make_generator(functions, config=BeamConfig(beams=beams), every_id=every_id)


def make(
    functions: RetrieverFunctions, params: Params, table: IdTable, tokens: ItemTokens, *, length: int, beams: int
) -> TextRecommender:
    """A recommender over a table's documents."""
    trie = jax.device_put(build(*full_codes(table)))
    return TextRecommender(functions, params, trie, table, tokens, length, beams)
