"""Everything one can ask of an ID table, in one call, and of two tables of the same corpus side by side.

Codes come as a plain array, so a table of any origin will do. What is asked depends on the evidence that there is:

    always          use of the codes (usage, perplexity, entropy, Gini; within prefix groups too), collisions, repetition
    labels          AMI, NMI, V-measure and purity, of the first code with the whole path and with every depth that tells
                    documents apart, and of the first t codes with the t-th of these
    words           held-out bag-of-words gain of every prefix
    texts           do nearest neighbours share prefixes of length 1, 2, ..., T
    interactions    do consecutive items of a user share prefixes of length 1, 2, ..., T

All that depends on the number and evenness of codes is given twice: as it is, and `over_reference`, less what a tree of
plain words reaches at the same perplexity (`reference.py`), which makes tables of unequal perplexity comparable.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Int

from lmindexer_jax.evaluation.agreement import agreement, compared, prefix_name, random_purity, repetition
from lmindexer_jax.evaluation.bow import Bags, bow_gain, bow_nats, random_gain
from lmindexer_jax.evaluation.contingency import contingency_measures, entropies
from lmindexer_jax.evaluation.id_quality import collisions, perplexity, prefix_ids, usage
from lmindexer_jax.evaluation.lift import consecutive_pairs, lifts
from lmindexer_jax.evaluation.neighbours import Neighbours, nearest_documents, neighbour_agreement
from lmindexer_jax.evaluation.reference import ReferenceTree, reference_tree
from lmindexer_jax.evaluation.significance import (
    LEVEL,
    half_sample_difference,
    half_sample_estimate,
    half_sampled,
)
from lmindexer_jax.evaluation.text_space import condensed, text_space

Values = dict[str, Float[np.ndarray, " R+1"]]
"""Measures by name, "co_occurrence.lift" for one of a group: of the whole corpus, and then of random halves."""


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """What is known about the N documents of a corpus, whatever their IDs.

    Attributes:
      labels: for depth 1, 2, ... of a category tree a label per document, -1 where its path is shorter.
      words: their token occurrences.
      interactions: items of users and where each user begins, as `interactions.read_interactions` gives them.
      neighbours, reference: of their texts, see `with_texts`.
    """

    labels: list[Int[np.ndarray, " N"]] = dataclasses.field(default_factory=list)
    words: Bags | None = None
    interactions: tuple[Int[np.ndarray, " M"], Int[np.ndarray, " U+1"]] | None = None
    neighbours: Neighbours | None = None
    reference: ReferenceTree | None = None

    def with_texts(self, texts: Iterable[str]) -> "Evidence":
        """The same with the documents' texts known: their neighbourhoods and the reference tree."""
        space = text_space(texts)
        found, tree = nearest_documents(space), reference_tree(condensed(space))
        return dataclasses.replace(self, neighbours=found, reference=tree)


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """What was measured of one prefix length, or of one prefix length against one depth of labels."""

    codes: str  # "c1", "c1..c2", ...
    labels: str  # "path", "depth 1", ...; "" where there are none
    facts: dict[str, object]
    values: Values
    over_reference: Values
    units: dict[str, int]  # by name of the value: documents, queries or users that were halved

    def as_dict(self) -> dict:
        """As JSON has it; intervals where there are halves, and units enough."""
        names = {"codes": self.codes} | ({"labels": self.labels} if self.labels else {})
        row = names | nested(self.facts | {name: float(value[0]) for name, value in self.named().items()})
        estimates = {name: half_sample_estimate(value, units=self.units_of(name)) for name, value in self.named().items()}
        intervals = nested({name: [found.low, found.high] for name, found in estimates.items() if found.low is not None})
        return row | ({"intervals": intervals} if intervals else {})

    def named(self) -> Values:
        """All values; what stands over the reference by the name "over_reference.ami"."""
        return self.values | {f"over_reference.{name}": value for name, value in self.over_reference.items()}

    def units_of(self, name: str) -> int:
        """Units of a value by its name in `named`."""
        return self.units[name.removeprefix("over_reference.")]


def evaluate_table(
    codes: Int[np.ndarray, "N T"], sizes: tuple[int, ...], evidence: Evidence, *, replicates: int = 0, seed: int = 0
) -> dict:
    """Measure an ID table.

    Args:
      codes: of the N documents.
      sizes: K of every position.
      evidence: what is known about these documents.
      replicates: random halves of the documents (or users) that intervals are made of; 0 leaves intervals out.
      seed: of the halves.

    Returns:
      what JSON can hold: `documents`, `positions` (a row each, see `id_quality.Usage`), `collisions`, `repetition`,
      `prefixes` (a row per length) and `agreement` (a row per pair of prefix length and depth of labels). Rows have
      `over_reference` where the tree is as fine as the codes, and `intervals` of the same names where asked for.
    """
    rows = measured(codes, evidence, replicates=replicates, seed=seed)
    return tabulated(rows, codes, sizes, evidence, replicates)


