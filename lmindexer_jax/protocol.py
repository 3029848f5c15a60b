"""The protocol by which recommenders are compared: all items ranked, the user's history among them and without it,
counted as items and as IDs; the ranked items as files, and the closing table."""

import pathlib

import numpy as np

from lmindexer_jax.console import Console
from lmindexer_jax.data import trec
from lmindexer_jax.data.interactions import Sequences
from lmindexer_jax.data.qrels import one_each
from lmindexer_jax.evaluation import ranking
from lmindexer_jax.indexing.id_table import IdTable
from lmindexer_jax.retrieval.recommendation import Rank
from lmindexer_jax.retrieval.topk import Ranked

CUTOFFS = (5, 10)
KEPT = 10  # items of each user that are evaluated and written
HISTORIES = {"history kept": False, "history excluded": True}


def glance(rank: Rank, users: Sequences) -> dict[str, float]:
    """Means at item level, history kept: for a look in between."""
    ranked = rank(*users.histories, count=KEPT, exclude_seen=False)
    means = ranking.means(ranking.evaluate(ranked.rows, one_each(users.targets), cutoffs=CUTOFFS))
    return {name: means[name] for name in shown()}


def evaluate(rank: Rank, users: Sequences, groups: np.ndarray, counts: np.ndarray) -> tuple[dict, dict[str, Ranked]]:
    """Means at item and ID level under both protocols, those of often and of seldom met next items too, and the ranked items.

    Args:
      groups: number of each item's full ID.
      counts: how often each item was met in training; see `ranking.head_and_tail`.
    """
    judged, slices = one_each(users.targets), ranking.head_and_tail(counts)
    out, kept = {}, {}
    for protocol, exclude in HISTORIES.items():
        ranked = rank(*users.histories, count=KEPT, exclude_seen=exclude)
        levels = ranking.means_by_slice("items", ranked.rows, judged, slices, cutoffs=CUTOFFS)
        levels["ids"] = ranking.means(ranking.evaluate_ids(ranked.rows, judged, cutoffs=CUTOFFS, groups=groups))
        out[protocol] = {level: {metric: values[metric] for metric in shown()} for level, values in levels.items()}
        kept[protocol] = ranked
    return out, kept


def shown() -> list[str]:
    """The metrics that are reported."""
    return [f"{name}@{k}" for k in CUTOFFS for name in ("recall", "ndcg")]


def agreement(rank: Rank, users: Sequences, *, count: int) -> dict[str, float]:
    """For `count` users, evenly spaced: how often the beam's items are those of the whole catalogue, in their order."""
    items, offsets = users.histories
    chosen = np.unique(np.linspace(0, len(users) - 1, min(count, len(users))).astype(np.int64))
    parts = [items[offsets[user] : offsets[user + 1]] for user in chosen]
    some = np.concatenate(parts), np.r_[0, np.cumsum([len(part) for part in parts])]
    beam, every = (rank(*some, count=KEPT, exclude_seen=False, every_id=exact).rows for exact in (False, True))
    return {
        "users": len(chosen),
        "same_first": float(np.mean(beam[:, 0] == every[:, 0])),
        f"same_{KEPT}": float(np.mean((beam == every).all(1))),
    }


def write_files(workdir: pathlib.Path, ranked: dict[str, Ranked], users: Sequences, table: IdTable, *, tag: str) -> None:
    """The test's ranked items as TREC run files, and its judgements; a space in an item's id is %20 there (`trec.escaped`)."""
    names, documents = [str(user) for user in users.users], trec.escaped(table.ids.to_pylist())
    for protocol, found in ranked.items():
        path = workdir / f"test-{protocol.replace(' ', '-')}.run"
        trec.write_run(path, found.rows, found.scores, queries=names, documents=documents, tag=tag)
    trec.write_qrels(workdir / "test.qrels", one_each(users.targets), queries=names, documents=documents)


def show(summary: dict, *, console: Console) -> None:
    """The closing table."""
    rows = [
        (split, protocol, level, *(values[metric] for metric in shown()))
        for split in ("validation", "test")
        for protocol in HISTORIES
        for level, values in summary[split][protocol].items()
    ]
    console.table(f"{summary['method']}: {summary['users']:,} users", ("split", "protocol", "level", *shown()), rows)
