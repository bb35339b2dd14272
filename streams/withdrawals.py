"""Remembers which record took an item out of lists: a tombstone, an entry, or a rule. Not which lists hold it (`streams.republisher`).

Positions of records are kept for as long as the worker runs: 20 bytes an item, some 300 for one that was removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from engine.catalogue import Catalogue
from engine.lists import Trigger
from engine.records import Item, Rule
from engine.rules import RuleSet
from engine.user import Position

Open = Callable[[int], bool]
Excluding = Callable[[Item], Sequence[Rule]]
ITEMS, RULES = "items", "rules"
REMOVED, UNAVAILABLE, RULE = "item_removed", "item_unavailable", "rule"
NOWHERE = -1


class Place(NamedTuple):
    """Where a record stands, and its record time in ms."""

    partition: int
    offset: int
    time: int


class Removed(NamedTuple):
    """An item that a tombstone took out."""

    item_id: str
    place: Place


def place_of(message: Any) -> Place:
    """Where a broadcast record (librdkafka's message) stands."""
    return Place(message.partition(), message.offset(), message.timestamp()[1])


class Withdrawals:
    """Fed with the records of `items` and `rules` as they are applied; `version` grows with each that may take something out of lists.

    `epochs`: of the logs of `items` and `rules`. A tombstone that compaction has taken away before the worker read it is not known: what a
    list then names in its place is partition -1 and the item's hash64 as its offset, so that the list made again has the same id.
    """

    def __init__(self, catalogue: Catalogue, epochs: Mapping[str, int]) -> None:
        self._catalogue, self._epochs = catalogue, epochs
        self._removed: dict[int, Removed] = {}
        self._rules: dict[str, Place] = {}
        self._partition, self._offset, self._time = np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.version = 0
        catalogue.follow(self._grow)

    def removed(self, key: int, item_id: str, place: Place) -> None:
        """A tombstone came for the item with this hash64; before the catalogue takes it out."""
        self._removed[key] = Removed(item_id, place)
        at = self._catalogue.index.get(key)
        if at is not None and self._catalogue.items[at] is not None:
            self.version += 1

    def put(self, key: int, before: Item | None, at: int, item: Item, place: Place, rules: RuleSet) -> None:
        """An entry came; it stands at `at` in the catalogue in the place of `before`."""
        self._removed.pop(key, None)
        self._partition[at], self._offset[at], self._time[at] = place
        if before is None or before == item:  # nothing new, or a catalogue that was sent again
            return
        if (
            (before.available and not item.available)
            or (item.available_from or 0) > (before.available_from or 0)
            or rules.standing(before) != rules.standing(item)
        ):
            self.version += 1

    def ruled(self, rule_id: str, rule: Rule | None, place: Place) -> None:
        """A rule came, or ended."""
        if rule is None:
            self._rules.pop(rule_id, None)
            return
        self._rules[rule_id] = place
        if rule.action in ("block", "filter"):
            self.version += 1

    def why(self, keys: Iterable[int], now_ms: int, *, open_: Open, rules: Excluding) -> Trigger | None:
        """The newest record because of which one of these items (hash64) may not be listed; None: all may.

        Args:
            keys: the items of a list.
            now_ms: the time by which it is judged; also of what no record is known of.
            open_: index -> whether it may be listed but for rules.
            rules: item -> the rules that keep it out.
        """
        found = [self._cause(key, now_ms, open_, rules) for key in keys]
        causes = [cause for cause in found if cause is not None]
        return max(causes, key=lambda cause: (cause.timestamp, *cause.position), default=None)

    def _cause(self, key: int, now_ms: int, open_: Open, rules: Excluding) -> Trigger | None:
        at = self._catalogue.index.get(key)
        item = None if at is None else self._catalogue.items[at]
        if at is None or item is None:
            gone = self._removed.get(key)
            if gone is None:
                return Trigger(REMOVED, "", now_ms, Position(ITEMS, self._epochs[ITEMS], NOWHERE, key))
            return Trigger(REMOVED, gone.item_id, gone.place.time, self._position(ITEMS, gone.place))
        place = Place(int(self._partition[at]), int(self._offset[at]), int(self._time[at]))
        if not open_(at):
            return Trigger(UNAVAILABLE, item.item_id, place.time, self._position(ITEMS, place))
        causes = [self._ruled_out(rule, place) for rule in rules(item)]
        return max(causes, key=lambda cause: (cause.timestamp, *cause.position), default=None)

    def _ruled_out(self, rule: Rule, entry: Place) -> Trigger:
        """By a rule's record, or by the entry that came later and made the rule fit."""
        place = self._rules.get(rule.rule_id, entry)
        position = self._position(RULES, place) if place.time >= entry.time else self._position(ITEMS, entry)
        return Trigger(RULE, rule.rule_id, max(place.time, entry.time, rule.starts_at or 0), position)

    def _position(self, source: str, place: Place) -> Position:
        return Position(source, self._epochs[source], place.partition, place.offset)

    def _grow(self, capacity: int) -> None:
        for name in ("_partition", "_offset", "_time"):
            old = getattr(self, name)
            new = np.zeros(capacity, old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)
