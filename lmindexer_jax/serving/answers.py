"""A search as what JSON can hold: the documents found, the beams on the way, and what every prefix means."""

import functools
import math
import time
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import lmindexer_jax
from lmindexer_jax.evaluation.explain import name_of
from lmindexer_jax.evaluation.gloss import Gloss
from lmindexer_jax.evaluation.text_space import LONGEST_TEXT, WORD
from lmindexer_jax.retrieval.permits import Permits
from lmindexer_jax.retrieval.searcher import Hit, Searcher, Step, parse_category

DIVERSE = 5  # groups of beams that a search for different results has
CATEGORIES = 3  # shown of a prefix
BEAMS = 20  # shown of a position, beside those that lead to the documents found and to others shown
SUBSETS = 8  # categories that are kept ready to be searched
EXAMPLES, LONGEST_EXAMPLE = 4, 60  # queries to begin with, and their characters


class Answers:
    """A retriever's answers, explained. Threads may share one."""

    def __init__(self, searcher: Searcher, gloss: Gloss, *, title: str):
        """`gloss` is that of the searcher's table; `title` names the corpus."""
        self.searcher, self.title = searcher, title
        self._gloss = gloss
        self._below = functools.lru_cache(SUBSETS)(self._subset)

    def about(self) -> dict:
        """What is searched: `title`, `documents`, `codes` of each position, whether there are `categories` and `texts`,
        `examples` of queries, `version`."""
        corpus, table = self.searcher.corpus, self.searcher.table
        return {
            "title": self.title,
            "documents": len(table),
            "codes": list(table.manifest.codebook_sizes),
            "categories": corpus is not None and corpus.depth() > 0,
            "texts": corpus is not None,
            "examples": self.examples(),
            "version": lmindexer_jax.__version__,
        }

    def examples(self) -> list[str]:
        """How a few documents begin, as queries to begin with; always the same."""
        corpus, found = self.searcher.corpus, []
        if corpus is None:
            return []
        for row in np.random.default_rng(0).permutation(len(corpus))[: 50 * EXAMPLES]:
            first = corpus.text(row).strip().split("\n")[0].split(". ")[0].rstrip(".")
            if first.count(" ") > 1 and len(first) <= LONGEST_EXAMPLE and first not in found:
                found.append(first)
            if len(found) == EXAMPLES:
                break
        return found

    def search(self, query: str, *, k: int, category: tuple[str, ...] = (), diverse: bool = False) -> dict:
        """Search and explain.

        Args:
          query: not empty.
          k: documents wanted.
          category: search below this path alone; one name may stand for a whole path, written as "Beauty > Hands".
          diverse: let groups of beams choose in turn.

        Returns:
          `query` and its `words`, `k`, `milliseconds`; `hits` (`rank`, `document`, `full_id`, `log_prob` and `probability`, None
          where no beam reached the document, `similarity`, `text`, `path`, `prefixes` of its ID, those of their `words` that
          its whole text has); `positions`, one for each code: `position`, `codes` there are, `alive` (how many beams were
          kept), `kept` (the probability that all these hold), and the 20 best `beams`, those of the hits and those before
          either, best first: `prefix`, `log_prob`, `probability`, `given` (that of its last code after those before),
          `continued` (whether any beam of the next position begins so, or at the last one any hit), and what `Gloss.look_up`
          says of it.

        Raises:
          UserError: an empty query, or a category that no document has.
        """
        started = time.perf_counter()
        within = self._below(category) if category else None
        (trace,) = self.searcher.trace([query], k=k, within=within, groups=DIVERSE if diverse else 1)
        spent = time.perf_counter() - started
        hits = [_hit(rank, hit, length=len(trace.steps)) for rank, hit in enumerate(trace.hits, 1)]
        kept = {}
        for step in trace.steps:
            places = zip(step.codes, step.nodes, step.log_probs, strict=True)
            kept |= {name_of(codes): (int(node), float(log_prob)) for codes, node, log_prob in places}
        for hit in hits:
            hit["words"] = self._shared(hit, kept)
        continued = {_above(prefix) for prefix in kept} | {hit["prefixes"][-1] for hit in hits}
        shown = _shown(trace.steps, hits)
        positions = []
        for length, step in enumerate(trace.steps, 1):
            prefixes = filter(shown.__contains__, map(name_of, step.codes))
            positions.append(
                {
                    "position": length,
                    "codes": self.searcher.table.manifest.codebook_sizes[length - 1],
                    "alive": len(step.codes),
                    "kept": min(1.0, float(np.exp(step.log_probs).sum())),
                    "beams": [self._beam(prefix, kept) | {"continued": prefix in continued} for prefix in prefixes],
                }
            )
        asked = {"query": query, "words": sorted(_words(query)), "k": k, "milliseconds": round(1000 * spent, 2)}
        return asked | {"hits": hits, "positions": positions}

    def _beam(self, prefix: str, kept: dict[str, tuple[int, float]]) -> dict:
        """One prefix of those that were `kept`, with their nodes and log p."""
        node, log_prob = kept[prefix]
        above = kept[_above(prefix)][1] if _above(prefix) else 0.0
        told = self._gloss.look_up(prefix.count("-") + 1, node)
        return {
            "prefix": prefix,
            "log_prob": log_prob,
            "probability": math.exp(log_prob),
            "given": min(1.0, math.exp(log_prob - above)),
            **told,
            "categories": told["categories"][:CATEGORIES],
        }

    def _shared(self, hit: dict, kept: dict[str, tuple[int, float]]) -> list[str]:
        """Words of a hit's prefixes, as far as these were `kept`, that its text has, too."""
        nodes = [(length, kept[prefix][0]) for length, prefix in enumerate(hit["prefixes"], 1) if prefix in kept]
        corpus = self.searcher.corpus
        if corpus is None or not nodes:
            return []
        rows = self._gloss.rows(*nodes[-1])
        row = rows[pc.index(self.searcher.table.ids.take(pa.array(rows)), hit["document"]).as_py()]
        if row >= len(corpus):
            return []
        return sorted({word for node in nodes for word in self._gloss.look_up(*node)["words"]} & _words(corpus.text(row)))

    def _subset(self, category: tuple[str, ...]) -> Permits:
        corpus = self.searcher.corpus
        if len(category) == 1 and (corpus is None or category not in corpus.label_names(1)):
            category = parse_category(category[0])
        return self.searcher.subset(category=category)


def _above(prefix: str) -> str:
    """The prefix before its last code; empty where that is the first."""
    return prefix.rpartition("-")[0]


def _shown(steps: Sequence[Step], hits: Sequence[dict]) -> set[str]:
    """The best prefixes of every position, those of the documents found, and all before either: a link needs both its ends."""
    shown = set()
    for prefix in [name_of(codes) for step in steps for codes in step.codes[:BEAMS]] + [hit["prefixes"][-1] for hit in hits]:
        while prefix:
            shown.add(prefix)
            prefix = _above(prefix)
    return shown


def _words(text: str) -> set[str]:
    """Those of a text, taken as the words of prefixes are (`text_space`)."""
    return set(WORD.findall(text[:LONGEST_TEXT].lower()))


def _hit(rank: int, hit: Hit, *, length: int) -> dict:
    codes = hit.full_id.split("-")
    return {
        "rank": rank,
        "document": hit.document,
        "full_id": hit.full_id,
        "log_prob": hit.log_prob,
        "probability": None if hit.log_prob is None else math.exp(hit.log_prob),
        "similarity": hit.similarity,
        "text": hit.text,
        "path": list(hit.path),
        "prefixes": ["-".join(codes[: t + 1]) for t in range(length)],
    }
