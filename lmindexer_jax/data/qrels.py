"""Relevance judgements as arrays: which documents answer a query, and how well."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Int


@dataclasses.dataclass(frozen=True, eq=False)
class Qrels:
    """Judged documents of Q queries, end to end; a document is relevant where its grade is above 0.

    Attributes:
      offsets: query q has the judgements `offsets[q]` to `offsets[q + 1]`.
      rows: row in the corpus of each judged document; no document twice within a query.
      grades: of each judgement, never negative.
    """

    offsets: Int[np.ndarray, " Q+1"]
    rows: Int[np.ndarray, " M"]
    grades: Int[np.ndarray, " M"]

    def __len__(self) -> int:
        """Queries."""
        return len(self.offsets) - 1

    @property
    def query(self) -> Int[np.ndarray, " M"]:
        """The query of each judgement."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @property
    def relevant(self) -> Int[np.ndarray, " Q"]:
        """Relevant documents of each query."""
        return np.bincount(self.query[self.grades > 0], minlength=len(self))

    @property
    def answers(self) -> Int[np.ndarray, " P"]:
        """Rows of the documents that are relevant to some query, as often as they are."""
        return self.rows[self.grades > 0]

    def at_least(self, grade: int) -> "Qrels":
        """Graded judgements made binary: 1 from `grade` on, 0 below."""
        return dataclasses.replace(self, grades=(self.grades >= grade).astype(self.grades.dtype))

    def of(self, documents: Bool[np.ndarray, " N"]) -> "Qrels":
        """The judgements of some documents alone; every query stays, be it without one."""
        kept = documents[self.rows]
        return make_qrels(self.query[kept], self.rows[kept], self.grades[kept], queries=len(self))

    def take(self, queries: Int[np.ndarray, " P"]) -> "Qrels":
        """The judgements of some queries, in the order given."""
        counts = np.diff(self.offsets)[queries]
        offsets = np.r_[0, np.cumsum(counts)]
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[queries] - offsets[:-1], counts)
        return Qrels(offsets, self.rows[places], self.grades[places])


def make_qrels(
    query: Int[np.ndarray, " M"], rows: Int[np.ndarray, " M"], grades: Int[np.ndarray, " M"], *, queries: int
) -> Qrels:
    """Judgements in any order, grouped by query; those of one query keep their order.

    Args:
      query: number of the query of each judgement.
      rows: row in the corpus of the judged document.
      grades: 0 is not relevant.
      queries: Q.
    """
    query = np.asarray(query, np.int64)
    order = np.argsort(query, kind="stable")
    offsets = np.r_[0, np.cumsum(np.bincount(query, minlength=queries))]
    return Qrels(offsets, np.asarray(rows, np.int64)[order], np.asarray(grades, np.int64)[order])


def one_each(rows: Int[np.ndarray, " Q"]) -> Qrels:
    """One relevant document for each query: the next item of each user."""
    return Qrels(np.arange(len(rows) + 1), np.asarray(rows, np.int64), np.ones(len(rows), np.int64))
