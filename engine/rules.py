"""Which items and lists people's rules are about. Not what a rule then does to a list's order: that is policy."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from engine.records import Conditions, Item, Rule, Scalar

_PLAIN_FIELDS = frozenset({"item_id", "title", "creator", "price", "domain", "language", "available"})
_LIST_FIELDS = frozenset({"categories", "tags"})
_SINGULAR = {"category": "categories", "tag": "tags"}
_ATTRIBUTES = "attributes."
_EXCLUDING = frozenset({"block", "filter"})
_ALWAYS = -math.inf
_NEVER = math.inf

Token = tuple[bool, Scalar]
"""A value that can be compared: true is not 1, as in JSON and unlike in Python; 1 is 1.0, as in both."""


def _tokens(value: Any) -> Iterable[Token]:
    parts = value if isinstance(value, list | tuple) else (value,)
    return ((isinstance(part, bool), part) for part in parts if isinstance(part, str | int | float))


def item_field(item: Item, field: str) -> Any:
    """Look up what a rule or a request's filter calls a field: of the item itself, else of its attributes; None where there is none.

    `attributes.X` is always the attribute. `category` and `tag` mean the lists, unless there is an attribute of that name.

    >>> item = Item("i1", "Zork", tags=("cave",), attributes={"language": "x", "tag": "y", "size": 3})
    >>> [item_field(item, name) for name in ("tags", "tag", "size", "attributes.language", "language", "color")]
    [('cave',), 'y', 3, 'x', '', None]
    """
    if field in _PLAIN_FIELDS or field in _LIST_FIELDS:
        return getattr(item, field)
    attribute = item.attributes.get(field.removeprefix(_ATTRIBUTES))
    if attribute is None and field in _SINGULAR:
        return getattr(item, _SINGULAR[field])
    return attribute


class Match(msgspec.Struct, frozen=True):
    """Conditions made ready for many items. ``item_ids`` None: any; ``fields``: each must have one of its values."""

    item_ids: frozenset[str] | None
    fields: tuple[tuple[str, frozenset[Token]], ...]

    @classmethod
    def of(cls, conditions: Conditions) -> Match:
        """Make a match of a rule's `match` or of a request's `filters`; no condition matches every item, an empty array none."""
        wanted = {name: frozenset(_tokens(value)) for name, value in conditions.items()}
        ids = wanted.pop("item_ids", None)
        return cls(
            item_ids=None if ids is None else frozenset(name for _, name in ids if isinstance(name, str)),
            fields=tuple(wanted.items()),
        )


def matches(match: Match, item: Item) -> bool:
    """Say whether an item meets every condition: field by field one of the wanted values, and for a list one of its elements.

    >>> item = Item("i1", "Zork", tags=("cave", "puzzle"), price=3.0)
    >>> [matches(Match.of(c), item) for c in ({"tags": ("cave", "sea"), "price": 3}, {"item_ids": ("i1",)}, {"tags": "sea"})]
    [True, True, False]
    """
    if match.item_ids is not None and item.item_id not in match.item_ids:
        return False
    return all(not wanted.isdisjoint(_tokens(item_field(item, name))) for name, wanted in match.fields)


def _meets(wanted: tuple[tuple[str, frozenset[Token]], ...], attributes: Mapping[str, Any]) -> bool:
    return all(not values.isdisjoint(_tokens(attributes.get(name))) for name, values in wanted)


class _Compiled(msgspec.Struct, frozen=True):
    rule: Rule
    match: Match
    users: tuple[tuple[str, frozenset[Token]], ...]
    starts: float
    ends: float


class RuleSet:
    """All rules of an installation, ready to be asked; immutable. Equal rules give equal answers, in whatever order they came.

    A model that wants masks over its catalogue asks `active` for the rules of a list, makes one boolean row per rule with `match_of` and
    `matches`, and keeps the rows as long as it keeps this set.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        """Take rules with distinct ids; see `compile_rules`."""
        self._rules = tuple(_compile(rule) for rule in sorted(rules, key=lambda rule: rule.rule_id))
        self._match_of = {compiled.rule.rule_id: compiled.match for compiled in self._rules}
        named = {surface for compiled in self._rules for surface in compiled.rule.surfaces}
        self._everywhere = tuple(compiled for compiled in self._rules if not compiled.rule.surfaces)
        self._on = {
            surface: tuple(compiled for compiled in self._rules if not compiled.rule.surfaces or surface in compiled.rule.surfaces)
            for surface in named
        }
        edges = {edge for compiled in self._rules for edge in (compiled.starts, compiled.ends)}
        self._edges = sorted(int(edge) for edge in edges if math.isfinite(edge))
        excluding = [compiled for compiled in self._rules if compiled.rule.action in _EXCLUDING]
        self._excluding = tuple(compiled.match for compiled in excluding)
        self._exclusions = sorted(int(compiled.starts) for compiled in excluding if math.isfinite(compiled.starts))

    def __len__(self) -> int:
        return len(self._rules)

    def match_of(self, rule_id: str) -> Match:
        """Give the match of a rule of this set.

        Raises:
            KeyError: no such rule.
        """
        return self._match_of[rule_id]

    def active(self, surface: str, user_attributes: Mapping[str, Any], now_ms: int) -> tuple[Rule, ...]:
        """Give the rules in force for a list, by rule_id."""
        return tuple(compiled.rule for compiled in self._active(surface, user_attributes, now_ms))

    def _active(self, surface: str, user_attributes: Mapping[str, Any], now_ms: int) -> Iterable[_Compiled]:
        for compiled in self._on.get(surface, self._everywhere):
            in_force = compiled.starts <= now_ms < compiled.ends
            if in_force and (not compiled.users or _meets(compiled.users, user_attributes)):
                yield compiled

    def blocked(self, item: Item, surface: str, user_attributes: Mapping[str, Any], now_ms: int) -> bool:
        """Say whether an item must not be in a list: a `block` matches it, or a `filter` does not."""
        return any(self._keeping_out(item, surface, user_attributes, now_ms))

    def keeping_out(self, item: Item, surface: str, user_attributes: Mapping[str, Any], now_ms: int) -> tuple[Rule, ...]:
        """Give the rules because of which an item must not be in a list, by rule_id; none: it may."""
        return tuple(self._keeping_out(item, surface, user_attributes, now_ms))

    def _keeping_out(self, item: Item, surface: str, user_attributes: Mapping[str, Any], now_ms: int) -> Iterable[Rule]:
        for compiled in self._active(surface, user_attributes, now_ms):
            action = compiled.rule.action
            if action in _EXCLUDING and matches(compiled.match, item) == (action == "block"):
                yield compiled.rule

    def excluding(self, surface: str, now_ms: int) -> tuple[tuple[Rule, Match], ...]:
        """Give the rules in force on a surface that keep items out, whomever they hold for, each with its match."""
        found = self._on.get(surface, self._everywhere)
        return tuple((c.rule, c.match) for c in found if c.rule.action in _EXCLUDING and c.starts <= now_ms < c.ends)

    def standing(self, item: Item) -> tuple[bool, ...]:
        """Give which of the rules that keep items out, in force or not, match an item: while this stays, lists may stay, too."""
        return tuple(matches(match, item) for match in self._excluding)

    def next_change_ms(self, now_ms: int) -> int | None:
        """Give the next time after `now_ms` at which a rule starts or ends; None when no more will."""
        return _after(self._edges, now_ms)

    def last_change_ms(self, now_ms: int) -> int | None:
        """Give the last time up to `now_ms` at which a rule started or ended; None when none has."""
        place = bisect_right(self._edges, now_ms)
        return self._edges[place - 1] if place else None

    def next_exclusion_ms(self, now_ms: int) -> int | None:
        """Give the next time after `now_ms` at which a rule starts that keeps items out."""
        return _after(self._exclusions, now_ms)


