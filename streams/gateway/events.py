"""POST /v1/events: events in, acknowledged by Kafka before the answer. Not how workers take them."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Request

from engine.decode import decode_event
from engine.errors import BadRecord, Problem
from engine.problems import problem
from streams.gateway import schema
from streams.gateway.problems import MOST, Refused
from streams.gateway.sender import Record
from streams.gateway.state import Gateway, JsonResponse, of_body, read_body

_each = msgspec.json.Decoder(list[msgspec.Raw])


class _User(msgspec.Struct):
    event_id: Any = None
    user_id: Any = None


_user = msgspec.json.Decoder(_User)
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def router(gateway: Gateway) -> APIRouter:
    """The endpoint."""
    made, settings = APIRouter(tags=["events"], default_response_class=JsonResponse), gateway.settings
    one_or_more = {"oneOf": [schema.ref("Event"), {"type": "array", "items": schema.ref("Event"), "maxItems": settings.gateway_batch}]}

    @made.post(
        "/v1/events",
        status_code=202,
        summary="Say what users did",
        responses={
            202: schema.says(
                "Kafka has them all", "AcceptedEvents", {"accepted": [{"event_id": "e-7f3a", "partition": 3, "offset": 90211}]}
            ),
            **schema.problems(400, 408, 413, 415, 422, 503),
        },
        openapi_extra=schema.body(one_or_more, schema.EVENT, "One event, or an array of them"),
    )
    async def post_events(request: Request) -> JsonResponse:
        """Take one event or an array; all are sent, or, when one is wrong, none. The same `event_id` again counts once."""
        raw = split(await read_body(request), settings.gateway_batch)
        events = checked(raw, types=settings.event_weights, max_bytes=settings.max_record_bytes)
        places = await gateway.sender.send([Record(gateway.names.events, user.encode(), value) for _, user, value in events])
        accepted = [schema.Accepted(event_id, *place) for (event_id, _, _), place in zip(events, places, strict=True)]
        return JsonResponse(schema.AcceptedEvents(accepted), 202)

    return made


def split(body: bytes, most: int) -> tuple[list[bytes], bool]:
    """The events of a body, each as it was sent, and whether they were an array.

    >>> split(b'[{"a": 1}, {"a": 2}]', 10)
    ([b'{"a": 1}', b'{"a": 2}'], True)

    Raises:
        BadRecord: an array that can't be read.
        Refused: 413, more than `most`.
    """
    if not body.lstrip().startswith(b"["):
        return [body], False
    try:
        parts = [bytes(part) for part in _each.decode(body)]
    except UNREADABLE as error:
        raise BadRecord([problem("body", "malformed_json", str(error), "an array of events in UTF-8", "check the JSON writer")]) from None
    if len(parts) > most:
        raise Refused(413, "too_many_events", f"{len(parts)} events", f"at most {most}", "send them in several requests")
    return parts, True


def checked(found: tuple[list[bytes], bool], *, types: Any, max_bytes: int) -> list[tuple[str, str, bytes]]:
    """Event id, user and value of each event.

    Raises:
        BadRecord: with the problems of all events, at most 100.
    """
    values, many = found
    events, problems = [], list[Problem]()
    for number, value in enumerate(values):
        try:
            event = decode_event(value, _key(value), types=types, max_bytes=max_bytes)
            events.append((event.event_id, event.user_id, value))
        except BadRecord as error:
            found_here = of_body(error.problems, "user_id")
            problems += [_at(number, one) for one in found_here] if many else found_here
            if len(problems) >= MOST:
                break
    if problems:
        raise BadRecord(problems)
    return events


def _key(value: bytes) -> bytes:
    """The record's key: the user. Where there is none, the check of the fields says so."""
    try:
        user = _user.decode(value).user_id
        return user.encode() if isinstance(user, str) else b""
    except UNREADABLE:
        return b""


def _at(number: int, one: Problem) -> Problem:
    return Problem(f"[{number}]" if one.field == "record" else f"[{number}].{one.field}", one.code, one.found, one.expected, one.remedy)
