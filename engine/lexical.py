"""An inverted index over the catalogue's texts, changed item by item: how well items' words fit those of a search. No vectors, no taste.

Scores are BM25F (Zaragoza et al. 2004; Robertson & Zaragoza 2009): a word's frequencies in an item's fields are weighted, divided by the
fields' relative lengths, added up, and only then saturated. A word of a query may stand for others (`engine.vocabulary`): an item gets what
the best of these is worth, as rare as the most frequent of them. Everything is a function of the entries alone: whatever the order of
changes, the scores are those of an index made anew, bit for bit, so that every worker answers alike.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from math import log
from typing import Any, NamedTuple

import numpy as np

from engine.jit import kernel
from engine.records import Item
from engine.space import Floats
from engine.vocabulary import Vocabulary
from engine.words import words

FIELDS = ("title", "creator", "categories", "tags", "description")
WEIGHTS = np.array([4.0, 3.0, 1.5, 1.5, 1.0])
SLOPES = np.array([0.75, 0.75, 0.5, 0.5, 0.75])
"""b of BM25F: 0 takes no notice of a field's length, 1 divides by it."""
K1 = 0.4
"""Where repeats stop to count; low, since texts are short: an item with all words of a query goes before one with many of some."""
MOST = (15, 15, 15, 15, 255)
"""Largest frequency that is told apart, by field: four bits, and eight for the description."""
SHIFTS = (20, 16, 12, 8, 0)
PLACE_BITS = 24
FIELD_CHARS, FIELD_WORDS = 8_000, 400
"""Characters and words of a field that are looked at: an item has 2,000 postings of 8 bytes at most."""
QUERY_CHARS = 1_000
QUERY_WORDS = 24
"""Different words of a query that count, the first ones."""

Array = Any


class Fit(NamedTuple):
    """`scores` (n,) float32: 0 where no word fits; `possible`: what no item could exceed, the sum of the words' rarities; `rarest`: the
    rarity of a word that no item has, which grows with the logarithm of the catalogue.
    """

    scores: Floats
    possible: float
    rarest: float

    @property
    def coverage(self) -> float:
        """How much of the query the best item has, 0 to 1."""
        return float(self.scores.max(initial=0.0)) / self.possible if self.possible else 0.0


