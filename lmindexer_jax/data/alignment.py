"""Does a retrieval task hold together? Leaks between its splits, and queries and judgements that lead nowhere."""

import dataclasses
import enum
import unicodedata

from lmindexer_jax.data.relevance import TRAIN, Queries, RetrievalTask


class Fault(enum.StrEnum):
    """What may be wrong with a task."""

    LEAKED_QUERY = "queries stand word for word in the training split"
    LEAKED_JUDGEMENT = "judgements of the same query and document stand in the training split"
    MISSING_DOCUMENT = "judgements name documents that the corpus does not hold"
    UNANSWERABLE = "queries have no relevant document"


@dataclasses.dataclass(frozen=True)
class Finding:
    """A fault, with how often it occurs in a split of how many, and one example."""

    fault: Fault
    split: str
    count: int
    of: int
    example: str = ""

    def __str__(self) -> str:
        example = f", as {self.example}" if self.example else ""
        return f"{self.split}: {self.count:,} of {self.of:,} {self.fault}{example}"


def check(task: RetrievalTask) -> list[Finding]:
    """Faults of every split, each against the training split; an empty list where all is well.

    A leaked query makes a test an exercise in memory, unless that is what it is to measure; missing documents make Recall
    look better than it is, for what cannot be found is not asked for. Texts are compared without case and spacing.

    Args:
        task: from `open_task`.
    """
    findings = []
    learned = task.splits.get(TRAIN)
    texts = {plain(text) for text in learned.texts} if learned else set()
    pairs = _pairs(learned) if learned else set()
    for split, queries in task.splits.items():
        if learned is not None and split != TRAIN:
            leaked = [text for text in queries.texts if plain(text) in texts]
            findings.append(_finding(Fault.LEAKED_QUERY, split, leaked, len(queries)))
            own = _pairs(queries)
            both = sorted((query, task.documents[row]) for query, row in own & pairs)
            findings.append(_finding(Fault.LEAKED_JUDGEMENT, split, both, len(own)))
        lost = [query for query, count in zip(queries.ids, queries.qrels.relevant, strict=True) if not count]
        findings.append(_finding(Fault.UNANSWERABLE, split, lost, len(queries)))
    for split, count in task.missing.items():
        of = count + (len(task.splits[split].qrels.rows) if split in task.splits else 0)
        findings.append(Finding(Fault.MISSING_DOCUMENT, split, count, of))
    return [finding for finding in findings if finding.count]


def _finding(fault: Fault, split: str, found: list, of: int) -> Finding:
    return Finding(fault, split, len(found), of, repr(found[0]) if found else "")


def _pairs(queries: Queries) -> set[tuple[str, int]]:
    return {(queries.ids[query], int(row)) for query, row in zip(queries.qrels.query, queries.qrels.rows, strict=True)}


def plain(text: str) -> str:
    """A text as it is compared: without case and spacing."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
