"""Damage done to texts on purpose, to see what learned codes bear: characters, words, the end of the text.

What happens to a text depends on the seed and the document's id alone, so a document is damaged in the same way whoever
stands beside it.
"""

import dataclasses
import math
import random
import string

from lmindexer_jax.errors import UserError


@dataclasses.dataclass
class NoiseConfig:
    """Shares between 0 and 1; 0 leaves a text as it is. Applied in the order given here."""

    truncated: float = 0.0  # of the words, cut off at the end
    dropped: float = 0.0  # of the remaining words, each left out with this probability
    characters: float = 0.0  # of the characters of the remaining words, each replaced, left out or doubled
    seed: int = 0


def check(config: NoiseConfig) -> None:
    """Refuse shares that are none.

    Raises:
      UserError: a share is not between 0 and 1.
    """
    for name in ("truncated", "dropped", "characters"):
        share = getattr(config, name)
        if not 0 <= share <= 1:
            raise UserError(f"corpus.noise.{name} is a share between 0 and 1, not {share}")


def damaged(text: str, config: NoiseConfig, *, id: str) -> str:
    """The text as the noise leaves it: at least its first character, so that no document becomes empty.

    Words are what blanks separate; where any share is above 0, they are joined again by single blanks.

    Args:
      text: not blank.
      config: how much.
      id: of the document; with the seed it decides what is hit.
    """
    if not (config.truncated or config.dropped or config.characters):
        return text
    draw = random.Random(f"{config.seed}/{id}").random  # the same numbers in every version of Python
    words = text.split()
    words = words[: max(1, math.ceil(len(words) * (1 - config.truncated)))]
    words = [word for word in words if draw() >= config.dropped] or words[:1]
    hit = [slip(word, config.characters, draw) for word in words] if config.characters else words
    return " ".join(word for word in hit if word) or words[0][0]


def slip(word: str, share: float, draw) -> str:
    """One word, each character of which is hit with probability `share`: replaced by a letter, left out or doubled."""
    out = []
    for character in word:
        if draw() >= share:
            out.append(character)
            continue
        kind = int(3 * draw())
        letter = string.ascii_lowercase[int(26 * draw())]
        out.append((letter, "", 2 * character)[kind])
    return "".join(out)
