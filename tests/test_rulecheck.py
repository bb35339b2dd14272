"""What is wrong with rules is said before they are sent: each kind of mistake, and nothing about rules that are as they should be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.records import Item, Rule
from engine.rulecheck import Said, check, effect, read_rules, state_of, told

NOW = 1_732_200_000_000
HOUR = 3_600_000
ITEMS = [
    Item(
        f"i{n}",
        f"Story {n}",
        categories=("cave",) if n % 4 == 0 else ("sea",),
        tags=("Noir",) if n % 2 else (),
        available=n != 9,
        available_from=NOW + HOUR if n == 8 else None,
        attributes={"colour": "red" if n < 3 else "blue"},
    )
    for n in range(20)
]


def wrong(*rules: dict[str, Any], standing: list[Rule] | None = None, k: int = 5, items: list[Item] = ITEMS) -> list[Said]:
    """What is said about rules of a file."""
    raw = "\n".join(json.dumps({"rule_id": f"r{n}", **rule}) for n, rule in enumerate(rules))
    return check(read_rules(raw.encode()), standing or [], items, NOW, k, ("home", "cart"))


def codes(*rules: dict[str, Any], **more: Any) -> list[tuple[str, str, str]]:
    """The same, in short: rule, field, code."""
    return [(one.rule_id, one.problem.field, one.problem.code) for one in wrong(*rules, **more)]


BLOCK = {"action": "block", "match": {"category": "cave"}}


@pytest.mark.parametrize(
    "rule",
    [
        BLOCK,
        {"action": "filter", "match": {"category": "sea"}},
        {"action": "pin", "match": {"item_ids": ["i1", "i2"]}, "rank": 4},
        {"action": "boost", "match": {"tags": "Noir"}, "factor": 2.0},
        {"action": "bury", "match": {"attributes.colour": ["red", "green"]}, "factor": 3, "users": {"country": "no"}},
        {"action": "cap", "match": {"category": "cave"}, "max": 4, "starts_at": NOW + 1, "ends_at": NOW + 2},
    ],
)
def test_good_rules(rule: dict[str, Any]) -> None:
    """Rule: of a rule that can be read, and does what it says, nothing is said."""
    assert wrong(rule) == []


@pytest.mark.parametrize(
    "rule,field,code",
    [
        ({"action": "blok", "match": {"tags": "x"}}, "action", "unknown"),
        ({"action": "block", "match": {"tags": "noir"}}, "match.tags", "matches_nothing"),
        ({"action": "block", "match": {"item_ids": ["x1"]}}, "match.item_ids", "matches_nothing"),
        ({"action": "block", "match": {"color": "red"}}, "match.color", "matches_nothing"),
        ({"action": "block", "match": {"category": "cave", "tags": "Noir"}}, "match", "matches_nothing"),
        ({**BLOCK, "ends_at": NOW}, "ends_at", "ended"),
        ({"action": "filter", "match": {"item_ids": ["i1", "i2", "i8", "i9"]}}, "match", "too_few_left"),
        ({"action": "block", "match": {"category": ["cave", "sea"]}}, "match", "too_few_left"),
        ({"action": "pin", "match": {"item_ids": ["i1", "nope"]}, "rank": 0}, "match.item_ids", "unknown_item"),
        ({"action": "pin", "match": {"item_ids": ["i1", "i9"]}, "rank": 0}, "match", "unavailable_item"),
        ({"action": "pin", "match": {"item_ids": ["i8"]}, "rank": 0}, "match", "unavailable_item"),
        ({"action": "pin", "match": {"item_ids": ["i1"]}, "rank": 5}, "rank", "beyond_list"),
        ({"action": "boost", "match": {"tags": "Noir"}, "factor": 0.5}, "factor", "not_above_one"),
        ({"action": "bury", "match": {"tags": "Noir"}, "factor": 1}, "factor", "no_effect"),
        ({"action": "cap", "match": {"tags": "Noir"}, "max": 5}, "max", "no_effect"),
    ],
)
def test_one_mistake(rule: dict[str, Any], field: str, code: str) -> None:
    """Rule: each mistake has its field and code, and says what was found, what was expected and what to do."""
    (said,) = wrong(rule)
    assert (said.line, said.rule_id, said.problem.field, said.problem.code) == (1, "r0", field, code)
    assert said.problem.found
    assert said.problem.expected
    assert said.problem.remedy


def test_what_would_have_matched_is_named() -> None:
    """Rule: a value that is nearly one that items have leads to that one, an unknown field to how attributes are written."""
    (case,) = wrong({"action": "block", "match": {"tags": "noir"}})
    assert case.problem.expected == "something like Noir"
    (field,) = wrong({"action": "block", "match": {"color": "red"}})
    assert "attributes.NAME" in field.problem.remedy
    (empty,) = wrong(BLOCK, items=[])
    assert empty.problem.code == "no_items"


def test_contradictions() -> None:
    """Rule: an item pinned and kept out at one time, on one surface, for the same users is told for both; else it is no contradiction."""
    pin = {"action": "pin", "match": {"item_ids": ["i4"]}, "rank": 0}
    assert codes(pin, BLOCK) == [("r0", "match", "contradiction"), ("r1", "match", "contradiction")]
    assert codes(pin, {"action": "filter", "match": {"category": "sea"}}) == codes(pin, BLOCK)
    apart: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"surfaces": ["home"]}, {"surfaces": ["cart"]}),
        ({"ends_at": NOW + HOUR}, {"starts_at": NOW + HOUR}),
        ({"users": {"plan": "free"}}, {"users": {"plan": ["paid", "trial"]}}),
    ]
    for mine, theirs in apart:
        assert codes({**pin, **mine}, {**BLOCK, **theirs}) == [], (mine, theirs)
    standing = Rule("old", "block", {"item_ids": ("i4",)})
    assert codes(pin, standing=[standing]) == [("r0", "match", "contradiction")], "also with a rule that stands"
    assert "old" in wrong(pin, standing=[standing])[0].problem.found
    assert codes({**pin, "rule_id": "old"}, standing=[standing]) == [], "it takes the other's place"
    others = {"action": "pin", "match": {"category": "cave"}, "rank": 0}
    assert codes(others, standing=[standing]) == [], "there are others to be pinned"


def test_few_left_together() -> None:
    """Rule: what several rules leave together is what counts, at the worst of times; who alone leaves enough is not blamed for others."""
    sea = {"action": "filter", "match": {"category": "sea"}}
    blue = {"action": "filter", "match": {"colour": "blue"}}  # 14 of the sea may be listed, 15 blue ones, 12 are both
    assert codes(sea, k=13) == codes(blue, k=13) == []
    assert codes(sea, blue, k=13) == [("r0", "match", "too_few_left"), ("r1", "match", "too_few_left")]
    assert codes(sea, {**blue, "starts_at": NOW + HOUR}, k=13) == codes(sea, blue, k=13)
    assert codes({**sea, "ends_at": NOW + HOUR}, {**blue, "starts_at": NOW + HOUR}, k=13) == []
    assert codes(sea, {**blue, "users": {"plan": "free"}}, k=13) == [("r1", "match", "too_few_left")], "others have enough"
    assert codes({**sea, "surfaces": ["home"]}, {**blue, "surfaces": ["cart"]}, k=13) == []
    assert codes({"action": "filter", "match": {"item_ids": ["i1"]}}, sea, k=13) == [("r0", "match", "too_few_left")]


def test_every_line_is_read() -> None:
    """Rule: one rule over many lines, one a line, and what is neither: all problems at once, by line."""
    whole = json.dumps({"rule_id": "one", **BLOCK}, indent=2).encode()
    assert [(one.line, one.key, one.rule is not None) for one in read_rules(b"\n" + whole)] == [(2, b"one", True)]
    pin = b'{"rule_id":"a","action":"pin","match":{"tags":"Noir"}}'
    raw = b'\xef\xbb\xbf{"rule_id":"a","action":"block","match":{"tags":"Noir"}}\r\n\n' + pin + b"\nnonsense\n"
    found = check(read_rules(raw), [], ITEMS, NOW, 5)
    assert [(one.line, one.rule_id, one.problem.code) for one in found] == [(3, "a", "missing"), (4, "?", "malformed_json")]
    twice = b'{"rule_id":"a","action":"block","match":{"tags":"Noir"}}\n' * 2
    assert [(one.line, one.problem.code) for one in check(read_rules(twice), [], ITEMS, NOW, 5)] == [(2, "twice")]
    assert [one.problem.code for one in check(read_rules(b"[1]"), [], ITEMS, NOW, 5)] == ["json_array"]
    assert read_rules(b"\n") == []
    (number,) = read_rules(b'{"rule_id": 5, "action": "block", "match": {"tags": "x"}}')
    assert [problem.field for problem in number.problems] == ["rule_id"]


def test_effect() -> None:
    """Rule: what a rule is about is counted in the catalogue, and in words."""
    found = effect(Rule("r", "block", {"category": "cave"}), ITEMS)
    assert (found.matched, found.total, [item.item_id for item in found.examples]) == (5, 20, ["i0", "i4", "i8"])
    assert told({"item_ids": ("a", "b"), "on": True}) == "item_ids: a or b; on: true"
    assert [state_of(Rule("r", "block", {}, starts_at=5, ends_at=7), now) for now in (4, 5, 7)] == ["scheduled", "active", "ended"]
