"""What a prefix means: the words that its documents use more than those of its siblings, its categories, examples."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from lmindexer_jax.data.corpus import Corpus
from lmindexer_jax.errors import UserError
from lmindexer_jax.evaluation.examples import Fit, borderline, fit, typical
from lmindexer_jax.evaluation.id_quality import prefix_ids
from lmindexer_jax.evaluation.text_space import TextSpace
from lmindexer_jax.indexing.id_table import IdTable

TYPICAL, BORDERLINE = 4, 3  # examples of each kind


def distinguishing_words(
    space: TextSpace, prefixes: Int[np.ndarray, "N T"], *, most: int = 8
) -> list[list[list[int]]]:
    """Words that tell each prefix from its siblings, by class-based tf-idf (Grootendorst 2022).

    A word of prefix c scores n(w, c) / n(c) * log(1 + a / n(w)), where n counts documents that hold the word, n(w) and
    the average a run over the siblings of c (all prefixes with the same parent). A word that all siblings share scores
    low even if it is frequent; English function words are left out.

    Args:
      space: the words of the N documents.
      prefixes: number of each document's prefix of length 1..T, dense from 0 (`id_quality.prefix_ids`).
      most: words per prefix.

    Returns:
      for every length and every prefix the numbers of its words, best first. A prefix with one document has none: its
      text says it better. In larger prefixes a word needs two documents.
    """
    parent = np.zeros(len(prefixes), np.int64)
    by_depth = []
    for prefix in prefixes.T:
        by_depth.append(_best(prefix, parent, space.document, space.word, words=len(space.vocabulary), most=most))
        parent = prefix
    return by_depth


def _best(
    prefix: Int[np.ndarray, " N"],
    parent: Int[np.ndarray, " N"],
    document: Int[np.ndarray, " M"],
    word: Int[np.ndarray, " M"],
    *,
    words: int,
    most: int,
) -> list[list[int]]:
    """The best words of each prefix of one length."""
    size = np.bincount(prefix)
    parent_of = np.zeros(len(size), np.int64)
    parent_of[prefix] = parent
    keys, count = np.unique(prefix[document] * words + word, return_counts=True)
    owner, owned = np.divmod(keys, max(1, words))
    _, sibling = np.unique(parent_of[owner] * words + owned, return_inverse=True)
    among_siblings = np.bincount(sibling, weights=count)[sibling] if len(keys) else count
    total = np.bincount(owner, weights=count, minlength=len(size))
    average = np.bincount(parent_of, weights=total) / np.maximum(1, np.bincount(parent_of))
    score = count / np.maximum(1, total)[owner] * np.log1p(average[parent_of[owner]] / np.maximum(1, among_siblings))
    told = (size[owner] > 1) & ((count > 1) | (size[owner] < 4))
    order = np.lexsort((owned[told], -score[told], owner[told]))
    owner, owned = owner[told][order], owned[told][order]
    starts = np.searchsorted(owner, np.arange(len(size) + 1))
    return [owned[a : min(b, a + most)].tolist() for a, b in zip(starts[:-1], starts[1:])]


def explain_prefix(prefix: tuple[int, ...], table: IdTable, corpus: Corpus, space: TextSpace, *, most: int = 8) -> dict:
    """What the documents of a prefix have in common, and how they differ from those of its siblings.

    Args:
      prefix: codes, at most T; () for the whole table.
      table: its first N rows are the N documents of the corpus.
      corpus: the documents.
      space: their words.
      most: words per prefix, and categories.

    Returns:
      what JSON can hold: `prefix`, `documents`, `share` (of the corpus), `words` (that set it apart from its siblings,
      best first), `categories` (`path`, `documents`, `share` of those that have a path; most frequent first), `typical`
      and `borderline` documents (`id`, `full_id`, `text`, `path`, `nearness` to the prefix, and of borderline ones the
      `sibling` that is nearly as near with its `sibling_nearness`), `children` (`prefix`, `documents`, `words`, of a
      single document its `text`; largest first).

    Raises:
      UserError: no document has this prefix.
    """
    codes = table.codes[: len(corpus)]
    members = _documents_of(prefix, codes)
    ids, depth = prefix_ids(codes), len(prefix)
    words = distinguishing_words(space, ids[:, : depth + 1], most=most)
    found = {
        "prefix": name_of(prefix),
        "documents": len(members),
        "share": len(members) / len(codes),
        "words": named(space, words[depth - 1][ids[members[0], depth - 1]]) if depth else [],
        "categories": categories(corpus, members, most=most),
        "typical": [],
        "borderline": [],
        "children": [],
    }
    if depth:
        _, fitted = _fit_of(prefix, codes, space)
        best = typical(fitted, most=TYPICAL)
        unsure = [place for place in borderline(fitted, most=BORDERLINE) if place not in best]
        found["typical"] = [_document(members[i], table, corpus) | _nearness(fitted, i, prefix) for i in best]
        found["borderline"] = [_document(members[i], table, corpus) | _nearness(fitted, i, prefix, rival=True) for i in unsure]
    if depth < codes.shape[1]:
        children, sizes = np.unique(ids[members, depth], return_counts=True)
        first = {int(child): int(document) for document, child in zip(members[::-1], ids[members[::-1], depth])}
        found["children"] = [
            {
                "prefix": name_of(codes[first[int(child)], : depth + 1]),
                "documents": int(size),
                "words": named(space, words[depth][child]),
            }
            | ({"text": corpus.text(first[int(child)])} if size == 1 else {})
            for child, size in sorted(zip(children, sizes), key=lambda pair: (-pair[1], pair[0]))
        ]
    return found


def explain_document(row: int, table: IdTable, corpus: Corpus, space: TextSpace, *, most: int = 8) -> dict:
    """Each step of a document's ID.

    Returns:
      `id`, `full_id`, `text`, `path` and `steps`, one for every prefix of its ID: `prefix`, `documents`, `words`,
      `shared` (words of the prefix that the document has itself), `categories`, `nearness` to the prefix, and where
      there is one the nearest `sibling` with its `sibling_nearness`.
    """
    codes = table.codes[: len(corpus)]
    ids = prefix_ids(codes)
    words = distinguishing_words(space, ids, most=most)
    own = {space.vocabulary[word] for word in space.word[space.document == row]}
    steps = []
    for depth in range(1, codes.shape[1] + 1):
        prefix = tuple(codes[row, :depth].tolist())
        members, fitted = _fit_of(prefix, codes, space)
        told = named(space, words[depth - 1][ids[row, depth - 1]])
        steps.append(
            {
                "prefix": name_of(prefix),
                "documents": len(members),
                "words": told,
                "shared": [word for word in told if word in own],
                "categories": categories(corpus, members, most=3),
            }
            | _nearness(fitted, int(np.searchsorted(members, row)), prefix, rival=True)
        )
    return _document(row, table, corpus) | {"steps": steps}


def categories(corpus: Corpus, members: Int[np.ndarray, " M"], *, most: int) -> list[dict]:
    """The most frequent category paths of some documents, with their shares of those that have one."""
    counts = Counter(path for path in corpus.paths(members) if path)
    total = counts.total()
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]
    return [{"path": list(path), "documents": count, "share": count / total} for path, count in ranked]


def name_of(prefix: Sequence[int]) -> str:
    """(12, 7) as "12-7"."""
    return "-".join(str(int(code)) for code in prefix)


def named(space: TextSpace, words: list[int]) -> list[str]:
    """Words by their numbers."""
    return [space.vocabulary[word] for word in words]


def _documents_of(prefix: tuple[int, ...], codes: Int[np.ndarray, "N T"]) -> Int[np.ndarray, " M"]:
    members = np.flatnonzero((codes[:, : len(prefix)] == np.array(prefix, codes.dtype)).all(1))
    if not len(members):
        raise UserError(f"no document has the prefix {name_of(prefix)!r}; without a prefix all first codes are listed")
    return members


def _fit_of(prefix: tuple[int, ...], codes: Int[np.ndarray, "N T"], space: TextSpace) -> tuple[Int[np.ndarray, " M"], Fit]:
    """Documents of a prefix, ascending, and how they fit to it and to its siblings."""
    family = _documents_of(prefix[:-1], codes)
    fitted = fit(space, family, codes[family, len(prefix) - 1])
    mine = codes[family, len(prefix) - 1] == prefix[-1]
    return family[mine], Fit(*(part[mine] for part in fitted))


def _document(row: int, table: IdTable, corpus: Corpus) -> dict:
    full = table.full_ids[row]
    return {
        "id": table.ids[int(row)].as_py(),
        "full_id": name_of(full if full[-1] else full[:-1]),
        "text": corpus.text(int(row)),
        "path": list(corpus.path(int(row))),
    }


def _nearness(fitted: Fit, place: int, prefix: tuple[int, ...], *, rival: bool = False) -> dict:
    """Of one document; with the sibling that comes nearest if asked for and there is one."""
    near = {"nearness": float(fitted.own[place])}
    if rival and fitted.sibling[place] >= 0:
        near["sibling"] = name_of((*prefix[:-1], fitted.sibling[place]))
        near["sibling_nearness"] = float(fitted.other[place])
    return near
