"""A search as what JSON can hold: the documents found, the beams on the way, and what every prefix means."""

import functools
import math
import time

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
BEAMS = 20  # shown of a position, beside those that the documents found have
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
          its whole text has); `positions`, one for each code: `position`,
          `codes` there are, `kept` (the probability that the beams hold), and the 20 best `beams`, and those of the hits, best
          first: `prefix`, `log_prob`, `probability`, `given` (that of its last code after those before), and what
          `Gloss.look_up` says of it.

        Raises:
          UserError: an empty query, or a category that no document has.
        """
        started = time.perf_counter()
        within = self._below(category) if category else None
        (trace,) = self.searcher.trace([query], k=k, within=within, groups=DIVERSE if diverse else 1)
        spent = time.perf_counter() - started
        hits = [_hit(rank, hit, length=len(trace.steps)) for rank, hit in enumerate(trace.hits, 1)]
        found = {prefix for hit in hits for prefix in hit["prefixes"]}
        nodes = {name_of(codes): int(node) for step in trace.steps for codes, node in zip(step.codes, step.nodes, strict=True)}
        for hit in hits:
            hit["words"] = self._shared(hit, nodes)
        sizes, positions, above = self.searcher.table.manifest.codebook_sizes, [], {"": 0.0}
        for length, step in enumerate(trace.steps, 1):
            kept = min(1.0, float(np.exp(step.log_probs).sum()))
            beams = self._beams(step, above, found=found)
            positions.append({"position": length, "codes": sizes[length - 1], "kept": kept, "beams": beams})
            above = dict(zip(map(name_of, step.codes), step.log_probs, strict=True))
        asked = {"query": query, "words": sorted(_words(query)), "k": k, "milliseconds": round(1000 * spent, 2)}
        return asked | {"hits": hits, "positions": positions}

    def _beams(self, step: Step, above: dict[str, float], *, found: set[str]) -> list[dict]:
        """The best beams of one position and those that are `found`; `above` has log p of those before it."""
        beams = []
        for place, (codes, node, log_prob) in enumerate(zip(step.codes, step.nodes, step.log_probs, strict=True)):
            if place >= BEAMS and name_of(codes) not in found:
                continue
            told = self._gloss.look_up(len(codes), int(node))
            beams.append(
                {
                    "prefix": name_of(codes),
                    "log_prob": float(log_prob),
                    "probability": math.exp(log_prob),
                    "given": min(1.0, math.exp(log_prob - above[name_of(codes[:-1])])),
                    **told,
                    "categories": told["categories"][:CATEGORIES],
                }
            )
        return beams

    def _shared(self, hit: dict, nodes: dict[str, int]) -> list[str]:
        """Words of a hit's prefixes, as far as these have `nodes`, that its text has, too."""
        kept = [(length, nodes[prefix]) for length, prefix in enumerate(hit["prefixes"], 1) if prefix in nodes]
        corpus = self.searcher.corpus
        if corpus is None or not kept:
            return []
        rows = self._gloss.rows(*kept[-1])
        row = rows[pc.index(self.searcher.table.ids.take(pa.array(rows)), hit["document"]).as_py()]
        if row >= len(corpus):
            return []
        return sorted({word for prefix in kept for word in self._gloss.look_up(*prefix)["words"]} & _words(corpus.text(row)))

    def _subset(self, category: tuple[str, ...]) -> Permits:
        corpus = self.searcher.corpus
        if len(category) == 1 and (corpus is None or category not in corpus.label_names(1)):
            category = parse_category(category[0])
        return self.searcher.subset(category=category)


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
