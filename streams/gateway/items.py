"""Items and rules over HTTP: written to their topics, read from what the gateway holds of these. The catalogue's owner stays the topic."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from engine.decode import decode_item, decode_rule
from engine.records import ID_CHARS
from streams.gateway import schema
from streams.gateway.problems import Refused
from streams.gateway.sender import Record
from streams.gateway.state import JSON, Gateway, JsonResponse, read_body, with_id

ItemId = Annotated[str, Path(min_length=1, max_length=ID_CHARS, description="the item", examples=["i1"])]
RuleId = Annotated[str, Path(min_length=1, max_length=ID_CHARS, description="the rule", examples=["r1"])]
QUERY_CHARS = 200
MANY = 200
WRITTEN: dict[int | str, dict[str, Any]] = {
    202: schema.says("Kafka has it; workers follow within moments", "Written", {"id": "i1", "partition": 0, "offset": 7})
}


def router(gateway: Gateway) -> APIRouter:
    """The endpoints."""
    made, views, names = APIRouter(tags=["items and rules"], default_response_class=JsonResponse), gateway.views, gateway.names
    most = gateway.settings.max_record_bytes

    async def write(topic: str, name: str, value: bytes | None) -> JsonResponse:
        [place] = await gateway.sender.send([Record(topic, name.encode(), value)])
        return JsonResponse(schema.Written(name, *place), 202)

    @made.get(
        "/v1/items",
        summary="Find items by words, or by ids",
        responses={200: schema.says("the items that fit", "FoundItems", {"items": [schema.ITEM]}), **schema.problems(422)},
    )
    async def find_items(
        query: Annotated[str | None, Query(max_length=QUERY_CHARS, description="words of title, creator or categories")] = None,
        id: Annotated[list[str] | None, Query(max_length=MANY, description="ids; may be given again")] = None,  # noqa: A002 - its name in the URL
        limit: Annotated[int, Query(ge=1, le=MANY, description="items, at most")] = 20,
    ) -> JsonResponse:
        """Find items that have all these words (of the catalogue, not personalised), or those of some ids."""
        return JsonResponse(schema.FoundItems(views.items.search(query, limit) if query is not None else views.items.briefs(id or [])))

    @made.get(
        "/v1/items/{item_id:path}",
        summary="An item",
        responses={200: schema.says("the item", "Item", schema.ITEM), **schema.problems(404, 422)},
    )
    async def get_item(item_id: ItemId) -> Response:
        """Give an item as it stands on the topic."""
        found = views.items.held.get(item_id)
        if found is None:
            raise _not_held("item", item_id, gateway.ready(), views.items.held.evicted)
        return Response(found.value, media_type=JSON)

    @made.put(
        "/v1/items/{item_id:path}",
        status_code=202,
        summary="Add or change an item",
        responses={**WRITTEN, **schema.problems(400, 408, 413, 415, 422, 503)},
        openapi_extra=schema.body(schema.ref("Item"), schema.ITEM, "The whole item; item_id may be left out"),
    )
    async def put_item(item_id: ItemId, request: Request) -> JsonResponse:
        """Put an item in the catalogue; it replaces an older one as a whole."""
        value = with_id(await read_body(request), "item_id", item_id)
        decode_item(value, item_id.encode(), max_bytes=most)
        return await write(names.items, item_id, value)

    @made.delete("/v1/items/{item_id:path}", status_code=202, summary="Remove an item", responses={**WRITTEN, **schema.problems(422, 503)})
    async def delete_item(item_id: ItemId) -> JsonResponse:
        """Remove an item, whether there is one or not; lists that hold it are made anew within a minute."""
        return await write(names.items, item_id, None)

    @made.get(
        "/v1/rules",
        summary="The rules that stand",
        responses={200: schema.says("the rules", "Rules", {"rules": [schema.RULE]}), **schema.problems()},
    )
    async def get_rules() -> JsonResponse:
        """Give all rules."""
        found = [msgspec.Raw(value) for rule_id in views.rules.held if (value := views.rules.held.peek(rule_id))]
        return JsonResponse({"rules": found})

    @made.get(
        "/v1/rules/{rule_id:path}",
        summary="A rule",
        responses={200: schema.says("the rule", "Rule", schema.RULE), **schema.problems(404, 422)},
    )
    async def get_rule(rule_id: RuleId) -> Response:
        """Give a rule as it stands on the topic."""
        found = views.rules.held.get(rule_id)
        if found is None:
            raise _not_held("rule", rule_id, gateway.ready(), views.rules.held.evicted)
        return Response(found, media_type=JSON)

    @made.put(
        "/v1/rules/{rule_id:path}",
        status_code=202,
        summary="Add or change a rule",
        responses={**WRITTEN, **schema.problems(400, 408, 413, 415, 422, 503)},
        openapi_extra=schema.body(schema.ref("Rule"), schema.RULE, "The whole rule; rule_id may be left out"),
    )
    async def put_rule(rule_id: RuleId, request: Request) -> JsonResponse:
        """Set a rule; it replaces an older one as a whole."""
        value = with_id(await read_body(request), "rule_id", rule_id)
        decode_rule(value, rule_id.encode(), max_bytes=most)
        return await write(names.rules, rule_id, value)

    @made.delete("/v1/rules/{rule_id:path}", status_code=202, summary="End a rule", responses={**WRITTEN, **schema.problems(422, 503)})
    async def delete_rule(rule_id: RuleId) -> JsonResponse:
        """End a rule, whether there is one or not."""
        return await write(names.rules, rule_id, None)

    return made


def _not_held(what: str, name: Any, waiting: str, evicted: int) -> Refused:
    remedy = "PUT it, or look at the id; what was put a moment ago is here soon"
    if waiting:
        remedy = f"wait: the gateway is {waiting}"
    elif evicted:
        remedy = f"the gateway has no room for {evicted} records: raise gateway_items_mb if it may be one of them"
    return Refused(404, "not_found", f"no {what} {name!r}", "one that was put", remedy)
