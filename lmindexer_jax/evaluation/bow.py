"""Held-out bag-of-words gain: how many nats per token does knowing a document's codes save?

Half of the token occurrences, drawn at random, fit p(word | code); the other half score it against the unigram. A gain
is evidence that the codes hold the documents' content, whatever a reconstructor makes of them; a collapsed code gains
nothing. A coarse code without meaning loses a little, to over-fitting; one so fine that it singles documents out gains
without meaning, for it finds a document's other half again. So read a gain beside `random_gain`. Gains on other texts
or tokenizers are not comparable: a template's fixed words dilute them.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from lmindexer_jax.evaluation.id_quality import prefix_ids

STRENGTH = 300.0
"""Tokens that a parent's distribution counts for in its children's. It matters little between 100 and 1000."""


@dataclasses.dataclass(frozen=True)
class Bags:
    """Token occurrences of a corpus, in two halves."""

    document: Int[np.ndarray, " M"]
    word: Int[np.ndarray, " M"]  # dense: only words that occur
    fit: Bool[np.ndarray, " M"]  # fits the distributions; the others score them
    words: int  # different words


def bags(
    flat: Int[np.ndarray, " M"], offsets: Int[np.ndarray, " N+1"], *, unlabelled: tuple[int, ...], seed: int = 0
) -> Bags:
    """Split the tokens of a corpus in halves.

    Args:
      flat: token ids of all documents end to end.
      offsets: document i is `flat[offsets[i]:offsets[i + 1]]`.
      unlabelled: ids that carry no text (padding, end of text, ...): left out.
      seed: of the split.
    """
    document = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    text = ~np.isin(flat, unlabelled)
    used, word = np.unique(flat[text], return_inverse=True)
    fit = np.random.default_rng(seed).random(len(word)) < 0.5
    return Bags(document[text], word, fit, len(used))


def bow_gain(codes: Int[np.ndarray, "N T"], halves: Bags, *, strength: float = STRENGTH) -> Float[np.ndarray, " T"]:
    """Gain over the unigram, in nats per held-out token, of knowing the first 1, 2, ..., T codes.

    p(w | c_1..c_t) = (n(w, c_1..c_t) + strength * p(w | c_1..c_{t-1})) / (n(c_1..c_t) + strength), and the prefix of
    length 0 is the unigram, smoothed by one count per word. The back-off along the path makes a deeper gain mean
    "what this code adds", instead of following the number of cells.

    Args:
      codes: of all documents; give `codes[:, [t]]` for the gain of position t alone.
      halves: from `bags`.
      strength: of the parent's distribution, in tokens.
    """
    nats, tokens = bow_nats(codes, halves, strength=strength)
    return nats.sum(0) / max(1, tokens.sum())


def bow_nats(
    codes: Int[np.ndarray, "N T"], halves: Bags, *, strength: float = STRENGTH
) -> tuple[Float[np.ndarray, "N T"], Int[np.ndarray, " N"]]:
    """What `bow_gain` is the quotient of: nats saved on each document's held-out tokens, and the number of these."""
    fit, held = halves.fit, ~halves.fit
    counts = np.bincount(halves.word[fit], minlength=halves.words) + 1.0
    unigram = (counts / counts.sum())[halves.word[held]]
    known, owner = unigram, halves.document[held]
    saved = np.zeros(codes.shape)
    for position, cell in enumerate(prefix_ids(codes).T):
        cell = cell[halves.document]
        totals = np.bincount(cell[fit], minlength=int(cell.max(initial=0)) + 1)
        keys = cell * halves.words + halves.word
        pairs, pair_counts = np.unique(keys[fit], return_counts=True)
        at = np.minimum(np.searchsorted(pairs, keys[held]), max(0, len(pairs) - 1))
        found = np.where(pairs[at] == keys[held], pair_counts[at], 0) if len(pairs) else 0
        known = (found + strength * known) / (totals[cell[held]] + strength)
        saved[:, position] = np.bincount(owner, np.log(known / unigram), minlength=len(codes))
    return saved, np.bincount(owner, minlength=len(codes))


def random_gain(codes: Int[np.ndarray, "N T"], halves: Bags, *, seed: int = 0) -> Float[np.ndarray, " T"]:
    """`bow_gain` of the same IDs dealt to random documents: what equally fine but meaningless codes reach."""
    return bow_gain(codes[np.random.default_rng(seed).permutation(len(codes))], halves)
