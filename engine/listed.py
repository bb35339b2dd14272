"""What stands in a user's list, as it is remembered beside the user's row, and which of many lists hold what may not be listed any more.

Not the list itself: that stands on `recommendations` only. What is remembered is small, and read for many users at a time.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.records import Item, Rule
from engine.rules import Match, matches

PREFIX = b"list/"
"""What the names of these notes begin with; another layout of the value would get another prefix."""
_HEAD = struct.Struct("<QQ")
_WORD = 8

UNJUDGED, FINE, SOME, OUT = 0, 1, 2, 3
"""Of an item on a surface: it may be listed, it may be for some users only, it may not."""


class Listed(NamedTuple):
    """One list. `valid_until` in ms; `known`: uses of items that the worker knew of when it made the list; `items`: hash64 of their ids."""

    valid_until: int
    known: int
    items: tuple[int, ...]


class Page(NamedTuple):
    """Some lists: `valid_until`, `known` (L,) int64; `items` (E,) uint64, those of list l from `starts[l]` to `starts[l + 1]`."""

    valid_until: NDArray[np.int64]
    known: NDArray[np.int64]
    items: NDArray[np.uint64]
    starts: NDArray[np.int64]

    def of(self, n: int) -> list[int]:
        """The items of one list."""
        found: list[int] = self.items[self.starts[n] : self.starts[n + 1]].tolist()
        return found


def name_of(surface: str, user_id: str) -> bytes:
    """The name of the note of a user's list.

    >>> name_of("home", "u/1"), read_name(name_of("home", "u/1"))
    (b'list/home/u/1', ('home', 'u/1'))
    """
    return b"%b%b/%b" % (PREFIX, surface.encode(), user_id.encode())


def read_name(name: bytes) -> tuple[str, str]:
    """Surface and user of a note; a surface has no slash in it."""
    surface, _, user_id = name.removeprefix(PREFIX).partition(b"/")
    return surface.decode(), user_id.decode()


def by_surface(names: Sequence[bytes]) -> Iterator[tuple[str, int, int]]:
    """The surfaces of some notes in order, each with the first of its places and the one after the last.

    >>> list(by_surface([name_of("cart", "a"), name_of("cart", "b"), name_of("home", "a")]))
    [('cart', 0, 2), ('home', 2, 3)]
    """
    start = 0
    while start < len(names):
        surface = read_name(names[start])[0]
        end = bisect_right(names, name_of(surface, "") + b"\xff", start)  # a byte that no id has
        yield surface, start, end
        start = end


def encode_listed(listed: Listed) -> bytes:
    """The value of the note: 16 bytes, and 8 for each item.

    >>> read_page([encode_listed(Listed(1732286400123, 500, (7, 2**64 - 1)))]).items.tolist()
    [7, 18446744073709551615]
    """
    return _HEAD.pack(listed.valid_until, listed.known) + struct.pack(f"<{len(listed.items)}Q", *listed.items)


def readable(value: bytes) -> bool:
    """Whether a note's value has the form that `encode_listed` gives."""
    return len(value) >= _HEAD.size and len(value) % _WORD == 0


def read_page(values: Sequence[bytes]) -> Page:
    """Read the values of many notes at once, 0.2 µs each.

    >>> page = read_page([encode_listed(Listed(5, 1, (7, 8))), encode_listed(Listed(6, 2, ())), encode_listed(Listed(7, 3, (9,)))])
    >>> page.valid_until.tolist(), page.known.tolist(), page.items.tolist(), page.starts.tolist()
    ([5, 6, 7], [1, 2, 3], [7, 8, 9], [0, 2, 2, 3])
    """
    words = np.frombuffer(b"".join(values), "<u8")
    lengths = np.fromiter(map(len, values), np.int64, len(values)) // _WORD
    begins = np.cumsum(lengths) - lengths
    kept = np.ones(len(words), bool)
    kept[begins] = kept[begins + 1] = False
    head = words.astype(np.int64)
    return Page(head[begins], head[begins + 1], words[kept], np.concatenate([[0], np.cumsum(lengths - 2)]))


class Verdicts:
    """What may stand in the lists of one surface now, item by item, each judged when it is first met. `items`: the catalogue's entries;
    `open_` (N,): what may be listed but for rules; `rules`: those in force on the surface that keep items out, for whomever they hold.
    """

    def __init__(self, items: Sequence[Item | None], open_: NDArray[np.bool_], rules: Sequence[tuple[Rule, Match]]) -> None:
        self._items, self._open, self.rules = items, open_, rules
        self._known = np.full(len(open_), UNJUDGED, np.int8)
        if not rules:
            self._known[:] = np.where(open_, FINE, OUT)

    def open_at(self, at: int) -> bool:
        """Whether an item may be listed but for rules; one that came since may."""
        return at >= len(self._open) or bool(self._open[at])

    def unjudged(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which of some places in the catalogue, -1 for none, have to be judged first."""
        inside = places[(places >= 0) & (places < len(self._known))]
        return np.unique(inside[self._known[inside] == UNJUDGED])

    def judge(self, places: Iterable[int]) -> None:
        """Judge items: a microsecond for each rule."""
        for at in places:
            self._known[at] = self._judged(at)

    def worst(self, places: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.int8]:
        """(L,) the worst verdict on an item of each list; items that are not known are out, those that came since are fine."""
        verdicts = np.full(len(places) + 1, FINE, np.int8)  # one more, so that lists without items have something to look at
        inside = (places >= 0) & (places < len(self._known))
        verdicts[:-1][inside] = self._known[places[inside]]
        verdicts[:-1][places < 0] = OUT
        found = np.maximum.reduceat(verdicts, starts[:-1]) if len(starts) > 1 else np.zeros(0, np.int8)
        found[starts[1:] == starts[:-1]] = FINE
        return found

    def _judged(self, at: int) -> int:
        item = self._items[at]
        if item is None or not self._open[at]:
            return OUT
        verdict = FINE
        for rule, match in self.rules:
            if matches(match, item) == (rule.action == "block"):
                if not rule.users:
                    return OUT
                verdict = SOME
        return verdict
