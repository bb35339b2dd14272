"""What is wrong with rules before they are sent: unreadable ones, and those that do nothing, too much, or work against each other.

A worker takes any rule that can be read (`engine.decode`); what is said here is for the person who writes it. Every problem is named.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from engine.decode import decode_rule
from engine.errors import BadRecord, Problem, shorten
from engine.records import Conditions, Item, Rule, Scalar
from engine.rules import Match, item_field, matches
from engine.timestamps import ms_rfc3339

SHOWN = 3
"""Items, ids or values that a problem names."""
ALWAYS, NEVER = -(2**63), 2**63


class Written(NamedTuple):
    """A rule of a file. `line`: where it begins, from 1; `key` and `value` as they are sent; `rule` None where `problems` say why."""

    line: int
    key: bytes
    value: bytes
    rule: Rule | None
    problems: tuple[Problem, ...] = ()


class Said(NamedTuple):
    """A problem of a rule of a file."""

    line: int
    rule_id: str
    problem: Problem


def read_rules(raw: bytes) -> list[Written]:
    r"""Read one rule, or one a line.

    >>> found = read_rules(b'{"rule_id": "r1", "action": "block",\n "match": {"tags": "gore"}}')
    >>> [(one.line, one.key, one.rule.action) for one in found]
    [(1, b'r1', 'block')]
    >>> [(one.line, [p.code for p in one.problems]) for one in read_rules(b'{"rule_id": "r1"}\n\n{')]
    [(1, ['missing', 'missing']), (3, ['malformed_json'])]
    """
    text = raw.removeprefix(b"\xef\xbb\xbf")
    whole = _document(text)
    if isinstance(whole, dict):
        line = text[: len(text) - len(text.lstrip())].count(b"\n") + 1
        return [_written(line, msgspec.json.encode(whole), whole)]
    if isinstance(whole, list):
        remedy = "write one a line: jq -c '.[]' FILE"
        return [Written(1, b"", b"", None, (Problem("record", "json_array", "a JSON array", "a rule, or one rule a line", remedy),))]
    lines = ((number, line.strip()) for number, line in enumerate(text.split(b"\n"), 1))
    return [_written(number, line, _document(line)) for number, line in lines if line]


def _document(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _written(line: int, value: bytes, document: Any) -> Written:
    found = document.get("rule_id") if isinstance(document, dict) else None
    key = found.encode(errors="replace") if isinstance(found, str) else b"?"
    try:
        return Written(line, key, value, decode_rule(value, key))
    except BadRecord as error:
        return Written(line, key, value, None, tuple(one for one in error.problems if one.code != "key_mismatch" or key != b"?"))


class Effect(NamedTuple):
    """What a rule is about now: `matched` of `total` items, of which the first `examples` are named."""

    matched: int
    total: int
    examples: tuple[Item, ...]


def effect(rule: Rule, items: Sequence[Item], most: int = SHOWN) -> Effect:
    """Which entries of the catalogue a rule matches."""
    match = Match.of(rule.match)
    found = [item for item in items if matches(match, item)]
    return Effect(len(found), len(items), tuple(found[:most]))


def state_of(rule: Rule, now_ms: int) -> str:
    """Whether a rule is `active`, `scheduled` or `ended`.

    >>> state_of(Rule("r", "block", {"tags": "x"}, starts_at=5, ends_at=7), 4), state_of(Rule("r", "block", {"tags": "x"}, ends_at=7), 7)
    ('scheduled', 'ended')
    """
    starts, ends = _window(rule)
    return "scheduled" if now_ms < starts else "active" if now_ms < ends else "ended"


def check(
    written: Sequence[Written], standing: Iterable[Rule], items: Sequence[Item], now_ms: int, k: int, surfaces: Sequence[str] = ()
) -> list[Said]:
    """Everything that is wrong with rules of a file, in its order.

    Args:
        written: the rules, as read.
        standing: those in force or to come already; one with an id of the file is replaced by it.
        items: the catalogue.
        now_ms: the time by which rules start and end.
        k: the length of a list.
        surfaces: placements that have lists, beside those that rules name.
    """
    said = list[Said]()
    fresh: dict[str, Rule] = {}
    lines: dict[str, int] = {}
    for one in written:
        name = one.key.decode(errors="replace")
        said += [Said(one.line, name, problem) for problem in one.problems]
        if one.rule is None:
            continue
        if name in fresh:
            remedy = "give it another id, or leave one of them out: only the last would count"
            said.append(Said(one.line, name, Problem("rule_id", "twice", f"{name}, as on line {lines[name]}", "one rule of an id", remedy)))
        fresh[name], lines[name] = one.rule, one.line
    together = _Together([*fresh.values(), *(rule for rule in standing if rule.rule_id not in fresh)], items, now_ms, k, surfaces)
    for name, rule in fresh.items():
        said += [Said(lines[name], name, problem) for problem in together.problems(rule)]
    return sorted(said, key=lambda one: one.line)


class _Together:
    """Rules as they would stand together."""

    def __init__(self, rules: Sequence[Rule], items: Sequence[Item], now_ms: int, k: int, surfaces: Sequence[str]) -> None:
        self._rules, self._items, self._now, self._k = rules, items, now_ms, k
        self._surfaces = tuple(dict.fromkeys((*surfaces, *(surface for rule in rules for surface in rule.surfaces)))) or ("home",)
        self._matched = {rule.rule_id: [matches(match, item) for item in items] for rule in rules for match in [Match.of(rule.match)]}

    def problems(self, rule: Rule) -> Iterator[Problem]:
        """What is wrong with one of them."""
        if state_of(rule, self._now) == "ended":
            found, now = ms_rfc3339(rule.ends_at or 0), ms_rfc3339(self._now)
            yield Problem("ends_at", "ended", found, f"a time after now, {now}", "correct the time, or leave the rule out")
            return
        yield from self._numbers(rule)
        if not any(self._matched[rule.rule_id]):
            yield from self._nothing(rule)
            return
        if rule.action == "pin":
            yield from self._pin(rule)
        if rule.action in ("block", "filter"):
            yield from self._few_left(rule)

    def _numbers(self, rule: Rule) -> Iterator[Problem]:
        """Numbers that can be read and do nothing, or not what their action says."""
        if rule.action == "boost" and rule.factor is not None and rule.factor < 1.0:
            remedy = "write how many times the odds are to be, or use bury"
            yield Problem("factor", "not_above_one", f"{rule.factor:g}", "a number above 1: a boost never lowers", remedy)
        if rule.action in ("boost", "bury") and rule.factor == 1.0:
            yield Problem("factor", "no_effect", "1", "another number: it multiplies the odds", "correct the factor, or leave the rule out")
        if rule.action == "pin" and rule.rank is not None and rule.rank >= self._k:
            yield Problem(
                "rank", "beyond_list", str(rule.rank), f"from 0 to {self._k - 1}: a list has {self._k} items", "pin it further up"
            )
        if rule.action == "cap" and rule.max is not None and rule.max >= self._k:
            yield Problem("max", "no_effect", str(rule.max), f"below {self._k}, the length of a list", "correct it, or leave the rule out")

    def _nothing(self, rule: Rule) -> Iterator[Problem]:
        """Why a rule matches no item: field by field, where a field alone says so."""
        count = f"none of {len(self._items):,} items"
        if not self._items:
            yield Problem("match", "no_items", "an empty catalogue", "items to be about", "send items first, or put it with --force")
            return
        blamed = False
        for field, wanted in rule.match.items():
            alone = Match.of({field: wanted})
            if any(matches(alone, item) for item in self._items):
                continue
            blamed = True
            yield Problem(f"match.{field}", "matches_nothing", f"{_shown(wanted)}: {count}", *self._instead(field, wanted))
        if not blamed:
            remedy = "an item must meet all conditions: leave one out, or make two rules"
            yield Problem("match", "matches_nothing", f"{count} meets all of {', '.join(rule.match)}", "one item or more", remedy)

    def _instead(self, field: str, wanted: Any) -> tuple[str, str]:
        """What would have matched something, and what to do."""
        name = "item_id" if field == "item_ids" else field
        known = {str(value): None for item in self._items for value in _values(item_field(item, name))}
        if not known:
            return "a field that items have", f"is {field} written as items have it? attributes may be written attributes.NAME"
        near = [match for value in _values(wanted) for match in difflib.get_close_matches(str(value), known, 1)]
        if near:
            return f"something like {_shown(near)}", "correct the spelling; upper and lower case differ"
        return (
            f"what items have, such as {_shown(list(known)[:SHOWN])}",
            "correct the value; put it with --force where such items are to come",
        )

    def _pin(self, rule: Rule) -> Iterator[Problem]:
        """Pins of items that are not known, not available, or kept out by others."""
        known = {item.item_id for item in self._items}
        missing = [str(name) for name in _values(rule.match.get("item_ids", ())) if name not in known]
        if missing:
            yield Problem("match.item_ids", "unknown_item", _shown(missing), "items of the catalogue", "correct the ids, or send the items")
        pinned = [item for item, hit in zip(self._items, self._matched[rule.rule_id], strict=True) if hit]
        at = max(self._now, rule.starts_at or self._now)
        away = [item.item_id for item in pinned if not _open(item, at)]
        if len(away) == len(pinned) or ("item_ids" in rule.match and away):
            remedy = "pin another one, or make it available"
            yield Problem("match", "unavailable_item", _shown(away), f"available at {ms_rfc3339(at)}", remedy)
        for other in self._rules:
            if other.action in ("block", "filter") and (out := self._kept_out(rule, other)):
                found = f"{_shown(out)} pinned, and kept out by the {other.action} {other.rule_id}"
                remedy = f"end {other.rule_id}, let it leave this out, or give them other times, surfaces or users: what keeps out wins"
                yield Problem("match", "contradiction", found, "one of the two", remedy)

    def _kept_out(self, pin: Rule, other: Rule) -> list[str]:
        """Which items of a pin a block or filter keeps out, where the pin names them, or has no others."""
        if not _overlap(pin, other, self._now):
            return []
        mine, theirs = self._matched[pin.rule_id], self._matched[other.rule_id]
        out = [n for n, hit in enumerate(mine) if hit and theirs[n] == (other.action == "block")]
        return [self._items[n].item_id for n in out] if "item_ids" in pin.match or len(out) == sum(mine) else []

    def _few_left(self, rule: Rule) -> Iterator[Problem]:
        """Whether a rule leaves too few items for a list, at the worst of the times at which others start."""
        for other in self._rules:
            if other.action == "pin" and (out := self._kept_out(other, rule)):
                remedy = f"end {other.rule_id}, or leave this out here: the pin has no effect"
                yield Problem("match", "contradiction", f"{_shown(out)} kept out, and pinned by {other.rule_id}", "one of the two", remedy)
        worst = min(
            (self._left(rule, at, surface) for at in self._moments(rule) for surface in rule.surfaces or self._surfaces), default=None
        )
        if worst is not None and worst[0] < self._k <= worst[1]:
            found = f"{worst[0]:,} of {len(self._items):,} items left on {worst[2]}" + (f" with {_shown(worst[3])}" if worst[3] else "")
            remedy = "make it wider, or expect short lists and put it with --force"
            yield Problem("match", "too_few_left", found, f"{self._k} or more, the length of a list", remedy)

    def _moments(self, rule: Rule) -> list[int]:
        """The times at which more may be kept out than before, while a rule holds."""
        starts, ends = _window(rule)
        begins = max(starts, self._now)
        return sorted(
            {begins, *(other.starts_at for other in self._rules if other.starts_at is not None and begins < other.starts_at < ends)}
        )

    def _left(self, rule: Rule, at: int, surface: str) -> tuple[int, int, str, tuple[str, ...]]:
        """How many items are left on a surface, how many without the rule, and the other rules that keep some out."""
        others = [
            other
            for other in self._rules
            if other is not rule
            and other.action in ("block", "filter")
            and (not other.users or other.users == rule.users)
            and (not other.surfaces or surface in other.surfaces)
            and state_of(other, at) == "active"
        ]
        left = before = 0
        for n, item in enumerate(self._items):
            if _open(item, at) and not any(self._matched[o.rule_id][n] == (o.action == "block") for o in others):
                before += 1
                left += self._matched[rule.rule_id][n] != (rule.action == "block")
        return left, before, surface, tuple(other.rule_id for other in others)


def _open(item: Item, at_ms: int) -> bool:
    return item.available and (item.available_from or ALWAYS) <= at_ms


def _window(rule: Rule) -> tuple[int, int]:
    return ALWAYS if rule.starts_at is None else rule.starts_at, NEVER if rule.ends_at is None else rule.ends_at


def _overlap(one: Rule, other: Rule, now_ms: int) -> bool:
    """Whether two rules may hold for one list, from now on."""
    (starts, ends), (its_starts, its_ends) = _window(one), _window(other)
    if max(starts, its_starts, now_ms) >= min(ends, its_ends):
        return False
    if one.surfaces and other.surfaces and not set(one.surfaces) & set(other.surfaces):
        return False
    return all(set(_values(one.users[name])) & set(_values(other.users[name])) for name in one.users.keys() & other.users.keys())


def _values(value: Any) -> Sequence[Scalar]:
    return () if value is None else tuple(value) if isinstance(value, list | tuple) else (value,)


def _shown(value: Any) -> str:
    """Some values, the first few.

    >>> _shown(("a", "b", "c", "d")), _shown(3)
    ('a, b, c and 1 more', '3')
    """
    values = _values(value)
    more = f" and {len(values) - SHOWN} more" if len(values) > SHOWN else ""
    return shorten(", ".join(str(one) for one in values[:SHOWN])) + more


def told(conditions: Conditions) -> str:
    """Conditions in one line, as they are written.

    >>> told({"tags": ("a", "b"), "price": 3})
    'tags: a or b; price: 3'
    """
    parts: Mapping[str, str] = {name: " or ".join(_plain(one) for one in _values(value)) for name, value in conditions.items()}
    return "; ".join(f"{name}: {part}" for name, part in parts.items())


def _plain(value: Scalar) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def standing_rules(records: Iterable[tuple[bytes | None, bytes | None]]) -> tuple[dict[str, Rule], list[tuple[int, BadRecord]]]:
    """The rules as workers have them after these records of `rules` (key, value), in order: the last version of each that can be read.

    And those that can't, by their place among the records: they are dead letters, and the version before stays.

    >>> rules, bad = standing_rules([(b"r1", b'{"rule_id":"r1","action":"block","match":{"tags":"x"}}'), (b"r1", b"{"), (b"r2", None)])
    >>> list(rules), [at for at, _ in bad]
    (['r1'], [1])
    """
    rules: dict[str, Rule] = {}
    bad = []
    for at, (key, value) in enumerate(records):
        try:
            rule = decode_rule(value, key)
        except BadRecord as error:
            bad.append((at, error))
            continue
        if rule is None:
            rules.pop((key or b"").decode(), None)
        else:
            rules[rule.rule_id] = rule
    return rules, bad
