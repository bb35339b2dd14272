"""Explanations in words: every reason has a sentence, and whatever keeps an item out of a list is named."""

from __future__ import annotations

from typing import Any

import pytest

from engine.explain import Known, of_item, of_list, of_user, sentence, why_not
from engine.partition import item_key
from engine.reasons import KINDS
from engine.records import Item, Rule
from engine.rules import compile_rules
from engine.user import Interaction, UserState

NOW = 1_732_200_000_000
DAY = 86_400_000
ITEMS = [
    Item("i1", "Zork", tags=("cave",)),
    Item("i2", "Anchorhead", tags=("sea",)),
    Item("i3", "Gone", available=False),
    Item("i4", "Soon", available_from=NOW + DAY),
    Item("i5", "Adventure", tags=("cave",)),
]
ROW = UserState(
    history=[Interaction("i1", NOW - 2 * DAY, 1.0), Interaction("i2", NOW - DAY, 1.0)],
    seen={item_key("i1"): (NOW - 2 * DAY) // 1000, item_key("i2"): (NOW - DAY) // 1000},
    events=2,
    last_time=NOW - DAY,
    attributes={"country": "is"},
)


def known(*rules: Rule, row: UserState | None = ROW) -> Known:
    """The five items, a user who took two of them, and these rules."""
    return Known({item.item_id: item for item in ITEMS}, row, compile_rules(rules), NOW)


def listed(*items: str, first: int = 0, reasons: Any = ()) -> dict[str, Any]:
    """A list of these items, as it is on the wire."""
    places = [{"item_id": name, "rank": n, "score": 5.0 - n, "reasons": list(reasons)} for n, name in enumerate(items, first)]
    return {"surface": "home", "generation": "g-000001", "trigger": {"kind": "event", "event_id": "e1", "timestamp": NOW}, "items": places}


@pytest.mark.parametrize("kind", [*KINDS, "unknown_item", "rule", "diversity", "something_new"])
@pytest.mark.parametrize("weight", [0.5, -0.5])
def test_every_reason_is_a_sentence(kind: str, weight: float) -> None:
    """Rule: whatever the kind, known here or not, words come of it, and an item is named by its title and when it was taken."""
    named = kind in {"often_together", "similar_text", "diversity", "something_new"}
    text = sentence({"kind": kind, "weight": weight, **({"item_id": "i1"} if named else {})}, known())
    assert "{" not in text
    assert "_" not in text
    assert ("Zork (i1)" in text) == named
    assert ("which the user took on 2024-11-19" in text) == (named and kind != "diversity")


@pytest.mark.parametrize(
    "item, rules, expected",
    [
        ("i5", (), []),
        ("nothing", (), ["the catalogue does not have it"]),
        ("i3", (), ["it is not available"]),
        ("i4", (), ["it is released on 2024-11-22"]),
        ("i1", (), ["the user has had it, on 2024-11-19"]),
        ("i5", (Rule("r", "block", {"tags": "cave"}),), ["rule r blocks tags: cave"]),
        ("i5", (Rule("r", "filter", {"tags": ("sea", "sky")}),), ["rule r lists only tags: "]),
        ("i5", (Rule("r", "cap", {"tags": "cave"}, max=1),), ["rule r allows 1 of tags: cave, and the list has 1"]),
        ("i5", (Rule("r", "cap", {"tags": "cave"}, max=2),), []),
        ("i5", (Rule("r", "block", {"tags": "cave"}, surfaces=("cart",)),), []),
        ("i5", (Rule("r", "block", {"tags": "cave"}, users={"country": "is"}),), ["rule r blocks"]),
        ("i5", (Rule("r", "block", {"tags": "cave"}, users={"country": "fr"}),), []),
        ("i5", (Rule("r", "block", {"tags": "cave"}, ends_at=NOW),), []),
        ("i1", (Rule("r", "block", {"tags": "cave"}),), ["the user has had it", "rule r blocks"]),
    ],
)
def test_what_keeps_an_item_out_is_named(item: str, rules: tuple[Rule, ...], expected: list[str]) -> None:
    """Rule: all of it, and nothing that does not hold for this user, surface and time."""
    found = why_not(item, "home", ["i1"], known(*rules))
    assert len(found) == len(expected)
    assert all(text.startswith(start) for text, start in zip(found, expected, strict=True))


def test_where_an_item_stands() -> None:
    """Rule: in the list its place; below it its place and score of now beside the last one's; else what its score would be."""
    reasons = [{"kind": "popular", "weight": 0.5}]
    standing, now = listed("i1", "i2"), listed("i1", "i2", "i5", reasons=reasons)
    at = list(of_item("i2", standing, None, None, "home", known()))
    assert at[0] == "i2  Anchorhead: at place 2 of 2 on home"
    below = list(of_item("i5", standing, now, listed("i5"), "home", known(row=None)))
    assert below == [
        "i5  Adventure: not among the 2 items on home",
        "  - below the cut: at place 3, score 3.000; place 2 has 4.000",
        "       +0.500  it is popular, lately or for long",
    ]
    far = list(of_item("i5", standing, listed("i1", "i2"), listed("i5", reasons=reasons), "home", known(row=None)))
    assert far[1] == "  - not among the 2 of a list made now: score 5.000; place 2 has 4.000"
    sooner = list(of_item("i5", standing, listed("i5", "i1"), None, "home", known(row=None)))
    assert "a list made now has it at place 1" in sooner[1]
    seen = list(of_item("i1", listed("i5"), listed("i5"), listed("i1"), "home", known()))
    assert [line[:20] for line in seen[1:3]] == ["  - the user has had", "  - if that were not"]
    silent = list(of_item("i5", None, None, None, "home", known(row=None)))
    assert silent[0] == "i5  Adventure: there is no list on home"
    assert "no worker has answered" in silent[1]


def test_what_is_said_of_users() -> None:
    """Rule: an alias, an erasure and a wish not to be personalised are said, since they explain a list."""
    assert "no event" in next(of_user("u", None))
    assert list(of_user("u", ROW)) == ["u: 2 events, the newest on 2024-11-20; 2 items had"]
    odd = UserState(alias_of="v", erased_at=NOW, personalise=False)
    assert [line.split()[-1] for line in of_user("u", odd)] == ["v", "more", "learned"]


def test_a_list_in_words() -> None:
    """Rule: what it was made after, what it rests on, then each item with its reasons; a note, and an item that is gone, are said."""
    found = {**listed("i5", "away", reasons=[{"kind": "often_together", "item_id": "i2", "weight": 1.25}]), "note": "cut"}
    assert list(of_list(found, known())) == [
        "home: 2 items, generation g-000001, made after event e1",
        "note: cut",
        "rests on what the user took, newest first: Anchorhead (i2), 2024-11-20; Zork (i1), 2024-11-19",
        "",
        "   1  i5  Adventure  score 5.000",
        "       +1.250  it is often taken together with Anchorhead (i2), which the user took on 2024-11-20",
        "",
        "   2  away  no longer in the catalogue  score 4.000",
        "       +1.250  it is often taken together with Anchorhead (i2), which the user took on 2024-11-20",
    ]
