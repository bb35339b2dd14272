"""The OpenAPI description: schemas made from the records' own structs, with examples. Nothing here is served but /openapi.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from engine.active import Active
from engine.errors import Problem
from engine.records import TIME_MAX_MS, TIME_MIN_MS, Event, Item, Request, Rule
from streams.gateway import flow, generations, lag, letters
from streams.gateway.catalogue import Brief
from streams.gateway.problems import MEDIA_TYPE, ProblemDetail
from streams.gateway.state import JSON

REF = "#/components/schemas/{name}"


class Reason(msgspec.Struct, omit_defaults=True):
    """A part of a score, on its scale; `item_id` names the item of the user's history that it comes from."""

    kind: str
    item_id: str | None = None
    weight: float = 0.0


class ListedItem(msgspec.Struct):
    """A place of a list; the reasons' weights add up to the score."""

    item_id: str
    rank: int
    score: float
    propensity: float
    reasons: list[Reason]


class List(msgspec.Struct):
    """A list as the contract has it. ``applied``: per source topic the last record covered, as [partition, offset]."""

    list_id: str
    user_id: str
    surface: str
    generated_at: int
    valid_until: int
    trigger: dict[str, Any]
    applied: dict[str, tuple[int, int]]
    generation: str
    items: list[ListedItem]
    note: str | None = None
    request_id: str | None = None
    stale: bool = False


class Accepted(msgspec.Struct):
    """Where an event stands on the topic: a list whose ``applied.events`` has this partition and this offset or a later one covers it."""

    event_id: str
    partition: int
    offset: int


class AcceptedEvents(msgspec.Struct):
    """The events in the order in which they were sent."""

    accepted: list[Accepted]


class Written(msgspec.Struct):
    """Where a record stands on its topic."""

    id: str
    partition: int
    offset: int


class HistoryEvent(msgspec.Struct, omit_defaults=True):
    """An event, with the item's title where the gateway holds it."""

    event_id: str
    type: str
    timestamp: int
    item_id: str | None = None
    title: str | None = None
    query: str | None = None


class UserHistory(msgspec.Struct):
    """A user's last events, newest first."""

    user_id: str
    events: list[HistoryEvent]


class ActiveUser(msgspec.Struct):
    """A user who was active lately; ``events``: held of this user, at most 50."""

    user_id: str
    events: int
    last: HistoryEvent


class ActiveUsers(msgspec.Struct):
    """Users by their last event, newest first."""

    users: list[ActiveUser]


class FoundItems(msgspec.Struct):
    """Items that fit."""

    items: list[Brief]


class Rules(msgspec.Struct):
    """The rules that stand."""

    rules: list[Rule]


class Kafka(msgspec.Struct):
    """``error`` is empty while Kafka answers."""

    ok: bool
    error: str


class ListFigures(msgspec.Struct):
    """Lists published by the workers, and those held here."""

    per_s: float
    series: list[int]
    held: int
    held_bytes: int
    evicted: int


class EventFigures(msgspec.Struct):
    """Events as they come in on the topic."""

    per_s: float
    series: list[int]
    records: int


class LetterFigures(msgspec.Struct):
    """Dead letters; ``records``: on the topic."""

    records: int
    by_reason: dict[str, int]
    last: list[letters.Letter]


class Catalogue(msgspec.Struct):
    """Items held by the gateway, and those for which there was no room."""

    items: int
    evicted: int


class Status(msgspec.Struct):
    """What is live. ``stream_time``: the largest event time seen, in ms; far behind the clock where a recorded history is replayed."""

    at: int
    version: str
    ready: str
    stream_time: int
    kafka: Kafka
    events: EventFigures
    lists: ListFigures
    freshness: flow.Freshness
    lag: list[lag.Behind]
    generation: generations.Told
    dead_letters: LetterFigures
    catalogue: Catalogue
    streams: int
    memory_bytes: float


