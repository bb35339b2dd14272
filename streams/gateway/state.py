"""What every endpoint is handed: settings, what is held, the way to Kafka. And how a body is read. No endpoint itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from engine.errors import BadRecord, Problem, shorten
from engine.problems import problem
from streams.gateway.lag import Lag
from streams.gateway.limits import Places
from streams.gateway.metrics import Metrics
from streams.gateway.problems import Refused
from streams.gateway.sender import Sender
from streams.gateway.views import Views
from streams.settings import Settings
from streams.topics import Names

JSON = "application/json"
BODY_S = 10.0
"""How long a body may take to arrive: a client that dribbles holds a connection no longer."""


@dataclass(frozen=True)
class Gateway:
    """One of each. `clock`: seconds since 1970; `ready`: "" or what is waited for."""

    settings: Settings
    names: Names
    views: Views
    sender: Sender
    lag: Lag
    metrics: Metrics
    places: Places
    clock: Callable[[], float]
    ready: Callable[[], str]

    @property
    def now_ms(self) -> int:
        """The clock in ms."""
        return round(self.clock() * 1000)


class JsonResponse(Response):
    """JSON bytes as they are, or a value that msgspec writes."""

    media_type = JSON

    def render(self, content: Any) -> bytes:
        return content if isinstance(content, bytes) else msgspec.json.encode(content)


async def read_body(request: Request) -> bytes:
    """The body of a request, which must call itself JSON.

    Raises:
        Refused: 415 for another type, 408 when it does not arrive, 413 when it is too large.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON:
        raise Refused(415, "not_json", shorten(repr(kind)), JSON, f"send the header Content-Type: {JSON}")
    try:
        async with asyncio.timeout(BODY_S):
            return await request.body()
    except TimeoutError:
        raise Refused(408, "body_late", f"no whole body after {BODY_S:g} s", "a body", "send it at once") from None


def read_object(body: bytes) -> dict[str, Any]:
    """A body as an object of any fields.

    Raises:
        BadRecord: it is none.
    """
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRecord([problem("record", "malformed_json", str(error), "a JSON object in UTF-8", "check the JSON writer")]) from None
    if not isinstance(found, dict):
        raise BadRecord([problem("record", "not_an_object", type(found).__name__, "a JSON object", "send an object")])
    return found


def of_body(problems: Sequence[Problem], field: str) -> list[Problem]:
    """Problems as who sent a body sees them: there is no key in it, but the field that the key is made of, once."""
    named = {one.field for one in problems}
    told = [msgspec.structs.replace(one, field=field) if one.field == "key" else one for one in problems]
    return [one for one, found in zip(told, problems, strict=True) if found.field != "key" or field not in named]


def with_id(body: bytes, field: str, value: str) -> bytes:
    """A body that names the id its path has; one without gets it, and any other stays byte for byte.

    >>> with_id(b'{"title": "x"}', "item_id", "i1")
    b'{"title":"x","item_id":"i1"}'

    Raises:
        BadRecord: it is no object, or names another id.
    """
    found = read_object(body)
    if found.get(field) is None:
        return msgspec.json.encode({**found, field: value})
    if found[field] != value:
        raise BadRecord([problem(field, "key_mismatch", shorten(repr(found[field])), f"{value!r}, as in the path", "send one of the two")])
    return body
