"""Items and rules over HTTP: written to their topics, read from what the gateway holds of these. The topics stay the owners."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from engine.decode import decode_item, decode_rule
from engine.errors import shorten
from engine.records import ID_CHARS
from streams.gateway import schema
from streams.gateway.paths import decoded
from streams.gateway.problems import Refused
from streams.gateway.sender import Record
from streams.gateway.state import JSON, Gateway, JsonResponse, read_body, with_id

RecordId = Annotated[str, decoded, Path(min_length=1, max_length=ID_CHARS, description="its id", examples=["i1"])]
QUERY_CHARS = 200
MANY = 200
WRITTEN: dict[int | str, dict[str, Any]] = {
    202: schema.says("Kafka has it; workers follow within moments", "Written", {"id": "i1", "partition": 0, "offset": 7})
}


@dataclass(frozen=True)
class Kind:
    """Records by id on a compacted topic. `held`: the record of an id, or None; `evicted`: how many there was no room for."""

    name: str
    topic: str
    decode: Callable[..., object]
    held: Callable[[str], bytes | None]
    evicted: Callable[[], int]
    example: Any


def router(gateway: Gateway) -> APIRouter:
    """The endpoints."""
    made, views, names = APIRouter(tags=["items and rules"], default_response_class=JsonResponse), gateway.views, gateway.names
    items, rules = views.items.held, views.rules.held

    @made.get(
        "/v1/items",
        summary="Find items by words, or by ids",
        responses={200: schema.says("the items that fit", "FoundItems", {"items": [schema.ITEM]}), **schema.problems(422)},
    )
    async def find_items(
        query: Annotated[str | None, Query(max_length=QUERY_CHARS, description="words of title, creator or categories")] = None,
        id: Annotated[list[str] | None, Query(max_length=MANY, description="ids; may be given again")] = None,  # noqa: A002 - as in the URL
        limit: Annotated[int, Query(ge=1, le=MANY, description="items, at most")] = 20,
    ) -> JsonResponse:
        """Find items that have all these words (of the catalogue, not personalised), or those of some ids."""
        found = await views.items.search(query, limit) if query is not None else views.items.briefs(id or [])
        return JsonResponse(schema.FoundItems(found))

    @made.get(
        "/v1/rules",
        summary="The rules that stand",
        responses={200: schema.says("the rules", "Rules", {"rules": [schema.RULE]}), **schema.problems()},
    )
    async def get_rules() -> JsonResponse:
        """Give all rules."""
        return JsonResponse({"rules": [msgspec.Raw(value) for rule_id in rules if (value := rules.peek(rule_id))]})

    def item_of(item_id: str) -> bytes | None:
        entry = items.get(item_id)
        return None if entry is None else entry.value

    add(made, gateway, Kind("item", names.items, decode_item, item_of, lambda: items.evicted, schema.ITEM))
    add(made, gateway, Kind("rule", names.rules, decode_rule, rules.get, lambda: rules.evicted, schema.RULE))
    return made


def add(made: APIRouter, gateway: Gateway, kind: Kind) -> None:
    """The endpoints of one record by its id."""
    path, name, model = f"/v1/{kind.name}s/{{id}}", kind.name, schema.ref(kind.name.title())
    found: dict[int | str, dict[str, Any]] = {200: schema.says(f"the {name}", kind.name.title(), kind.example)}
    taken = schema.body(model, kind.example, f"The whole {name}; {name}_id may be left out")

    async def write(record_id: str, value: bytes | None) -> JsonResponse:
        [place] = await gateway.sender.send([Record(kind.topic, record_id.encode(), value)])
        return JsonResponse(schema.Written(record_id, *place), 202)

    @made.get(path, name=f"get_{name}", summary=f"One {name}", responses={**found, **schema.problems(400, 404, 422)})
    async def get_one(id: RecordId) -> Response:  # noqa: A002 - as in the path
        """Give it as it stands on the topic."""
        value = kind.held(id)
        if value is None:
            raise _not_held(name, id, gateway.ready(), kind.evicted())
        return Response(value, media_type=JSON)

    wrong = schema.problems(400, 408, 413, 415, 422, 503)

    @made.put(path, name=f"put_{name}", status_code=202, summary=f"Set one {name}", responses={**WRITTEN, **wrong}, openapi_extra=taken)
    async def put_one(id: RecordId, request: Request) -> JsonResponse:  # noqa: A002 - as in the path
        """Put it on the topic; it replaces an older one as a whole."""
        value = with_id(await read_body(request), f"{name}_id", id)
        kind.decode(value, id.encode(), max_bytes=gateway.settings.max_record_bytes)
        return await write(id, value)

    gone = {**WRITTEN, **schema.problems(400, 422, 503)}

    @made.delete(path, name=f"delete_{name}", status_code=202, summary=f"Remove one {name}", responses=gone)
    async def delete_one(id: RecordId) -> JsonResponse:  # noqa: A002 - as in the path
        """Send its tombstone, whether it is there or not; lists follow within a minute."""
        return await write(id, None)


def _not_held(what: str, name: str, waiting: str, evicted: int) -> Refused:
    remedy = "PUT it, or look at the id; what was put a moment ago is here soon"
    if waiting:
        remedy = f"wait: the gateway is {waiting}"
    elif evicted:
        remedy = f"look at the id; the gateway had no room for {evicted} others (gateway_items_mb, for items)"
    return Refused(404, "not_found", f"no {what} {shorten(repr(name))}", "one that was put", remedy)