def compare_tables(
    first: Int[np.ndarray, "N T"],
    second: Int[np.ndarray, "N U"],
    evidence: Evidence,
    *,
    sizes: tuple[tuple[int, ...], tuple[int, ...]],
    replicates: int = 1000,
    seed: int = 0,
) -> dict:
    """Measure two tables of the same documents on the same halves of them.

    What an interval and a p-value speak of is the choice of documents, for these two tables as they are: another seed
    of the same indexer gives another table, and only several of them tell how much that matters.

    Args:
      first, second: codes of the N documents.
      evidence, replicates, seed: as in `evaluate_table`.
      sizes: K of every position, of both.

    Returns:
      `first` and `second` as of `evaluate_table`, and `differences`: rows {"codes", "labels", "measure"} with a
      `Difference` (second less first, its interval and p-value) of all that both have. P-values are not corrected for
      their number.
    """
    rows = [measured(codes, evidence, replicates=replicates, seed=seed) for codes in (first, second)]
    theirs = {(row.codes, row.labels): row for row in rows[1]}
    differences = []
    for row in (row for row in rows[0] if (row.codes, row.labels) in theirs):
        one, two = row.named(), theirs[row.codes, row.labels].named()
        for name in (name for name in one if name in two):
            found = half_sample_difference(one[name], two[name], units=row.units_of(name))
            about = {"codes": row.codes, "labels": row.labels, "measure": name}
            differences.append(about | dataclasses.asdict(found))
    return {
        "first": tabulated(rows[0], first, sizes[0], evidence, replicates),
        "second": tabulated(rows[1], second, sizes[1], evidence, replicates),
        "differences": differences,
    }


def tabulated(
    rows: list[Row], codes: Int[np.ndarray, "N T"], sizes: tuple[int, ...], evidence: Evidence, replicates: int
) -> dict:
    """What `evaluate_table` returns, from the rows that `measured` gave for the same codes and evidence."""
    positions = []
    for number, use in enumerate(usage(codes, sizes)):
        position = {"position": number + 1, "codes": sizes[number]} | dataclasses.asdict(use)
        if evidence.words is not None:
            alone = codes[:, [number]]
            position["own_bow_gain"] = float(bow_gain(alone, evidence.words)[0])
            position["random_bow_gain"] = float(random_gain(alone, evidence.words)[0])
        positions.append(position)
    halves = {"replicates": replicates, "level": LEVEL} if replicates else {}
    return {
        "documents": len(codes),
        "positions": positions,
        "collisions": dataclasses.asdict(collisions(codes)),
        "repetition": repetition(codes),
        "prefixes": [row.as_dict() for row in rows if not row.labels],
        "agreement": [row.as_dict() for row in rows if row.labels],
    } | halves


def measured(codes: Int[np.ndarray, "N T"], evidence: Evidence, *, replicates: int, seed: int) -> list[Row]:
    """All rows: every prefix length, then agreement with labels."""
    halves = {"replicates": replicates, "seed": seed}
    ids = prefix_ids(codes)
    alike = [evidence.reference.like(prefix) if evidence.reference else None for prefix in ids.T]
    lifted = _lifted(ids, alike, evidence, halves)
    rows = []
    words = _informed(codes, alike, evidence, halves)
    for t, prefix in enumerate(ids.T):
        entropy = half_sampled(lambda rows: {"entropy": entropies(prefix, rows)}, len(codes), **halves)["entropy"]
        facts: dict[str, object] = {"length": t + 1, "distinct": int(prefix.max(initial=-1)) + 1}
        values: Values = {"perplexity": np.exp(entropy), "entropy": entropy}
        over: Values = {}
        units = dict.fromkeys(values, len(codes))
        for more_facts, more_values, more_over, count in (words[t], _near(prefix, alike[t], evidence, halves), lifted[t]):
            facts, values, over = facts | more_facts, values | more_values, over | more_over
            units |= dict.fromkeys(more_values, count)
        rows.append(Row(prefix_name(t + 1), "", facts, values, over, units))
    like = {prefix_name(t + 1): leaf for t, leaf in enumerate(alike)}
    for of, against, found, given in compared(codes, evidence.labels):
        rows.append(_agreed(of, against, found, given, like[of], halves))
    return rows


