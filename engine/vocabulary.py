"""The words of a catalogue, and which of them a word of a query may stand for: typing errors, beginnings, plurals. No items, no scores.

Errors are those of Damerau 1964: a letter too few, too many, wrong, or two swapped (optimal string alignment, as rapidfuzz computes it).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import OSA
from rapidfuzz.process import cdist

MANY = 24
"""Words that one may stand for, the likeliest."""
STEM, ENDING = 3, 3
"""Shortest word that may be the beginning of another, and most characters of a query's word beyond such a beginning."""
ONE, TWO = 3, 8
"""Characters of a query's word from which on one, and two, typing errors are looked for."""
PARTIAL = 0.5
"""What a word counts that begins another one, or the other way round, times the shorter's share of the longer."""
TYPO, OTHER = 0.8, 0.2
"""What a word counts for each typing error that lies between: TYPO where the query's own word is unknown, else OTHER."""
FREQUENT = 10
"""A known word may be meant for another one that so many times as many items have: others seldom are (Kernighan et al. 1990)."""


class Vocabulary:
    """Words by number, which is theirs until they are dropped. Some 200 bytes a word, those of its text included."""

    def __init__(self) -> None:
        self.number: dict[str, int] = {}
        self.words: list[str] = []  # by number, "" for one that is free
        self._free: list[int] = []
        self._signature, self._head = np.zeros(1_024, np.uint64), np.zeros(1_024, np.uint64)
        self._length = np.zeros(1_024, np.uint8)  # 0: not compared

    def __len__(self) -> int:
        return len(self.number)

    def add(self, word: str) -> int:
        """The number of a new word: the next one, or one that is free."""
        if self._free:
            number = self._free.pop()
            self.words[number] = word
        else:
            number = len(self.words)
            self.words.append(word)
            if number >= len(self._length):
                for name in ("_signature", "_head", "_length"):
                    old = getattr(self, name)
                    setattr(self, name, np.concatenate([old, np.zeros_like(old)]))
        self.number[word] = number
        self._signature[number], self._head[number] = signature(word), head(word)
        self._length[number] = len(word) if comparable(word) else 0
        return number

    def drop(self, word: str) -> None:
        """Forget a word."""
        number = self.number.pop(word)
        self.words[number] = ""
        self._length[number] = 0
        self._free.append(number)

    def meant(self, word: str, holders: Callable[[int], int]) -> list[tuple[int, float]]:
        """What a query's word may stand for, as (number, what it counts), the likeliest first, equal ones by their letters.

        `holders`: number -> how many items have the word. A word that is known comes first, and counts 1.
        """
        number, found = self.number.get(word), dict[int, float]()
        if comparable(word):
            errors = 0 if len(word) < ONE else 1 if len(word) < TWO else 2
            near, related = self._candidates(word, errors)
            for at in related.tolist():
                shorter, longer = sorted((word, self.words[at]), key=len)
                if longer.startswith(shorter):
                    found[at] = PARTIAL * len(shorter) / len(longer)
            if len(near):
                typo, others = TYPO if number is None else OTHER, [self.words[at] for at in near.tolist()]
                apart = cdist([word], others, scorer=OSA.distance, score_cutoff=errors, dtype=np.uint8)[0]
                for at, distance in zip(near[apart <= errors].tolist(), apart[apart <= errors].tolist(), strict=True):
                    if number is None or holders(at) > FREQUENT * holders(number):
                        found[at] = max(found.get(at, 0.0), typo**distance)
        if number is not None:
            found[number] = 1.0
        return sorted(found.items(), key=lambda one: (-one[1], self.words[one[0]]))[:MANY]

    def _candidates(self, word: str, errors: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of words that may be so many errors away from a word, and of words that may begin with it or begin it.

        None that is is missing, and few others are among them: an error changes the length by one, and the signature by two bits at most;
        what begins alike has the first STEM characters in common.
        """
        length, size = self._length[: len(self.words)], len(word)
        fits = (length >= size - errors) & (length <= size + errors) if errors else np.zeros(0, bool)
        near = np.flatnonzero(fits & (np.bitwise_count(self._signature[: len(fits)] ^ np.uint64(signature(word))) <= 2 * errors))
        alike = self._head[: len(length)] == np.uint64(head(word))
        return near, np.flatnonzero(alike & (length >= max(STEM, size - ENDING)))


def comparable(word: str) -> bool:
    """Whether words like it are looked for: 1893 is not meant by 1993, nor a pair of characters by another one.

    >>> comparable("cave"), comparable("1893"), comparable("東京")
    (True, False, False)
    """
    return len(word) >= STEM and not any(map(str.isdigit, word))


def signature(word: str) -> int:
    """A bit for each character.

    >>> signature("cab") == signature("abac"), signature("cab").bit_count()
    (True, 3)
    """
    found = 0
    for letter in word:
        found |= 1 << (ord(letter) & 63)
    return found


def head(word: str) -> int:
    """The first STEM characters as a number, 21 bits for each."""
    return sum(ord(letter) << 21 * at for at, letter in enumerate(word[:STEM]))
