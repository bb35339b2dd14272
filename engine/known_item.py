"""Queries of someone who knows an item and remembers words of its description, some of them mistyped. For evaluation; it searches nothing.

Simulated known-item topics: Azzopardi, de Rijke & Balog 2007. Most typing errors are a single letter too few, too many, wrong, or swapped
with the next: Damerau 1964.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from engine.partition import hash64
from engine.records import Item
from engine.words import words

LENGTHS = (1, 2, 3, 5, 8)
"""Words of a query; with up to three it is ambiguous, and what someone likes can tell."""
TYPOS = 0.2
"""Share of the words of FEWEST letters or more that are mistyped."""
FEWEST = 4


def mistyped(word: str, rng: np.random.Generator) -> str:
    """The word with one error: two letters swapped, one left out, or one doubled; never in the first place, where people seldom err.

    >>> [mistyped("lantern", np.random.default_rng(seed)) for seed in (0, 1, 2)]
    ['lanteern', 'lanern', 'lanntern']
    """
    kind, at = int(rng.integers(3)), int(rng.integers(1, len(word) - 1))
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    return word[:at] + word[at] + word[at:]


class KnownItems:
    """Draws queries for items of a catalogue. `field`: the text whose words are remembered; `typos`: how many of them are mistyped."""

    def __init__(self, items: Sequence[Item], field: str = "description", typos: float = TYPOS) -> None:
        self._texts = [words(getattr(item, field)) for item in items]
        self._typos = typos
        holders = Counter(word for text in self._texts for word in set(text))
        self._rarity = {word: float(np.log(len(items) / count)) for word, count in holders.items()}

    def query(self, at: int, length: int, name: str) -> str:
        """So many different words of the text of item `at`, in its order, drawn by how informative they are (IDF, Spärck Jones 1972), fewer
        where it has not so many; "" without a text. `name` is the seed: the same gives the same query.
        """
        text = list(dict.fromkeys(word for word in self._texts[at] if self._rarity[word] > 0.0))
        if not text:
            return ""
        rng = np.random.default_rng(hash64(f"{name}:{length}"))
        rarity = np.array([self._rarity[word] for word in text])
        drawn = np.sort(rng.choice(len(text), min(length, len(text)), replace=False, p=rarity / rarity.sum()))
        return " ".join(self._maybe_mistyped(text[n], rng) for n in drawn)

    def _maybe_mistyped(self, word: str, rng: np.random.Generator) -> str:
        wrong = rng.random() < self._typos
        return mistyped(word, rng) if wrong and len(word) >= FEWEST else word