def _agreed(of: str, against: str, found, given, leaf, halves: dict) -> Row:
    """Agreement of one prefix length with one depth."""
    known = np.flatnonzero(given >= 0)
    found, given = found[known], given[known]
    values = half_sampled(lambda rows: contingency_measures(found, given, rows), len(known), **halves)
    over = {}
    if leaf is not None:
        base = half_sampled(lambda rows: contingency_measures(leaf[known], given, rows), len(known), **halves)
        over = {name: values[name] - base[name] for name in ("ami", "nmi", "v_measure", "purity")}
    facts = {
        "labels_count": len(np.unique(given)),
        "documents": len(known),
        "perplexity": perplexity(np.bincount(found)),
        "random_purity": random_purity(found, given),
    }
    return Row(of, against, facts, values, over, dict.fromkeys(values, len(known)))


def _informed(codes, alike, evidence: Evidence, halves: dict) -> list[tuple[dict, Values, Values, int]]:
    """Bag-of-words gain per prefix length. The reference's leaves are nested as prefixes are, and back off alike."""
    if evidence.words is None:
        return [({}, {}, {}, 0)] * codes.shape[1]
    chance = random_gain(codes, evidence.words)

    def gains(path: Int[np.ndarray, "N T"]) -> list[np.ndarray]:
        nats, tokens = bow_nats(path, evidence.words)
        total = lambda rows: np.maximum(1, tokens[rows].sum(1))  # noqa: E731
        statistic = lambda rows: {str(t): one[rows].sum(1) / total(rows) for t, one in enumerate(nats.T)}  # noqa: E731
        return list(half_sampled(statistic, len(codes), **halves).values())

    own = gains(codes)
    fine = [leaf for leaf in alike if leaf is not None]
    base = gains(np.stack(fine, axis=1)) if fine else []
    return [
        (
            {"random_bow_gain": float(chance[t])},
            {"bow_gain": own[t]},
            {"bow_gain": own[t] - base[t]} if t < len(base) else {},
            len(codes),
        )
        for t in range(codes.shape[1])
    ]


def _near(prefix, leaf, evidence: Evidence, halves: dict) -> tuple[dict, Values, Values, int]:
    """Agreement with neighbourhoods."""
    if evidence.neighbours is None:
        return {}, {}, {}, 0

    def values(partition: Int[np.ndarray, " N"]) -> tuple[float, Values, int]:
        found = neighbour_agreement(partition, evidence.neighbours)
        scores = found.per_query
        if not len(scores):
            return found.chance, {}, 0
        share = half_sampled(lambda rows: {"share": scores[rows].mean(1)}, len(scores), **halves)["share"]
        corrected = (share - found.chance) / max(1e-12, 1 - found.chance)
        return found.chance, {"neighbours.share": share, "neighbours.agreement": corrected}, len(scores)

    chance, own, queries = values(prefix)
    base = values(leaf)[1] if leaf is not None else {}
    return {"neighbours.chance": chance}, own, {name: own[name] - base[name] for name in own if name in base}, queries


def _lifted(ids, alike, evidence: Evidence, halves: dict) -> list[tuple[dict, Values, Values, int]]:
    """Co-occurrence per prefix length."""
    if evidence.interactions is None:
        return [({}, {}, {}, 0)] * ids.shape[1]
    pairs = consecutive_pairs(*evidence.interactions)
    partitions = [*ids.T, *(leaf for leaf in alike if leaf is not None)]

    def statistic(rows: Int[np.ndarray, "R M"]) -> Values:
        found = enumerate(lifts(partitions, pairs, rows))
        return {f"{number}.{name}": value for number, values in found for name, value in values.items()}

    values = half_sampled(statistic, pairs.users, **halves)
    out, reference = [], ids.shape[1]
    for t, prefix in enumerate(ids.T):
        own = {f"co_occurrence.{name}": values[f"{t}.{name}"] for name in ("share", "lift")}
        over = {}
        if alike[t] is not None:
            over = {name: own[name] - values[f"{reference}.{name.split('.')[1]}"] for name in own}
            reference += 1
        facts = {
            "co_occurrence.chance": float(values[f"{t}.chance"][0]),
            "co_occurrence.ami": agreement(prefix[pairs.second], prefix[pairs.first]).ami,
            "co_occurrence.pairs": len(pairs.first),
        }
        out.append((facts, own, over, pairs.users))
    return out


def nested(flat: dict[str, object]) -> dict:
    """{"a.b": 1} as {"a": {"b": 1}}."""
    out: dict = {}
    for name, value in flat.items():
        *groups, last = name.split(".")
        here = out
        for group in groups:
            here = here.setdefault(group, {})
        here[last] = value
    return out
