"""What is live, for people (/v1/status) and for machines (/healthz, /readyz, /metrics). It measures nothing itself."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import PlainTextResponse, Response

from streams.gateway import schema
from streams.gateway.state import Gateway, JsonResponse
from streams.metrics import resident_bytes

TEXT = {"content": {"text/plain": {"schema": {"type": "string"}}}}


def router(gateway: Gateway) -> APIRouter:
    """The endpoints."""
    made, views = APIRouter(tags=["status"], default_response_class=JsonResponse), gateway.views
    installed = version("headwater")

    @made.get(
        "/v1/status",
        summary="What is live",
        responses={200: schema.says("the figures", "Status"), **schema.problems()},
    )
    async def get_status() -> JsonResponse:
        """Give rates, freshness, lag, the generation that serves, dead letters and what the gateway holds."""
        now, told, letters = gateway.now_ms, await gateway.lag.told(), views.letters.told()
        events, lists, held = views.flow.events.figures(now), views.flow.lists.figures(now), views.standing.held
        return JsonResponse(
            schema.Status(
                at=now,
                version=installed,
                ready=gateway.ready(),
                stream_time=views.history.time,
                kafka=schema.Kafka(not told.error, told.error),
                events=schema.EventFigures(events.per_s, events.series, told.records.get(gateway.names.events, 0)),
                lists=schema.ListFigures(lists.per_s, lists.series, len(held), held.bytes, held.evicted),
                freshness=views.flow.freshness(now),
                lag=told.lag,
                generation=views.generations.told(),
                dead_letters=schema.LetterFigures(told.records.get(gateway.names.dead_letters, 0), letters.by_reason, letters.last),
                catalogue=schema.Catalogue(len(views.items.held), views.items.held.evicted),
                streams=gateway.places.taken,
                memory_bytes=resident_bytes(),
            )
        )

    @made.get(
        "/healthz",
        response_class=PlainTextResponse,
        summary="Whether the process lives",
        responses={200: {"description": "it does", **TEXT}},
    )
    async def healthz() -> PlainTextResponse:
        """Say ok."""
        return PlainTextResponse("ok\n")

    @made.get(
        "/readyz",
        response_class=PlainTextResponse,
        summary="Whether the gateway knows what stands",
        responses={200: {"description": "ready", **TEXT}, 503: {"description": "what is waited for", **TEXT}},
    )
    async def readyz() -> PlainTextResponse:
        """Say ready once the topics were read to their ends, else what is waited for."""
        waiting = gateway.ready()
        return PlainTextResponse(f"{waiting or 'ready'}\n", 503 if waiting else 200)

    @made.get("/metrics", response_class=Response, summary="Prometheus metrics", responses={200: {"description": "the metrics", **TEXT}})
    async def metrics() -> Response:
        """Give the gateway's own metrics."""
        gateway.metrics.lists.set(len(views.standing.held))
        gateway.metrics.lists_bytes.set(views.standing.held.bytes)
        gateway.metrics.items.set(len(views.items.held))
        return Response(generate_latest(gateway.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return made
