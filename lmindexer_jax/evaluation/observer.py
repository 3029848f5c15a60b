"""What is measured when an epoch or a stage ends, and what is said about it."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from lmindexer_jax.console import Console
from lmindexer_jax.evaluation import health
from lmindexer_jax.evaluation.agreement import agreement, informative
from lmindexer_jax.evaluation.bow import Bags, bags, bow_gain, random_gain
from lmindexer_jax.evaluation.id_quality import collisions, prefix_ids, usage
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
    documents, labels = len(inputs), informative(labels)
    sample = np.sort(np.random.default_rng(seed).permutation(documents)[:SAMPLE])
    words = bags(inputs.store.flat, inputs.offsets, unlabelled=inputs.unlabelled)
    counts = np.bincount(words.word)
    unigram = float(-np.sum(counts / counts.sum() * np.log(counts / counts.sum())))

    def observe(moment: Moment) -> dict:
        stage = moment.stage
        if stage.kind in (StageKind.CLUSTER, StageKind.TOGETHER):
            return {}  # of all positions at once, assignment tells
        quantised = stage.kind in (StageKind.QUANTISED, StageKind.ASSIGN)
        scores, sampled = reconstruction_scores(
            functions,
            moment.params,
            inputs,
            indices=sample,
            position=stage.position,
            quantised=quantised,
            similarity=stage.settings.quantiser.similarity,
            hidden=0.0 if stage.kind == StageKind.WARM_UP else stage.settings.hidden,  # as it was trained
            seed=seed,
        )
        row = {
            "accuracy": scores["true"].accuracy,
            "shuffled_accuracy": scores["shuffled"].accuracy,
            "macro_f1": scores["true"].macro_f1,
            "shuffled_macro_f1": scores["shuffled"].macro_f1,
            "nats": scores["true"].nats,
            "shuffled_nats": scores["shuffled"].nats,
            "unigram_nats": unigram,
        }
        reconstructed = set(row)
        sizes = functions.module.config.codebook_sizes[: stage.position + 1]
        judged, among = dict(row), documents
        if moment.codes is not None:
            row |= code_measurements(moment, words, labels=labels, sizes=sizes)
            judged |= row
        elif sampled is not None:
            # Codes of the whole corpus come with assignment; a sample of them tells now, in the stage that does the harm.
            even, among = dataclasses.asdict(usage(sampled, sizes[-1:])[0]), len(sampled)
            row |= {f"sampled_{name}": even[name] for name in ("perplexity", "usage", "largest_share")}
            judged |= even
        if stage.settings.reconstruction == 0:
            judged = {name: value for name, value in judged.items() if name not in reconstructed}  # nothing trained it
        if moment.finished:
            seen = health.measurements(judged, stage=stage.name, position=stage.position + 1, size=sizes[-1], documents=among)
            findings = health.diagnose(seen)
            for finding in findings:
                console.warn(f"{finding.mode} ({finding.stage}): {finding.evidence}. Remedy: {finding.remedy}")
            row["findings"] = [dataclasses.asdict(finding) for finding in findings]
        return row

    return observe


def code_measurements(
    moment: Moment, words: Bags, *, labels: list[Int[np.ndarray, " N"]], sizes: tuple[int, ...]
) -> dict[str, object]:
    """What the codes assigned so far are worth."""
    position = moment.stage.position
    codes = moment.codes[:, : position + 1]
    row = dataclasses.asdict(usage(codes, sizes)[-1])
    row["bow_gain"] = float(bow_gain(codes, words)[-1])
    row["own_bow_gain"] = float(bow_gain(codes[:, [-1]], words)[0])
    row["random_bow_gain"] = float(random_gain(codes[:, [-1]], words)[0])
    row["drift"] = list(moment.drift)
    row |= {f"id_{name}": value for name, value in dataclasses.asdict(collisions(codes)).items()}
    if labels:
        row["ami"] = agreement(prefix_ids(codes)[:, -1], labels[min(position, len(labels) - 1)]).ami
    return row
