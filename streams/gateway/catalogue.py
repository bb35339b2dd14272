"""Records by id that are held as they stand on a compacted topic: items, with a search by words, and rules. Not the workers' catalogue."""

from __future__ import annotations

import asyncio
import heapq
import unicodedata
from collections.abc import Iterable, Sequence
from sys import getsizeof
from typing import NamedTuple

import msgspec

from engine.records import Item
from streams.gateway.bounded import Bounded

OVERHEAD = 900
"""Bytes of Python objects of one item, or of one rule, around its texts."""
CATEGORIES = 100
"""Categories of an item that are searched and shown in lists of items; the item itself has all."""
WORDS = 8
"""Words of a query that items are compared with, the longest: each costs another look at every item."""
RULES = 10_000
RULES_BYTES = 64 * 2**20


class Brief(msgspec.Struct, frozen=True, omit_defaults=True):
    """An item, as far as lists of items show it."""

    item_id: str
    title: str
    creator: str = ""
    categories: tuple[str, ...] = ()
    available: bool = True


class Entry(NamedTuple):
    """An item: its record, what is shown of it, and what is searched."""

    value: bytes
    brief: Brief
    title: str
    text: str


def fold(text: str) -> str:
    """Text as it is compared: without case and accents.

    >>> fold("Élodie  GROSS")
    'elodie gross'
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return " ".join(plain.casefold().split())


class Items:
    """The catalogue within so many bytes; what is beyond is counted in ``held.evicted`` and not found."""

    def __init__(self, most_bytes: int) -> None:
        self.held = Bounded[Entry](2**31, most_bytes)
        self._searching = asyncio.Lock()

    def took(self, item_id: str, item: Item | None, value: bytes | None) -> None:
        """A record of `items`; None removes the item."""
        if item is None or value is None:
            self.held.drop(item_id)
            return
        brief = Brief(item_id, item.title, item.creator, item.categories[:CATEGORIES], item.available)
        title = fold(item.title)
        entry = Entry(value, brief, title, "\n".join((title, fold(item.creator), *map(fold, brief.categories))))
        texts = (value, title, entry.text, item_id, brief.title, brief.creator, brief.categories, *brief.categories)
        self.held.put(item_id, entry, sum(map(getsizeof, texts)) + OVERHEAD)

    async def search(self, query: str, count: int) -> list[Brief]:
        """Items that have all words of the query in title, creator or categories; those whose title begins with it first.

        Every item is looked at, 0.2 µs each and up to 3 µs where most have all the words: so in a thread, one search after the other.
        """
        whole = fold(query)
        words = sorted(dict.fromkeys(whole.split()), key=len, reverse=True)[:WORDS]
        if not words:
            return []
        async with self._searching:
            return await asyncio.to_thread(_search, self.held.values(), whole, words, count)

    def briefs(self, item_ids: list[str]) -> list[Brief]:
        """Of these items those that are held."""
        return [entry.brief for item_id in item_ids if (entry := self.held.peek(item_id)) is not None]


def _search(entries: Iterable[Entry], whole: str, words: Sequence[str], count: int) -> list[Brief]:
    def order(entry: Entry) -> tuple[bool, bool, int, str]:
        title = f" {entry.title}"
        starts = all(f" {word}" in title for word in words)
        return not entry.title.startswith(whole), not starts, len(entry.title), entry.brief.item_id

    rare, *others = words  # the longest word leaves the fewest items for the others
    found = (entry for entry in entries if rare in entry.text and all(word in entry.text for word in others))
    return [entry.brief for entry in heapq.nsmallest(count, found, key=order)]


class Rules:
    """The rules as they stand, by id."""

    def __init__(self) -> None:
        self.held = Bounded[bytes](RULES, RULES_BYTES)

    def took(self, rule_id: str, value: bytes | None) -> None:
        """A record of `rules`; None ends the rule."""
        if value is None:
            self.held.drop(rule_id)
        else:
            self.held.put(rule_id, value, len(value) + OVERHEAD)
