"""Measurements while training: do the codes carry anything, are they used, do they drift?"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lmindexer_jax.evaluation import macro_f1
from lmindexer_jax.indexing.inputs import Inputs
from lmindexer_jax.models.indexer import IndexerFunctions, Params, codebook
from lmindexer_jax.models.quantiser import Similarity, nearest
from lmindexer_jax.models.reconstructor import ReconstructorKind, hint_mask

BATCH = 64


@dataclasses.dataclass(frozen=True)
class Score:
    """How well texts are rebuilt, over a sample of documents."""

    accuracy: float  # share of predicted tokens that are right
    macro_f1: float  # F1 of each token of the vocabulary, averaged over those that occur
    nats: float  # mean negative log-likelihood of a labelled token


@functools.cache
def compiled(
    functions: IndexerFunctions, position: int, quantised: bool, similarity: Similarity, hidden: float
) -> tuple[Callable, Callable]:
    """The two compiled halves: rows to the vectors to rebuild from (and their codes); vectors to predictions and logs."""
    bag = functions.module.config.reconstructor.kind == ReconstructorKind.BAG

    @jax.jit
    def vectors_of(params: Params, rows: dict) -> tuple[Float[Array, "B D"], Int[Array, " B"] | None]:
        encoded = rows.get("encoded")
        if encoded is None:
            encoded = functions.encode(params, rows["tokens"], rows["mask"])
        out = functions.vectors(
            params, encoded, rows["tokens"], rows["mask"], codes=rows["codes"], centres=rows.get("centres")
        )[:, -1]
        if not quantised:
            return out, None
        book = codebook(params, position)
        code = nearest(out, book, similarity=similarity)
        return book[code], code

    @jax.jit
    def predict(params: Params, vector: Array, rows: dict, key: Array) -> tuple[Array, Array]:
        prefix = [codebook(params, p)[rows["codes"][:, p]] for p in range(position)]
        queries = jnp.stack([*prefix, vector], axis=1)
        words, labelled = rows["words"], rows["labelled"]
        if bag:
            logits = functions.reconstruct(params, queries).astype(jnp.float32)
            logs = jnp.take_along_axis(jax.nn.log_softmax(logits), words, axis=-1)
            return jax.lax.top_k(logits, min(words.shape[1], logits.shape[-1]))[1], logs
        hints = hint_mask(key, labelled, codes=position + 1, hidden=hidden)
        logits = functions.reconstruct(params, queries, tokens=rows["tokens"], hints=hints).astype(jnp.float32)
        logs = jnp.take_along_axis(jax.nn.log_softmax(logits), words[..., None], axis=-1)[..., 0]
        return jnp.argmax(logits, axis=-1), logs

    return vectors_of, predict


def reconstruction_scores(
    functions: IndexerFunctions,
    params: Params,
    inputs: Inputs,
    *,
    indices: Int[np.ndarray, " M"],
    position: int,
    quantised: bool,
    similarity: Similarity,
    hidden: float,
    seed: int,
) -> tuple[dict[str, Score], Int[np.ndarray, "M 1"] | None]:
    """Rebuild a sample of texts from true codes, and from codes that changed owners at this position alone.

    The prefix stays true in both, so the difference is what this position's code adds. Where the two are equal the
    reconstructor does not listen to it.

    Args:
      functions: the indexer.
      params: its parameters.
      inputs: the documents.
      indices: the sample.
      position: counted from 0; codes before it are given.
      quantised: rebuild from codebook rows, else from the continuous vectors.
      similarity: by which the nearest row is found.
      hidden: share of hints held back (HINTED reconstructor).
      seed: of the shuffle and the hints.

    Returns:
      Scores by name: `true`, `shuffled`; and the sample's codes at this position, where it is quantised.
    """
    bag = functions.module.config.reconstructor.kind == ReconstructorKind.BAG
    length = int(-(-inputs.store.lengths.max() // 8) * 8)
    vectors_of, predict = compiled(functions, position, quantised, similarity, hidden)
    starts = range(0, len(indices), BATCH)
    # The last is filled up with repeats, which count nowhere.
    parts = [np.resize(indices[i : i + BATCH], BATCH) for i in starts]
    all_rows = [inputs.rows(part, position=position, length=length) for part in parts]
    found = [jax.device_get(vectors_of(params, rows)) for rows in all_rows]
    vectors = [vector for vector, _ in found]
    codes = np.concatenate([code for _, code in found])[: len(indices), None] if quantised else None
    moved = np.concatenate(vectors)[np.random.default_rng(seed).permutation(len(indices))]
    shuffled = [np.resize(moved[i : i + BATCH], vectors[0].shape) for i in starts]
    vocabulary = functions.module.words or functions.module.language_model.vocab_size
    scores = {}
    for name, given in (("true", vectors), ("shuffled", shuffled)):
        counts, nats, labels = macro_f1.no_counts(vocabulary), 0.0, 0
        for number, (vector, rows) in enumerate(zip(given, all_rows)):
            key = jax.random.fold_in(jax.random.key(seed), number)
            predicted, logs = (np.asarray(x) for x in predict(params, vector, rows, key))
            counted = np.arange(BATCH) < len(indices) - number * BATCH
            words, labelled = rows["words"], rows["labelled"] & counted[:, None]
            if bag:
                # As many guesses as the document has different words: precision and recall are then the same number.
                wanted = [np.unique(row[real]) for row, real in zip(words, labelled)]
                guesses = [guess[: len(true)] for guess, true in zip(predicted, wanted)]
                seen = macro_f1.count_sets(guesses, wanted, vocabulary=vocabulary)
            else:
                seen = macro_f1.count(predicted[labelled], words[labelled], vocabulary=vocabulary)
            counts = counts.plus(seen)
            nats -= float(logs[labelled].sum())
            labels += int(labelled.sum())
        scores[name] = Score(macro_f1.accuracy(counts), macro_f1.macro_f1(counts), nats / max(1, labels))
    return scores, codes