EVENT = {
    "event_id": "e-7f3a",
    "type": "click",
    "user_id": "u1",
    "item_id": "i1",
    "timestamp": 1732200000100,
    "list_id": "3f0c",
    "position": 0,
}
ITEM = {"item_id": "i1", "title": "Green tea", "creator": "Marukyu", "categories": ["tea"], "available": True}
RULE = {"rule_id": "r1", "action": "block", "match": {"item_ids": ["i1"]}, "note": "recalled"}
REQUEST = {"user_id": "u1", "k": 5, "query": "green tea"}
LIST = {
    "list_id": "f881dfa4b543b4ebc9a25c91b7a4603b",
    "user_id": "u1",
    "surface": "home",
    "generated_at": 1732200000123,
    "valid_until": 1732286400123,
    "trigger": {"kind": "event", "event_id": "e-7f3a", "timestamp": 1732200000100},
    "applied": {"events": [3, 90211]},
    "generation": "g-000042",
    "items": [
        {"item_id": "i9", "rank": 0, "score": 0.83, "propensity": 1.0, "reasons": [
            {"kind": "similar_text", "item_id": "i1", "weight": 0.62}, {"kind": "popular", "weight": 0.21}]}],
}  # fmt: skip
PROBLEM = {
    "type": "urn:headwater:problem:missing",
    "title": "Unprocessable Entity",
    "status": 422,
    "detail": "item_id: found nothing, expected a value",
    "remedy": "send the field item_id",
    "problems": [{"field": "item_id", "code": "missing", "found": "nothing", "expected": "a value", "remedy": "send the field item_id"}],
}
_STRUCTS = (
    Event,
    Item,
    Rule,
    Request,
    List,
    AcceptedEvents,
    Written,
    UserHistory,
    ActiveUsers,
    FoundItems,
    Rules,
    Status,
    ProblemDetail,
    Active,
    Problem,
)


def ref(name: str) -> dict[str, str]:
    """A reference to a schema."""
    return {"$ref": REF.format(name=name)}


def body(schema: Mapping[str, Any], example: Any, about: str) -> dict[str, Any]:
    """What an endpoint takes, for `openapi_extra`."""
    return {"requestBody": {"required": True, "description": about, "content": {JSON: {"schema": schema, "example": example}}}}


def says(about: str, name: str, example: Any = None, media_type: str = JSON) -> dict[str, Any]:
    """What a status answers."""
    content: dict[str, Any] = {"schema": ref(name)}
    return {"description": about, "content": {media_type: content | ({"example": example} if example is not None else {})}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Answers that are problems. 401, 403 and 429 come from every endpoint under /v1."""
    about = {
        400: "not JSON, or not of the right kind",
        401: "no token, or a wrong one",
        403: "a Host or Origin that is not ours",
        404: "there is none, or a surface without standing lists",
        408: "the body did not arrive",
        409: "a request with this id waits already",
        413: "too large",
        415: "not application/json",
        422: "fields that are wrong, all of them named",
        429: "too many at once; Retry-After says when",
        503: "Kafka does not answer",
        504: "no worker answered in time",
    }
    return {status: says(about[status], "ProblemDetail", PROBLEM, MEDIA_TYPE) for status in (401, 403, *statuses, 429)}


def components() -> dict[str, Any]:
    """The schemas of all records."""
    _, made = msgspec.json.schema_components(_STRUCTS, ref_template=REF)
    found = {name: _portable(schema) for name, schema in made.items()}
    time = {"anyOf": [{"type": "integer", "minimum": TIME_MIN_MS, "maximum": TIME_MAX_MS}, {"type": "string", "format": "date-time"}]}
    for name in ("Event", "Request"):
        found[name]["properties"]["timestamp"] = time
    found["Request"]["required"] = ["user_id"]  # the gateway draws an id, and the time is the record's own
    for name, own in (("Item", "item_id"), ("Rule", "rule_id")):
        found[name]["required"].remove(own)  # the path has it
    return found


def _portable(schema: Any) -> Any:
    r"""The same schema with patterns as ECMA 262 has them: `^` and `$` for Python's `\A` and `\Z`."""
    if isinstance(schema, dict):
        return {
            name: value.replace(r"\A", "^").replace(r"\Z", "$") if name == "pattern" and isinstance(value, str) else _portable(value)
            for name, value in schema.items()
        }
    return [_portable(part) for part in schema] if isinstance(schema, list) else schema
