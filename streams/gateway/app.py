"""The FastAPI application put together: endpoints, guard, errors, description. Not the process, and nothing that a record means."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version
from time import monotonic
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from engine.errors import BadRecord, HeadwaterError, Problem, shorten
from streams.gateway import events, items, lists, problems, schema, site, status, users
from streams.gateway.guard import Guard
from streams.gateway.state import Gateway
from streams.logs import logger

log = logger(__name__)
ABOUT = """Personalised lists over HTTP: send what users do, read what to show them next.

Records are those of the wire contract, with the same checks; what is written here stands on the Kafka topics, where workers read it.
Errors are `application/problem+json` (RFC 9457) with a stable code at the end of `type`, a `remedy`, and every problem of a record.
Where a token is set, everything under `/v1` wants `Authorization: Bearer TOKEN`."""


def build(gateway: Gateway, *, local: bool, around: Callable[[], AbstractAsyncContextManager[None]] | None = None) -> FastAPI:
    """The application. `around`: entered before the first request and left after the last."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if around is None:
            yield
        else:
            async with around():
                yield

    app = FastAPI(
        title="Headwater gateway",
        version=version("headwater"),
        description=ABOUT,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    for router in (events.router(gateway), lists.router(gateway), items.router(gateway), users.router(gateway), status.router(gateway)):
        app.include_router(router)
    app.include_router(site.router())
    app.add_middleware(Guard, settings=gateway.settings, local=local, metrics=gateway.metrics, clock=monotonic)
    app.add_exception_handler(HeadwaterError, _headwater)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unknown)
    app.openapi = lambda: _described(app, token=gateway.settings.gateway_token is not None)  # type: ignore[method-assign]
    return app


def _described(app: FastAPI, *, token: bool) -> dict[str, Any]:
    """The description: FastAPI's paths with the schemas of our own records."""
    if app.openapi_schema is None:
        made = FastAPI.openapi(app)
        made["components"] = {"schemas": schema.components()}
        if token:
            made["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            made["security"] = [{"token": []}]
        app.openapi_schema = made
    return app.openapi_schema


async def _headwater(_: Request, error: Exception) -> Response:
    assert isinstance(error, HeadwaterError)  # noqa: S101 - what it is registered for
    if problems.status_of(error) == HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("gateway_failed", error=str(error))
    return problems.answer(error)


async def _invalid(_: Request, error: Exception) -> Response:
    """A parameter that is not as described."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - as above
    found = [
        Problem(
            ".".join(str(part) for part in one["loc"][1:]) or "request",
            str(one["type"]),
            shorten(repr(one.get("input"))),
            str(one["msg"]).removeprefix("Input should be ").removeprefix("String should "),
            "see /openapi.json for what it may be",
        )
        for one in error.errors()
    ]
    return problems.answer(BadRecord(found))


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - as above
    return problems.of_status(error.status_code, error.detail, error.headers)


async def _unknown(_: Request, error: Exception) -> Response:
    log.error("gateway_failed", error=repr(error))
    remedy = "this is a defect of the gateway: its log has the error"
    return problems.respond(500, "defect", "the request could not be handled", remedy)
