"""What users did lately, for people who look: not a user's state, and no list."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from streams.gateway import schema
from streams.gateway.history import Did
from streams.gateway.lists import UserId
from streams.gateway.state import Gateway, JsonResponse


def router(gateway: Gateway) -> APIRouter:
    """The endpoints."""
    made, views = APIRouter(tags=["users"], default_response_class=JsonResponse), gateway.views

    def told(one: Did) -> schema.HistoryEvent:
        entry = views.items.held.peek(one.item_id) if one.item_id else None
        title = entry.brief.title if entry else None
        return schema.HistoryEvent(one.event_id, one.type, one.at, one.item_id, title, one.query)

    example = {"event_id": "e-7f3a", "type": "click", "timestamp": 1732200000100, "item_id": "i1", "title": "Green tea"}

    @made.get(
        "/v1/users",
        summary="Users who were active lately",
        responses={
            200: schema.says("the users", "ActiveUsers", {"users": [{"user_id": "u1", "events": 1, "last": example}]}),
            **schema.problems(422),
        },
    )
    async def get_users(limit: Annotated[int, Query(ge=1, le=100, description="users, at most")] = 12) -> JsonResponse:
        """Give users by their last event, of those that the gateway holds."""
        return JsonResponse(schema.ActiveUsers([schema.ActiveUser(a.user_id, a.events, told(a.last)) for a in views.history.lately(limit)]))

    @made.get(
        "/v1/users/{user_id}/history",
        summary="What a user did last",
        responses={200: schema.says("the events", "UserHistory", {"user_id": "u1", "events": [example]}), **schema.problems(400, 422)},
    )
    async def get_history(user_id: UserId) -> JsonResponse:
        """Give up to 50 events, newest first: of the users active last, and no further back than the gateway read at its start."""
        return JsonResponse(schema.UserHistory(user_id, [told(one) for one in views.history.of(user_id)]))

    return made
