"""One vector of each text, as a retriever's encoder makes it: the unit mean of its states."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Float

from lmindexer_jax.console import Console
from lmindexer_jax.data.tokens import TokenStore
from lmindexer_jax.indexing.encode import BATCH
from lmindexer_jax.indexing.sweep import sweep
from lmindexer_jax.models.retriever import Params, RetrieverFunctions
from lmindexer_jax.training.sharding import here


def gists(
    functions: RetrieverFunctions, params: Params, store: TokenStore, *, console: Console, label: str
) -> Float[np.ndarray, "N D"]:
    """The gists of N texts; each depends on its own tokens alone.

    Args:
      store: tokens of the texts.
      label: of the progress.
    """
    compute, params = _make(functions), here(params)
    return sweep(
        lambda batch: compute(params, *batch),
        lambda indices, length: store.batch(indices, length=length),
        store,
        rows=BATCH,
        console=console,
        label=label,
    )


@functools.cache
def _make(functions: RetrieverFunctions) -> Callable:
    return jax.jit(lambda params, tokens, mask: functions.encode(params, tokens, mask).gist)
