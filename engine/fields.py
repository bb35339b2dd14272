"""What the contract says of each kind of record, field by field. Not how one is checked (`engine.checks`), nor when (`engine.decode`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from engine import checks
from engine.checks import Field
from engine.errors import Problem
from engine.problems import problem, show
from engine.records import ACTIONS, EVENT_ID_CHARS, EVENT_TYPES, K_MAX

EVENT_FIELDS = (
    Field("event_id", checks.text(1, EVENT_ID_CHARS), required=True),
    Field("type", checks.text(1), required=True),
    Field("user_id", checks.identifier, required=True),
    Field("item_id", checks.identifier),
    Field("timestamp", checks.time(0), required=True),
    Field("session_id", checks.text()),
    Field("value", checks.number()),
    Field("list_id", checks.text()),
    Field("position", checks.integer(0)),
    Field("items", checks.array(checks.identifier)),
    Field("query", checks.text()),
    Field("surface", checks.surface),
    Field("context", checks.table()),
)
ITEM_FIELDS = (
    Field("item_id", checks.identifier, required=True),
    Field("title", checks.text(1), required=True),
    Field("description", checks.text()),
    Field("categories", checks.array(checks.text())),
    Field("tags", checks.array(checks.text())),
    Field("creator", checks.text()),
    Field("price", checks.number()),
    Field("published_at", checks.time()),
    Field("available_from", checks.time()),
    Field("available", checks.flag),
    Field("domain", checks.text()),
    Field("language", checks.text()),
    Field("attributes", checks.table()),
    Field("vectors", checks.table(checks.array(checks.number(), list))),
)
USER_FIELDS = (
    Field("user_id", checks.identifier, required=True),
    Field("attributes", checks.table()),
    Field("alias_of", checks.identifier),
    Field("personalise", checks.flag),
    Field("erase", checks.flag),
    Field("timestamp", checks.time(0)),
)
REQUEST_FIELDS = (
    Field("request_id", checks.identifier, required=True),
    Field("user_id", checks.identifier),
    Field("timestamp", checks.time(0)),
    Field("k", checks.integer(1, K_MAX)),
    Field("surface", checks.surface),
    Field("candidates", checks.array(checks.identifier)),
    Field("query", checks.text()),
    Field("seed_item_id", checks.identifier),
    Field("exclude", checks.array(checks.identifier)),
    Field("filters", checks.table(checks.scalars)),
    Field("after_event_id", checks.text(1, EVENT_ID_CHARS)),
)
RULE_FIELDS = (
    Field("rule_id", checks.identifier, required=True),
    Field("action", checks.one_of(ACTIONS), required=True),
    Field("match", checks.table(checks.scalars), required=True),
    Field("rank", checks.integer(0)),
    Field("factor", checks.number(above=0)),
    Field("max", checks.integer(0)),
    Field("surfaces", checks.array(checks.surface)),
    Field("users", checks.table(checks.scalars)),
    Field("starts_at", checks.time()),
    Field("ends_at", checks.time()),
    Field("note", checks.text()),
)


def _need(name: str, why: str, document: Mapping[str, Any], problems: list[Problem]) -> None:
    if document.get(name) is None:
        problems.append(problem(name, "missing", "nothing", f"a value: {why}", f"send the field {name}"))


def whole_event(types: Collection[str], document: Mapping[str, Any], values: Mapping[str, Any], problems: list[Problem]) -> None:
    """Check what an event of its type needs; `types` are known beside those of the contract."""
    kind = values.get("type")
    if kind is None:
        return
    if kind not in types and kind not in EVENT_TYPES:
        known = ", ".join(sorted({*EVENT_TYPES, *types}))
        problems.append(problem("type", "unknown", show(kind), "a known type", f"configure a weight for it; known: {known}"))
    elif kind == "impression":
        _need("items", "an impression says what was shown", document, problems)
    elif kind == "search":
        _need("query", "a search says what was searched", document, problems)
    else:
        _need("item_id", f"a {kind} is about an item", document, problems)


def whole_user(_: Mapping[str, Any], values: Mapping[str, Any], problems: list[Problem]) -> None:
    """Check that nobody becomes themselves."""
    alias = values.get("alias_of")
    if alias is not None and alias == values.get("user_id"):
        problems.append(problem("alias_of", "self_alias", show(alias), "another user's id", "leave the field out"))


def whole_rule(document: Mapping[str, Any], values: Mapping[str, Any], problems: list[Problem]) -> None:
    """Check what a rule's action needs, and that the rule can ever apply."""
    match values.get("action"):
        case "pin":
            _need("rank", "a pin puts an item at a rank", document, problems)
        case "boost" | "bury" as action:
            _need("factor", f"a {action} multiplies by it", document, problems)
        case "cap":
            _need("max", "a cap allows so many per list", document, problems)
    match = values.get("match")
    if match is not None and not match:
        remedy = "name item_ids or a field: a rule for all items is not meant by leaving them out"
        problems.append(problem("match", "empty", "an object of 0", "item_ids, or a field with a value", remedy))
    for part in ("match", "users"):
        for name, wanted in (values.get(part) or {}).items():
            if wanted == ():
                problems.append(
                    problem(f"{part}.{name}", "empty", "an array of 0", "one value or more", "it would never match: add a value")
                )
    starts, ends = values.get("starts_at"), values.get("ends_at")
    if starts is not None and ends is not None and ends <= starts:
        problems.append(problem("ends_at", "empty_window", str(ends), f"a time after starts_at, {starts}", "swap or correct the times"))
