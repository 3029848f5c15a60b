"""Several indexers, each with several seeds, on one corpus: what is more than luck?

Two kinds of luck make a difference: which documents the corpus happens to hold, and which seed an indexer happened to
have. Both are estimated and added up, for the difference d between two indexers' means over their seeds:

    documents   variance of d over random halves of the documents, the same halves for all (see `significance.py`)
    seeds       s^2 / S of either indexer: variance of the measure over its S seeds on the whole corpus

d over the root of their sum is compared with Student's t, at the degrees of freedom of Welch and Satterthwaite (1946):
few where seeds make most of the variance, many where documents do and there are many. `p_documents` leaves the seeds
out: it speaks of these very tables, as `table.compare_tables` does. With one seed each the two are nearly the same, and
both say nothing of seeds. P-values are not corrected for their number.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from lmindexer_jax.evaluation.significance import half_sample_difference, half_sample_error, t_interval, t_p_value
from lmindexer_jax.evaluation.table import Row


@dataclasses.dataclass(frozen=True)
class Compared:
    """One measure of one indexer over its seeds, and what lies between it and the indexer that it is compared with."""

    indexer: str
    codes: str
    labels: str  # "" where the measure has none
    measure: str
    seeds: list[float]  # of the whole corpus, per seed
    mean: float
    spread: float | None  # standard deviation over seeds; None with one
    perplexity: float  # of these codes, mean over seeds: AMI and gain are not comparable without
    difference: float | None  # None of the indexer that others are compared with
    low: float | None  # None, too, where the documents (or users) are too few for an interval
    high: float | None
    p_value: float | None  # of seeds and documents
    p_documents: float | None  # of documents alone


def compare(cells: dict[str, list[list[Row]]], *, against: str) -> list[Compared]:
    """Set every indexer against one of them.

    Args:
      cells: per indexer, for each of its seeds what `table.measured` gave, with the same halves for all.
      against: name of the indexer that others are compared with.

    Returns:
      all measures that an indexer has for every seed, grouped by measure, indexers in the order given.
    """
    found = {name: collect(seeds) for name, seeds in cells.items()}
    order = list(dict.fromkeys(key for each in found.values() for key in each))
    out = []
    for key in order:
        base = found[against].get(key)
        for name in cells:
            if key in found[name]:
                values, perplexity, units = found[name][key]
                apart = (None,) * 5
                if name != against and base is not None:
                    apart = difference(base[0], values, units=units)
                whole = values[:, 0]
                spread = float(whole.std(ddof=1)) if len(whole) > 1 else None
                out.append(Compared(name, *key, whole.tolist(), float(whole.mean()), spread, perplexity, *apart))
    return out


def collect(seeds: list[list[Row]]) -> dict[tuple[str, str, str], tuple[Float[np.ndarray, "S R+1"], float, int]]:
    """(codes, labels, measure) to the values of every seed, the mean perplexity of these codes, and the units measured."""
    rows = [{(row.codes, row.labels): row for row in seed} for seed in seeds]
    out = {}
    for at, first in rows[0].items():
        same = [seed[at] for seed in rows]
        perplexity = float(np.mean([perplexity_of(row) for row in same]))
        for name in first.named():
            if all(name in row.named() for row in same):
                out[*at, name] = (np.stack([row.named()[name] for row in same]), perplexity, first.units_of(name))
    return out


def perplexity_of(row: Row) -> float:
    """Of the row's codes; where there are labels, over the documents that have one."""
    return float(row.facts["perplexity"] if "perplexity" in row.facts else row.values["perplexity"][0])


def difference(
    first: Float[np.ndarray, "S R+1"], second: Float[np.ndarray, "Z R+1"], *, units: int
) -> tuple[float, float | None, float | None, float, float]:
    """Second less first, the ends of its interval, and p-values of seeds and documents, and of documents alone.

    Args:
      first, second: per seed a measure of the whole corpus, and after it those of R random halves, the same for both.
      units: documents (or queries, or users) that were halved; of one alone nothing is claimed, however many the seeds.
    """
    means = first.mean(0), second.mean(0)
    documents = half_sample_difference(*means, units=units)
    error, freedom = half_sample_error(means[1] - means[0], units=units)
    parts = [(error**2, freedom)]
    parts += [(float(each[:, 0].var(ddof=1)) / len(each), len(each) - 1) for each in (first, second) if len(each) > 1]
    variance = sum(part for part, _ in parts)
    if freedom and variance:
        freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    about = (documents.difference, variance**0.5, freedom)
    return documents.difference, *t_interval(*about, units=units), t_p_value(*about, units=units), documents.p_value
