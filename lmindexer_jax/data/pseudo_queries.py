"""Queries made of a document's own words, for documents that nobody has asked for yet."""

import hashlib
import re

import numpy as np

_SENTENCE = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[。！？])|\n+")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")  # Thai to Chinese
_FEWEST, _MOST = 3, 32  # units of a query


def pseudo_queries(text: str, *, seed: int, count: int = 5) -> list[str]:
    """Up to `count` different sentences or spans of a text, never the whole of it.

    Sentences come first, drawn without replacement; a sentence of more than 32 words gives a span of them. Where there
    are too few, spans of 3 to 32 words at random places fill up. A script without spaces is taken by its characters. A
    text that has nothing to leave out, of a single word or character, gives none.

    Args:
      text: of one document.
      seed: with the text itself determines the result, whatever other documents there are.
      count: queries wanted.
    """
    text = text.strip()
    digest = hashlib.blake2b(f"{seed}\0{text}".encode(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest))
    found: dict[str, str] = {}

    def add(query: str) -> None:
        key = _key(query)
        if key and key != _key(text):
            found.setdefault(key, query)

    sentences = [part.strip() for part in _SENTENCE.split(text) if part and part.strip()]
    for number in rng.permutation(len(sentences)):
        if len(found) < count and len(_units(sentences[number])[0]) >= _FEWEST:
            add(_span(sentences[number], rng, longest=_MOST))
    tries = 0
    while len(found) < count and tries < 4 * count:
        tries += 1
        add(_span(text, rng, longest=min(_MOST, len(_units(text)[0]) - 1), shortest=_FEWEST))
    return list(found.values())[:count]


def _span(text: str, rng: np.random.Generator, *, longest: int, shortest: int | None = None) -> str:
    """At most `longest` units of a text in a row, at a random place; a random number of them from `shortest` on."""
    units, joint = _units(text)
    length = min(longest, len(units))
    if length < 1:
        return ""
    if shortest is not None:
        length = int(rng.integers(min(shortest, length), length + 1))
    start = int(rng.integers(0, len(units) - length + 1))
    return text if length == len(units) else joint.join(units[start : start + length])


def _units(text: str) -> tuple[list[str], str]:
    """Words, or characters of a script that does not part words by spaces, and what joins them."""
    words = text.split()
    joint = "".join(words)
    return (list(joint), "") if 2 * len(_UNSPACED.findall(joint)) > len(joint) else (words, " ")


def _key(text: str) -> str:
    """Equal for queries that differ in case, spacing or closing punctuation alone."""
    return " ".join(text.casefold().split()).rstrip(".!?…。！？ ")