class LexicalIndex:
    """Postings by word: `place << 24 | frequencies by field`, ascending by place (an item's index in the catalogue).

    Memory: 8 bytes a posting, 10 an item, some 300 a word with its vocabulary; a word without items is forgotten.
    """

    def __init__(self) -> None:
        self.vocabulary = Vocabulary()
        self._postings: list[array[int]] = []  # by the word's number
        self._lengths = np.zeros((1_024, len(FIELDS)), np.uint16)
        self._totals = [0] * len(FIELDS)
        self._best, self._touched = np.zeros(1_024), np.zeros(1_024, np.int64)
        self.items = 0

    def change(self, place: int, before: Item | None, after: Item | None) -> None:
        """An entry is added (`before` None), replaced, or removed (`after` None). `before` is what was last given for this place."""
        if before is not None and after is not None and texts_of(before) == texts_of(after):
            return
        old, old_lengths = counted(before)
        new, new_lengths = counted(after)
        least = place << PLACE_BITS
        for word, frequencies in new.items():
            number = self.vocabulary.number.get(word)
            postings = self._postings[self._new(word) if number is None else number]
            if not postings or postings[-1] < least:  # nearly always, while a catalogue is read
                postings.append(least | frequencies)
            elif old.get(word) != frequencies:
                at = bisect_left(postings, least)
                if word in old:
                    postings[at] = least | frequencies
                else:
                    postings.insert(at, least | frequencies)
        for word in old.keys() - new.keys():
            self._take(word, least)
        if place >= len(self._lengths):
            self._grow_items(place)
        self._lengths[place] = new_lengths
        for field, (less, more) in enumerate(zip(old_lengths, new_lengths, strict=True)):
            self._totals[field] += more - less
        self.items += (after is not None) - (before is not None)

    def fit(self, query: str, n: int) -> Fit:
        """How well the items with places below `n` fit a query."""
        total, possible, rarest = np.zeros(n), 0.0, self._rarity(0)
        if n and self.items:
            if n > len(self._best):
                self._best, self._touched = np.zeros(2 * n), np.zeros(2 * n, np.int64)
            steep = SLOPES / np.maximum(1.0, np.array(self._totals) / self.items)
            for word in list(dict.fromkeys(words(query[:QUERY_CHARS])))[:QUERY_WORDS]:
                found = self.vocabulary.meant(word, self._holders)
                if not found:
                    possible += rarest
                    continue
                postings = [np.frombuffer(self._postings[number], np.int64) for number, _ in found]
                held = [len(one) for one in postings]
                most = held[0] if found[0][1] == 1.0 else max(held)
                rarity = [self._rarity(max(most, holders)) for holders in held]
                possible += max(rarity)
                weights = np.array([weight for _, weight in found]) * rarity
                starts = np.array([0, *accumulate(held)], np.int64)
                add_word(np.concatenate(postings), starts, weights, self._lengths, steep, total, self._best, self._touched)
        return Fit(total.astype(np.float32), possible, rarest)

    def _rarity(self, holders: int) -> float:
        """IDF as in Lucene, never negative."""
        return log(1.0 + (self.items - holders + 0.5) / (holders + 0.5))

    def _take(self, word: str, least: int) -> None:
        postings = self._postings[self.vocabulary.number[word]]
        del postings[bisect_left(postings, least)]
        if not postings:
            self.vocabulary.drop(word)

    def _new(self, word: str) -> int:
        number = self.vocabulary.add(word)
        if number == len(self._postings):
            self._postings.append(array("q"))
        return number

    def _holders(self, number: int) -> int:
        return len(self._postings[number])

    def _grow_items(self, place: int) -> None:
        lengths = np.zeros((max(2 * len(self._lengths), place + 1), len(FIELDS)), np.uint16)
        lengths[: len(self._lengths)] = self._lengths
        self._lengths = lengths


def texts_of(item: Item) -> tuple[Any, ...]:
    """What of an item is indexed, in the order of FIELDS."""
    return (item.title, item.creator, item.categories, item.tags, item.description)


def counted(item: Item | None) -> tuple[dict[str, int], Sequence[int]]:
    """An item's words with their frequencies by field, packed; and the fields' lengths in words."""
    found: dict[str, int] = {}
    lengths = []
    for text, most, shift in zip(() if item is None else texts_of(item), MOST, SHIFTS, strict=False):
        own = words((text if isinstance(text, str) else "\n".join(text))[:FIELD_CHARS])[:FIELD_WORDS]
        lengths.append(len(own))
        for word, count in Counter(own).items():
            found[word] = found.get(word, 0) + (min(count, most) << shift)
    return found, lengths or [0] * len(FIELDS)


@kernel
def add_word(
    postings: Array, starts: Array, weights: Array, lengths: Array, steep: Array, total: Array, best: Array, touched: Array
) -> None:
    """Add to `total` (n,) what a query's word is worth in each item: that of the best of the words that it stands for.

    `weights` (W,) of these words, whose `postings` lie from `starts[w]` to `starts[w + 1]`; `lengths` (items, FIELDS) of fields, `steep`
    (FIELDS,): b over the mean length; `best`, `touched` (>= n,): for the work, `best` zero before and after.
    """
    count, n = 0, len(total)
    for expansion in range(len(weights)):
        for entry in range(starts[expansion], starts[expansion + 1]):
            place = postings[entry] >> PLACE_BITS
            if place >= n:
                continue
            frequency = 0.0
            for field in range(len(SHIFTS)):
                times = (postings[entry] >> SHIFTS[field]) & MOST[field]
                if times:
                    frequency += WEIGHTS[field] * times / (1.0 - SLOPES[field] + steep[field] * lengths[place, field])
            value = weights[expansion] * frequency / (K1 + frequency)
            if best[place] == 0.0:
                touched[count] = place
                count += 1
            best[place] = max(best[place], value)
    for at in range(count):
        total[touched[at]] += best[touched[at]]
        best[touched[at]] = 0.0
