"""Lists over HTTP: the standing one, one asked for now, and a stream of new ones. They are the workers' lists, byte for byte."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from engine.decode import decode_request
from engine.errors import BadRecord, shorten
from engine.records import DEFAULT_SURFACE, ID_CHARS, SURFACE_PATTERN
from streams.gateway import schema
from streams.gateway.paths import decoded
from streams.gateway.problems import Refused
from streams.gateway.standing import Listed, Stream
from streams.gateway.state import JSON, Gateway, JsonResponse, of_body, read_body, read_object

MEDIA_TYPE = "text/event-stream"
RETRY_MS = 2_000
SOURCE = "headwater-source"
"""Header of an answer: `standing`, from memory, or `asked`, made by a worker just now."""
UserId = Annotated[str, decoded, Path(min_length=1, max_length=ID_CHARS, description="the user", examples=["u1"])]
SURFACE = SURFACE_PATTERN.replace(r"\A", "^").replace(r"\Z", "$")
Surface = Annotated[str, Path(pattern=SURFACE, description="the placement", examples=[DEFAULT_SURFACE])]
Deadline = Annotated[
    int | None, Query(ge=10, le=60_000, description="how long the answer is waited for, in ms; the setting gateway_deadline_s unless given")
]


def router(gateway: Gateway) -> APIRouter:
    """The endpoints."""
    made, settings, standing = APIRouter(tags=["lists"], default_response_class=JsonResponse), gateway.settings, gateway.views.standing

    def deadline_s(given_ms: int | None) -> float:
        return settings.gateway_deadline_s if given_ms is None else given_ms / 1000

    def check(surface: str) -> None:
        """Refuse a surface that has no standing lists: neither the setting nor a list says that there is one."""
        if surface not in settings.surfaces and surface not in standing.surfaces:
            expected = f"one of HEADWATER_SURFACES ({', '.join(settings.surfaces)}), or one that events named"
            remedy = "add it to HEADWATER_SURFACES, the workers' and the gateway's, or ask for a list with POST /v1/lists"
            raise Refused(404, "unknown_surface", f"surface {shorten(repr(surface))}", expected, remedy)

    @made.get(
        "/v1/users/{user_id}/lists/{surface}",
        summary="The list that stands for a user",
        responses={200: schema.says("the list", "List", schema.LIST), **schema.problems(400, 404, 422, 503, 504)},
    )
    async def get_list(user_id: UserId, surface: Surface, deadline_ms: Deadline = None) -> Response:
        """Give the user's newest list: from memory, or made by a worker now where none is held. Someone never seen gets one too."""
        found = None
        if not gateway.ready():
            check(surface)
            found = standing.get(user_id, surface, gateway.now_ms)
        if found is not None:
            return Response(found.value, media_type=JSON, headers={SOURCE: "standing"})
        value = await ask({"user_id": user_id, "surface": surface, "k": settings.list_size}, user_id, deadline_s(deadline_ms))
        return Response(value, media_type=JSON, headers={SOURCE: "asked"})

    @made.post(
        "/v1/lists",
        summary="Ask for a list: search, rerank, more like this",
        responses={200: schema.says("the list", "List", schema.LIST), **schema.problems(400, 408, 409, 413, 415, 422, 503, 504)},
        openapi_extra=schema.body(schema.ref("Request"), schema.REQUEST, "A request of the contract; the gateway draws a request_id"),
    )
    async def post_list(request: Request, deadline_ms: Deadline = None) -> Response:
        """Have a list made now: personalised search with `query`, reranking of `candidates`, more like `seed_item_id`."""
        found = read_object(await read_body(request))
        user_id = found.get("user_id")
        return Response(await ask(found, user_id if isinstance(user_id, str) else "", deadline_s(deadline_ms)), media_type=JSON)

    async def ask(fields: dict[str, Any], user_id: str, seconds: float) -> bytes:
        now = gateway.now_ms
        value = msgspec.json.encode({"request_id": uuid.uuid4().hex, "timestamp": now, **fields})
        try:
            request = decode_request(value, user_id.encode(), now_ms=now, max_bytes=settings.max_record_bytes)
        except BadRecord as error:
            raise BadRecord(of_body(error.problems, "user_id")) from None
        return await gateway.views.asking.ask(request.user_id, request.request_id, value, seconds)

    @made.get(
        "/v1/users/{user_id}/stream",
        response_class=StreamingResponse,
        summary="A user's new lists, as they are made",
        responses={
            200: {"description": "server-sent events `list` (a list) and `ended`", "content": {MEDIA_TYPE: {"schema": {"type": "string"}}}},
            **schema.problems(400, 404, 422, 503),
        },
    )
    async def get_stream(
        request: Request,
        user_id: UserId,
        surface: Annotated[str | None, Query(pattern=SURFACE, description="only this placement; all unless given")] = None,
        last_event_id: Annotated[str | None, Header(description="the last list_id received: it is not sent again")] = None,
    ) -> StreamingResponse:
        """Send the lists that stand, then each new one. One that is made while an older one waits takes its place."""
        if waiting := gateway.ready():  # lists of the past come by while topics are read: none is to be taken for a new one
            raise Refused(503, "not_ready", waiting, "a gateway that has read the topics", "connect again", retry_after_s=1)
        if surface is not None:
            check(surface)
        address = request.client.host if request.client else ""
        gateway.places.take(address)
        gateway.metrics.streams.set(gateway.places.taken)
        stream = standing.open(user_id, surface, gateway.now_ms)

        def leave() -> None:
            standing.leave(user_id, stream)
            gateway.places.leave(address)
            gateway.metrics.streams.set(gateway.places.taken)

        return ListStream(parts(stream, last_event_id), leave)

    async def parts(stream: Stream, last_event_id: str | None) -> AsyncIterator[bytes]:
        yield f"retry: {RETRY_MS}\n\n".encode()
        while not standing.closing:
            new = await stream.next(settings.gateway_heartbeat_s)
            if not new:
                yield b": alive\n\n"
            for surface, found in new:
                if found is None or found.list_id != last_event_id:
                    yield event(surface, found)

    return made


class ListStream(StreamingResponse):
    """A stream that gives its place back however it ends, also when the client left before its first part."""

    def __init__(self, parts: AsyncIterator[bytes], leave: Callable[[], None]) -> None:
        super().__init__(parts, media_type=MEDIA_TYPE, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()


def event(surface: str, found: Listed | None) -> bytes:
    r"""A server-sent event.

    >>> event("home", Listed("a1", 0, b'{"list_id":\n"a1"}'))
    b'id: a1\nevent: list\ndata: {"list_id": "a1"}\n\n'
    >>> event("home", None)
    b'event: ended\ndata: {"surface":"home"}\n\n'
    """
    if found is None:
        return b"event: ended\ndata: " + msgspec.json.encode({"surface": surface}) + b"\n\n"
    line = found.value.replace(b"\r", b" ").replace(b"\n", b" ")  # JSON has them only between its parts
    return f"id: {found.list_id}\nevent: list\ndata: ".encode() + line + b"\n\n"
