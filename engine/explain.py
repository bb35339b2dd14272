"""Why a list is as it is, and why an item is not in it, as lines for people. It reads nothing: lists, rows and rules come in as values.

What is said of an item in a list are the reasons that the list carries (`engine.reasons`), one sentence each. What keeps an item out of a
list is worked out as a worker does: entry, release, what the user has had, rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.partition import item_key
from engine.records import Item
from engine.rulecheck import told
from engine.rules import Match, RuleSet, matches
from engine.timestamps import ms_rfc3339
from engine.user import UserState, liked

DATE_CHARS = 10
NEWEST = 3
"""Items of a history that are named."""
_ALONE = {
    "popular": ("it is popular, lately or for long", "it is less popular than others"),
    "new": ("it is new, or few have tried it", "it is not new"),
    "bias": ("as for any item in this user's situation", "as for any item in this user's situation"),
    "history": ("it goes with the rest of what the user took", "the rest of what the user took speaks against it"),
    "query": ("it fits the search", "it does not fit the search"),
    "shown": ("it was shown and not taken", "it was shown again and again and not taken"),
    "unknown_item": ("the catalogue does not have it", "the catalogue does not have it"),
}
"""Kind of a reason -> what it says where its weight is above 0, and where it is below."""
_NAMING = {"often_together": "it is often taken together with {}", "similar_text": "its text is near that of {}"}


@dataclass(frozen=True, slots=True)
class Known:
    """What an explanation rests on: the catalogue by id, the user's row (None: the workers have none), the rules, and the time by which
    they are in force (ms).
    """

    items: Mapping[str, Item]
    row: UserState | None
    rules: RuleSet
    now_ms: int

    def name(self, item_id: str) -> str:
        """An item with its title."""
        item = self.items.get(item_id)
        return f"{item.title} ({item_id})" if item is not None else item_id

    def taken(self, item_id: str) -> str:
        """When the user took an item last, "" where the row does not say so (any more)."""
        history = self.row.history if self.row is not None else ()
        return next((day(one.time) for one in reversed(history) if one.item_id == item_id), "")


def day(ms: int) -> str:
    """The date of a time in ms, in UTC.

    >>> day(1_732_200_000_123)
    '2024-11-21'
    """
    return ms_rfc3339(ms)[:DATE_CHARS]


def counted(count: int, what: str) -> str:
    """So many of something.

    >>> counted(1, "event"), counted(2, "item")
    ('1 event', '2 items')
    """
    return f"{count} {what}{'' if count == 1 else 's'}"


def sentence(reason: Mapping[str, Any], known: Known) -> str:
    """What one reason of a list says (contract: lists).

    >>> nobody = Known({"i7": Item("i7", "Zork")}, None, RuleSet(()), 0)
    >>> sentence({"kind": "often_together", "item_id": "i7", "weight": 0.5}, nobody)
    'it is often taken together with Zork (i7)'
    >>> sentence({"kind": "similar_text", "item_id": "i7", "weight": -0.5}, nobody)
    'its text is near that of Zork (i7), and that speaks against it'
    >>> sentence({"kind": "popular", "weight": -0.1}, nobody), sentence({"kind": "rule", "rule_id": "spring", "weight": 1.0}, nobody)
    ('it is less popular than others', 'rule spring moves it up')
    """
    kind, against = reason["kind"], reason["weight"] < 0
    if kind in _ALONE:
        return _ALONE[kind][against]
    if kind == "rule":
        return f"rule {reason.get('rule_id') or reason.get('item_id') or ''} moves it {'down' if against else 'up'}".replace("  ", " ")
    item_id = reason.get("item_id")
    name = known.name(item_id) if item_id else ""
    if kind == "diversity":
        return f"it is like {name or 'others'} above it"
    if item_id and (taken := known.taken(item_id)):
        name += f", which the user took on {taken}"
    text = _NAMING.get(kind, kind.replace("_", " ") + (" {}" if name else "")).format(name)
    return f"{text}, and that speaks against it" if against else text


def why(place: Mapping[str, Any], known: Known) -> Iterator[str]:
    """A line for each reason of a place of a list, largest first as the list has them."""
    for reason in place["reasons"]:
        yield f"{reason['weight']:+9.3f}  {sentence(reason, known)}"
    if not place["reasons"]:
        yield "           the list says no reasons for it"


def of_user(user_id: str, row: UserState | None) -> Iterator[str]:
    """Lines on what the workers know of a user, as far as lists rest on it."""
    if row is None:
        yield f"{user_id}: no event of this user has been taken in, or the workers have not written it down yet"
        return
    if row.alias_of:
        yield f"{user_id} is an alias: lists are those of {row.alias_of}"
    if row.erased_at:
        yield f"{user_id} was erased; what was before {ms_rfc3339(row.erased_at)} is not used any more"
    if not row.personalise:
        yield f"{user_id} does not want to be personalised: lists are the popular ones, and nothing is learned"
    if row.events:
        yield f"{user_id}: {counted(row.events, 'event')}, the newest on {day(row.last_time)}; {counted(len(row.seen), 'item')} had"


def of_list(found: Mapping[str, Any], known: Known) -> Iterator[str]:
    """Lines on a list: what it was made after, then each item with its reasons."""
    trigger = found["trigger"]
    about = next((str(value) for name, value in trigger.items() if name.endswith("_id")), "")
    after = f"{trigger['kind']} {about}".rstrip()
    yield f"{found['surface']}: {len(found['items'])} items, generation {found['generation'] or 'none'}, made after {after}"
    if note := found.get("note"):
        yield f"note: {note}"
    newest = liked(known.row.history, NEWEST) if known.row is not None else []
    if newest:
        yield "rests on what the user took, newest first: " + "; ".join(f"{known.name(one.item_id)}, {day(one.time)}" for one in newest)
    for place in found["items"]:
        yield ""
        yield from of_place(place, known)


def of_place(place: Mapping[str, Any], known: Known) -> Iterator[str]:
    """Lines on one item of a list."""
    item = known.items.get(place["item_id"])
    title = item.title if item is not None else "no longer in the catalogue"
    yield f"{place['rank'] + 1:4}  {place['item_id']}  {title}  score {place['score']:.3f}"
    for line in why(place, known):
        yield f"    {line}"


def why_not(item_id: str, surface: str, listed: Sequence[str], known: Known) -> list[str]:
    """Everything that keeps an item out of a user's lists on a surface, a sentence each; none where it may be listed.

    Args:
        item_id: the item.
        surface: where.
        listed: ids of the list that it is not in, for caps.
        known: what is known.
    """
    item, row = known.items.get(item_id), known.row
    if item is None:
        return ["the catalogue does not have it: no record of items has this id, or the last one removed it"]
    said = []
    if not item.available:
        said.append("it is not available (items: `available` false)")
    if item.available_from is not None and item.available_from > known.now_ms:
        said.append(f"it is released on {day(item.available_from)}, and before that listed only if somebody has used it")
    had = row.seen.get(item_key(item_id)) if row is not None else None
    if had is not None:
        said.append(f"the user has had it, on {day(had * 1000)}: what a user has had is not listed again")
    attributes = row.attributes if row is not None else {}
    for rule in known.rules.keeping_out(item, surface, attributes, known.now_ms):
        told_of = told(rule.match) or "everything"
        said.append(f"rule {rule.rule_id} blocks {told_of}" if rule.action == "block" else f"rule {rule.rule_id} lists only {told_of}")
    for rule in known.rules.active(surface, attributes, known.now_ms):
        match = Match.of(rule.match)
        if rule.action == "cap" and rule.max is not None and matches(match, item):
            held = [known.items[name] for name in listed if name in known.items]
            count = sum(matches(match, one) for one in held)
            if count >= rule.max:
                said.append(f"rule {rule.rule_id} allows {rule.max} of {told(rule.match)}, and the list has {count}")
    return said


def of_item(
    item_id: str,
    found: Mapping[str, Any] | None,
    ranked: Mapping[str, Any] | None,
    alone: Mapping[str, Any] | None,
    surface: str,
    known: Known,
) -> Iterator[str]:
    """Lines on why an item stands where it stands, or why it is not in the list.

    Args:
        item_id: the item.
        found: the standing list, None: there is none.
        ranked: a longer list of this moment, None: no worker has answered.
        alone: an answer with only this item as its candidate, likewise.
        surface: the list's placement.
        known: what is known.
    """
    item = known.items.get(item_id)
    name = f"{item_id}  {item.title}" if item is not None else item_id
    listed = [] if found is None else [place["item_id"] for place in found["items"]]
    if found is not None and item_id in listed:
        yield f"{name}: at place {listed.index(item_id) + 1} of {len(listed)} on {surface}"
        yield from of_place(found["items"][listed.index(item_id)], known)
        return
    yield f"{name}: " + (f"not among the {len(listed)} items on {surface}" if found is not None else f"there is no list on {surface}")
    now = next((place for place in ranked["items"] if place["item_id"] == item_id), None) if ranked is not None else None
    against = why_not(item_id, surface, listed, known) if now is None else []
    yield from (f"  - {text}" for text in against)
    if ranked is None:
        yield "  - no worker has answered, so its place and score now are not known: is one running?"
        return
    last = ranked["items"][min(len(listed), len(ranked["items"])) - 1] if listed and ranked["items"] else None
    needed = f"; place {last['rank'] + 1} has {last['score']:.3f}" if last is not None else ""
    if now is not None and found is None:
        yield f"  - a list made now has it at place {now['rank'] + 1}, score {now['score']:.3f}"
    elif now is not None and now["rank"] < len(listed):
        yield f"  - a list made now has it at place {now['rank'] + 1}: the standing one is older; the user's next event renews it"
    elif now is not None:
        yield f"  - below the cut: at place {now['rank'] + 1}, score {now['score']:.3f}{needed}"
    only = next((place for place in alone["items"] if place["item_id"] == item_id), None) if alone is not None else None
    told_of = now if now is not None else only
    if now is None and only is not None and item is not None:
        score = f"score {only['score']:.3f}{needed}"
        yield f"  - if that were not so: {score}" if against else f"  - not among the {len(ranked['items'])} of a list made now: {score}"
        if not against and last is not None and only["score"] > last["score"]:
            yield "  - its score would do: it is too like items above, or the list has as many of its creator or category as settings allow"
    elif now is None and not against:
        yield "  - it may be listed, and no list of now has it"
    if told_of is not None and item is not None:
        yield from (f"    {line}" for line in why(told_of, known))
