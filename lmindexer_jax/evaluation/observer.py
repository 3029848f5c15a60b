"""What is measured when an epoch or a stage ends, and what is said about it."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from lmindexer_jax.console import Console
from lmindexer_jax.evaluation import health, id_quality
from lmindexer_jax.evaluation.watch import reconstruction_scores
from lmindexer_jax.indexing.inputs import Inputs
from lmindexer_jax.indexing.recipe import StageKind
from lmindexer_jax.indexing.runner import Moment
from lmindexer_jax.models.indexer import IndexerFunctions

SAMPLE = 512  # documents whose texts are rebuilt


def make_observer(
    functions: IndexerFunctions,
    inputs: Inputs,
    *,
    labels: list[Int[np.ndarray, " N"]],
    seed: int,
    console: Console,
) -> Callable[[Moment], dict]:
    """The observer that a run calls; it returns scalars for the journal.

    Args:
      functions: the indexer.
      inputs: the documents.
      labels: for every depth of the category tree a label per document, -1 where it has none; may be empty.
      seed: of the sample.
      console: findings are said here.
    """
    documents = len(inputs)
    sample = np.sort(np.random.default_rng(seed).permutation(documents)[:SAMPLE])
    bags = id_quality.bags(inputs.store, inputs.unlabelled)

    def observe(moment: Moment) -> dict:
        stage = moment.stage
        if stage.kind == StageKind.CLUSTER:
            return {}
        quantised = stage.kind in (StageKind.QUANTISED, StageKind.ASSIGN)
        scores = reconstruction_scores(
            functions,
            moment.params,
            inputs,
            indices=sample,
            position=stage.position,
            quantised=quantised,
            similarity=stage.settings.quantiser.similarity,
            hidden=stage.settings.hidden,
            seed=seed,
        )
        row = {
            "accuracy": scores["true"].accuracy,
            "shuffled_accuracy": scores["shuffled"].accuracy,
            "macro_f1": scores["true"].macro_f1,
            "shuffled_macro_f1": scores["shuffled"].macro_f1,
            "nats": scores["true"].nats,
            "shuffled_nats": scores["shuffled"].nats,
        }
        if moment.codes is not None:
            row |= code_measurements(moment, bags, labels=labels, size=codebook_size(functions, stage.position), seed=seed)
        return row

    return observe


def codebook_size(functions: IndexerFunctions, position: int) -> int:
    """K of a position."""
    return functions.module.config.codebook_sizes[position]
