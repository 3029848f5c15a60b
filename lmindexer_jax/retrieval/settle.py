"""Where a retriever's codebooks start: a code is the mean of the texts that belong to its documents.

Whatever made the IDs, their codes then stand where queries like those texts will fall (nearest-centroid classification,
Rocchio 1971), and training goes on from there: position by position, of what the codes before do not explain.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from lmindexer_jax.models.retriever import Params

MOST = 200_000  # texts, evenly taken: a mean needs no more
TEMPERATURE = 0.1  # of the cosines between a query's rest and a code


def settle(params: Params, gists: Float[np.ndarray, "P D"], codes: Int[np.ndarray, "P T"]) -> Params:
    """Parameters with `centre`, `explained`, `gain` and the codebook rows that texts belong to set from P texts.

    Rows keep the mean length that `adopt` gives them, width**0.5; ends of IDs and codes without a text stay as they are.

    Args:
      gists: of the texts.
      codes: the ID of each text's document; -1 behind the end of a shorter one.
    """
    taken = np.linspace(0, len(gists) - 1, min(MOST, len(gists))).astype(int)
    rest, codes = np.asarray(gists[taken], np.float32), codes[taken]
    settled = dict(params) | {"centre": jnp.asarray(rest.mean(0))}
    rest = rest - rest.mean(0)
    length = rest.shape[1] ** 0.5
    gain, explained = [], []
    for position in range(codes.shape[1]):
        gain.append(1 / (TEMPERATURE * length * max(np.linalg.norm(rest, axis=1).mean(), 1e-6)))
        name, real = f"codebook_{position}", codes[:, position] >= 0
        book = np.array(params[name])
        used, where = np.unique(codes[real, position], return_inverse=True)
        means = np.zeros((len(used), rest.shape[1]), np.float32)
        np.add.at(means, where, rest[real])
        means /= np.bincount(where)[:, None]
        scale = max(np.linalg.norm(means, axis=1).mean(), 1e-6) / length if len(used) else 0.0
        if len(used):
            book[used] = means / scale
            rest[real] -= means[where]
        explained.append(scale)
        settled[name] = jnp.asarray(book)
    return settled | {"gain": jnp.asarray(gain, jnp.float32), "explained": jnp.asarray(explained[:-1], jnp.float32)}
