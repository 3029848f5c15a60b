"""The collapse detector: names what went wrong, in which stage, on what evidence, and what to change.

Progressive training fails in three ways (section 3.4 of the LMIndexer paper), and no single number tells them apart.
Reconstruction can look good in a collapsed run, and a code-only reconstructor's Macro-F1 is near 0 in a healthy one:

                              codes in even use   codes inform about the words   reconstructor listens to them
    posterior collapse        no                  -                              -
    meaningless codes         yes                 no                             -
    reconstructor collapse    yes (or no codes)   yes                            no

*Even use* is perplexity, usage and the largest share; *inform* is the held-out bag-of-words gain over that of the same
codes dealt at random; *listens* is the score with true codes over that with shuffled ones, and that texts are rebuilt
better than by word frequencies alone: a reconstructor may react to codes without having learned anything.
"""

import dataclasses
import enum
import math
from collections.abc import Mapping


class Mode(enum.StrEnum):
    """What is wrong."""

    RECONSTRUCTOR = "reconstructor collapse"
    POSTERIOR = "posterior collapse"
    MEANINGLESS = "meaningless codes"
    COLLISIONS = "collisions"
    DRIFT = "prefix drift"
    DEAD = "dead codes"
    REPETITION = "repeated prefix"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong; sentences for a person."""

    mode: Mode
    stage: str
    evidence: str
    remedy: str


@dataclasses.dataclass
class HealthConfig:
    """Where healthy ends. Of runs on Amazon Beauty at K=256, healthy ones kept a perplexity over 170, failed ones had less than 50."""

    least_perplexity: float = 0.25  # share of K (or of the documents, if fewer)
    least_usage: float = 0.3  # share of the codes
    most_largest_share: float = 0.25  # of the documents in one code; small books may have four times the even share
    least_information: float = 0.05  # nats per token over a random code
    least_nats: float = 0.02  # that true codes save over shuffled ones, per token
    least_accuracy: float = 0.005  # the same for the accuracy
    least_macro_f1: float = 0.005  # the same for Macro-F1
    least_distinct: float = 0.9  # distinct IDs, as a share of the documents
    most_drift: float = 0.1  # documents whose earlier code would be another one now
    most_repetition: float = 0.5  # AMI of a code with its prefix; about 0.2 is usual


@dataclasses.dataclass(frozen=True)
class Measurements:
    """Of one stage, at its end or at an epoch's; None: not measured, and then not judged.

    Attributes:
      stage: its name.
      position: counted from 1.
      size: K of that position.
      documents: N.
      perplexity, usage, largest_share: of the position's codes.
      accuracy, macro_f1, nats: reconstruction with true codes (or the continuous vectors, before there are codes).
      shuffled_accuracy, shuffled_macro_f1, shuffled_nats: with codes that changed owners.
      unigram_nats: of word frequencies alone.
      own_bow_gain: held-out bag-of-words gain of this position's code.
      random_bow_gain: of the same codes dealt to random documents.
    """

    stage: str
    position: int
    size: int
    documents: int
    perplexity: float | None = None
    usage: float | None = None
    largest_share: float | None = None
    accuracy: float | None = None
    shuffled_accuracy: float | None = None
    macro_f1: float | None = None
    shuffled_macro_f1: float | None = None
    nats: float | None = None
    shuffled_nats: float | None = None
    unigram_nats: float | None = None
    own_bow_gain: float | None = None
    random_bow_gain: float | None = None


def measurements(row: Mapping[str, object], *, stage: str, position: int, size: int, documents: int) -> Measurements:
    """Take the measurements out of a row of metrics by their names; other names are left alone."""
    optional = {field.name for field in dataclasses.fields(Measurements) if field.default is None}
    return Measurements(stage, position, size, documents, **{name: row[name] for name in optional & row.keys()})


def diagnose(seen: Measurements, limits: HealthConfig | None = None) -> list[Finding]:
    """Judge one stage; an empty list is good news. At most one finding: what collapsed hides the rest."""
    limits = limits or HealthConfig()
    uneven = _uneven(seen, limits)
    if uneven:
        return [Finding(Mode.POSTERIOR, seen.stage, uneven, _posterior_remedy(seen.position))]
    gaps, listens = _listening(seen, limits)
    unheard = bool(gaps) and not listens
    if None not in (seen.nats, seen.unigram_nats) and seen.nats > seen.unigram_nats - limits.least_nats:
        # It may react to its input and still be worse than no reconstructor at all.
        unheard = True
        gaps.append(f"word frequencies alone need {seen.unigram_nats:.4f} nats")
    if seen.own_bow_gain is not None and seen.random_bow_gain is not None:
        inform = seen.own_bow_gain - seen.random_bow_gain
        source = f"the codes save {inform:.3f} nats per held-out token over random codes"
        if inform < limits.least_information:
            evidence = f"{source}, though many codes are in use"
            return [Finding(Mode.MEANINGLESS, seen.stage, evidence, _meaningless_remedy(seen.position))]
    elif seen.perplexity is None:
        source = "its input is continuous"
    else:
        return []  # Deaf or nothing to hear: without the codes' information there is no telling.
    if not unheard:
        return []
    evidence = f"{source}, but the reconstructor has not learned to use it: {'; '.join(gaps)}"
    return [Finding(Mode.RECONSTRUCTOR, seen.stage, evidence, _reconstructor_remedy(seen.position))]


def _uneven(seen: Measurements, limits: HealthConfig) -> str:
    """Evidence that few codes are in use, or nothing."""
    evidence = []
    reachable = min(seen.size, seen.documents)
    if seen.perplexity is not None and seen.perplexity < limits.least_perplexity * reachable:
        evidence.append(f"perplexity {seen.perplexity:.1f} of {reachable}")
    if seen.usage is not None and seen.usage < limits.least_usage * reachable / seen.size:
        evidence.append(f"{seen.usage:.0%} of {seen.size} codes in use")
    if seen.largest_share is not None and seen.largest_share > max(limits.most_largest_share, 4 / seen.size):
        evidence.append(f"{seen.largest_share:.0%} of the documents in one code")
    return ", ".join(evidence)


def _listening(seen: Measurements, limits: HealthConfig) -> tuple[list[str], bool]:
    """Scores with true and with shuffled codes in words, and whether any of them differ."""
    pairs = (
        ("nats per token", seen.nats, seen.shuffled_nats, -1, limits.least_nats),
        ("accuracy", seen.accuracy, seen.shuffled_accuracy, 1, limits.least_accuracy),
        ("Macro-F1", seen.macro_f1, seen.shuffled_macro_f1, 1, limits.least_macro_f1),
    )
    measured = [pair for pair in pairs if pair[1] is not None and pair[2] is not None]
    words = [f"{name} {true:.4f} with true and {shuffled:.4f} with shuffled codes" for name, true, shuffled, *_ in measured]
    return words, any(sign * (true - shuffled) >= least for _, true, shuffled, sign, least in measured)


def _settings(position: int) -> str:
    return "recipe.first" if position == 1 else "recipe.later"


def _posterior_remedy(position: int) -> str:
    if position == 1:
        return (
            "raise recipe.first.continuous_epochs so that the vectors differ before they are quantised, compare with"
            " recipe.first.quantiser.similarity='cosine', and cluster again with recipe.first.rounds"
        )
    return (
        "set recipe.later.quantiser.choice='balanced' and lower recipe.later.quantiser.commitment (0.02 is safe): the"
        " pull to a badly fitting codebook moves all vectors to one place"
    )


def _meaningless_remedy(position: int) -> str:
    part = _settings(position)
    return (
        f"give the vectors something to say before they are coded: raise {part}.continuous_epochs and"
        f" {part}.rates.decoder, lower {part}.quantised_rate, and keep {part}.cluster_last or {part}.rounds so that"
        " codes follow the vectors"
    )


def _reconstructor_remedy(position: int) -> str:
    part = _settings(position)
    return (
        f"raise recipe.warm_up_epochs and {part}.rates.reconstructor so that it learns before the codes move, and"
        f" {part}.hidden so that hints cannot stand in for codes"
    )


def diagnose_table(
    *,
    documents: int,
    sizes: tuple[int, ...],
    distinct_share: float,
    largest_group: int,
    usage: tuple[float, ...],
    repetition: tuple[float, ...] = (),
    drift: tuple[float, ...] = (),
    limits: HealthConfig | None = None,
) -> list[Finding]:
    """Judge a finished ID table.

    Args:
      documents: N.
      sizes: K per position.
      distinct_share: distinct IDs over documents, without a counter.
      largest_group: most documents that share an ID.
      usage: per position, the share of its codes in use.
      repetition: per position from the second on, AMI of its code with the prefix before it.
      drift: per earlier position, the share of documents whose code would be another one by the final parameters.
    """
    limits = limits or HealthConfig()
    found = []
    if distinct_share < limits.least_distinct:
        room = "" if math.prod(sizes) >= documents else f"; {math.prod(sizes):,} IDs are possible at all"
        evidence = f"{distinct_share:.1%} of {documents:,} IDs are distinct, {largest_group:,} documents share one{room}"
        remedy = "set recipe.distinct_last=True, or add a position or larger books to indexer.codebook_sizes"
        found.append(Finding(Mode.COLLISIONS, "table", evidence, remedy))
    for number, (share, size) in enumerate(zip(usage, sizes, strict=True), start=1):
        if share < limits.least_usage * min(size, documents) / size:
            evidence = f"position {number} uses {share:.0%} of its {size} codes"
            found.append(Finding(Mode.DEAD, "table", evidence, _posterior_remedy(number)))
    for number, ami in enumerate(repetition, start=2):
        if ami > limits.most_repetition:
            evidence = f"the code of position {number} follows from the codes before it (AMI {ami:.2f}): it adds little"
            remedy = "raise recipe.later.contrast.weight (negatives of the same prefix), or indexer.pooled_weight where it is 0"
            found.append(Finding(Mode.REPETITION, "table", evidence, remedy))
    for number, share in enumerate(drift, start=1):
        if share > limits.most_drift:
            evidence = f"{share:.1%} of the documents would get another code at position {number} by the final parameters"
            remedy = "raise recipe.later.commitment or lower recipe.later.rates.language_model"
            found.append(Finding(Mode.DRIFT, "table", evidence, remedy))
    return found