def _after(times: list[int], now_ms: int) -> int | None:
    place = bisect_right(times, now_ms)
    return times[place] if place < len(times) else None


def _compile(rule: Rule) -> _Compiled:
    return _Compiled(
        rule=rule,
        match=Match.of(rule.match),
        users=tuple((name, frozenset(_tokens(value))) for name, value in rule.users.items()),
        starts=_ALWAYS if rule.starts_at is None else rule.starts_at,
        ends=_NEVER if rule.ends_at is None else rule.ends_at,
    )


LIVE_MS = 86_400_000
"""Age of the newest event up to which the clock tells when rules start and end: beyond it a history is being replayed."""


def rule_time(newest_ms: int, clock_ms: int, rules: RuleSet) -> int:
    """Give the time by which rules are in force: that of the newest event, or of a rule's start or end that the clock has passed since.

    So a rule starts on time where no event comes for a while, and replayed history has the rules of its time.

    >>> rules = compile_rules([Rule("r1", "block", {"tags": "gore"}, starts_at=150, ends_at=10**9)])
    >>> rule_time(100, 120, rules), rule_time(100, 200, rules), rule_time(100, LIVE_MS + 200, rules)
    (100, 150, 100)
    """
    if clock_ms - newest_ms > LIVE_MS:
        return newest_ms
    return max(newest_ms, rules.last_change_ms(clock_ms) or newest_ms)


def compile_rules(rules: Iterable[Rule]) -> RuleSet:
    """Make a rule set; of several rules with one id the last counts, as on a compacted topic.

    >>> rules = compile_rules([Rule("r1", "block", {"tags": "gore"}, surfaces=("home",), ends_at=200)])
    >>> gory = Item("i1", "Zork", tags=("gore",))
    >>> rules.blocked(gory, "home", {}, 199), rules.blocked(gory, "home", {}, 200), rules.blocked(gory, "search", {}, 199)
    (True, False, False)
    >>> rules.next_change_ms(0), rules.next_change_ms(200)
    (200, None)
    """
    return RuleSet({rule.rule_id: rule for rule in rules}.values())
