"""A sweep over the corpus: every document exactly once, each process its share, the results in all of them.

A document's bits depend on its own tokens alone: its padded length follows from its own length and every device gets
the same number of rows, so it always meets the same compiled function, however many devices and processes there are.
"""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Int

from lmindexer_jax.console import Console
from lmindexer_jax.data.pipeline import inference_batches, length_buckets
from lmindexer_jax.data.tokens import TokenStore
from lmindexer_jax.training import hosts
from lmindexer_jax.training.sharding import put_here

Fetch = Callable[[Int[np.ndarray, " B"], int], object]  # documents and padded length -> a tree of arrays (B, ...)


def sweep(
    compute: Callable[[object], jax.Array], fetch: Fetch, store: TokenStore, *, rows: int, console: Console, label: str
) -> np.ndarray:
    """Run `compute` on every document once and put the rows of its results in corpus order.

    Args:
      compute: a compiled function of a placed batch; gives (B, ...), of at most 32 bits a number.
      fetch: makes the batch; asked for this process's documents alone.
      store: says how long the documents are.
      rows: of a batch on each device.
      console: shows progress.
      label: of the progress.
    """
    batches = list(
        inference_batches(
            store.lengths, batch_size=rows * jax.local_device_count(), buckets=length_buckets(store.max_length)
        )
    )
    owned = [np.concatenate([indices[real] for indices, real, _ in part] or [np.zeros(0, int)]) for part in hosts.deal(batches)]
    assert np.array_equal(np.sort(np.concatenate(owned)), np.arange(len(store))), "every document is written once"
    mine, out = hosts.deal(batches)[jax.process_index()], None
    with console.progress(label, total=len(mine), unit="batches") as progress:
        # Where there are more processes than batches, some do one only to know what a row looks like.
        for indices, real, length in mine or batches[:1]:
            result = np.asarray(compute(put_here(fetch(indices, length))))
            out = np.empty((len(store), *result.shape[1:]), result.dtype) if out is None else out
            out[indices[real]] = result[real]
            progress.advance()
    if hosts.several():
        counts = [len(documents) for documents in owned]
        out[np.concatenate(owned)] = hosts.gather(out[owned[jax.process_index()]], counts=counts)
    return out
