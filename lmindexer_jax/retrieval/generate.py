"""Text in, documents out: a retriever's search as one compiled function."""

from collections.abc import Callable

import jax
from jaxtyping import Array, Bool, Float, Int

from lmindexer_jax.models.retriever import Params, RetrieverFunctions
from lmindexer_jax.retrieval import beam, exact
from lmindexer_jax.retrieval.beam import BeamConfig, Found
from lmindexer_jax.retrieval.permits import Permits
from lmindexer_jax.retrieval.trie import Trie


def make_generator(functions: RetrieverFunctions, *, config: BeamConfig, every_id: bool = False) -> Callable[..., tuple[Found, Array]]:
    """Compile encoder, decoder and search into one function.

    Args:
      functions: a retriever whose `sizes` are those of the tries it will be given.
      config: how to search.
      every_id: score all IDs instead of following beams; for small catalogues.

    Returns:
      `(params, trie, tokens, mask, present, permits=None, seen=None) -> Found, gists (B, D)`: token ids (B, L) and which
      are real; then as `beam.search`. It is compiled once per shape of batch and trie: give a short batch padding, and see `trie.pad`.
    """

    @jax.jit
    def generate(
        params: Params,
        trie: Trie,
        tokens: Int[Array, "B L"],
        mask: Bool[Array, "B L"],
        present: Bool[Array, " B"],
        permits: Permits | None = None,
        seen: Int[Array, "B S"] | None = None,
    ) -> tuple[Found, Float[Array, "B D"]]:
        def step(memory, codes, parents):
            return functions.step(params, memory, codes, parents)

        beams = max(trie.nodes) if every_id else config.beams
        read = functions.encode(params, tokens, mask)
        memory = functions.start_search(params, read, beams=beams)
        search = exact.search if every_id else beam.search
        return search(step, memory, trie, config=config, present=present, permits=permits, seen=seen), read.gist

    return generate
