"""What every request passes before an endpoint sees it: whose page sent it, token, rate, size. And its count and time. No endpoint itself.

A browser page of another site must not reach a gateway that its browser reaches. It can name the gateway's address by a domain of its own
(DNS rebinding), so the Host must be ours; and it can send requests whose answers it can't read, so an Origin must be ours too. A token that
is a secret keeps such a page out; one that is published, as the local stack's, does not, and without one the gateway listens on this
machine only. So Host is checked on this machine, and everywhere once `gateway_hosts` says which names are ours.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from time import perf_counter
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.errors import shorten
from streams.gateway import problems
from streams.gateway.limits import Rate
from streams.gateway.metrics import Metrics
from streams.gateway.paths import normal
from streams.gateway.problems import Refused
from streams.settings import Settings

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
OPEN = ("/healthz", "/readyz", "/metrics")
"""Paths for machines: no data of users, so no token, no rate and any Host."""
GUARDED = "/v1/"
"""Paths that want the token. The page's files and the description hold no data."""


class Guard:
    """An ASGI middleware.

    Args:
        app: what comes next.
        settings: token, names, limits.
        local: whether the gateway listens on this machine only; then Host is checked, whether or not `gateway_hosts` has names.
        metrics: counts requests.
        clock: seconds, for the rate.
    """

    def __init__(self, app: ASGIApp, settings: Settings, *, local: bool, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._app, self._metrics = app, metrics
        self._token = settings.gateway_token.get_secret_value().encode() if settings.gateway_token else None
        self._hosts = LOCAL | {name.lower() for name in settings.gateway_hosts} if local or settings.gateway_hosts else None
        self._rate = Rate(settings.gateway_rate_per_s, clock)
        self._most = settings.gateway_body_kb * 1024

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = perf_counter(), 500

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Content-Type-Options"] = "nosniff"
                self._metrics.latency.labels(_route(scope)).observe(perf_counter() - began)
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                await refusal(scope, receive, told)
            else:
                await self._app(scope, self._counted(receive), told)
        finally:
            self._metrics.requests.labels(_route(scope), _method(scope), str(status)).inc()

    def _refusal(self, scope: Scope) -> Response | None:
        """Why the request goes no further, or None. The path becomes the one that is checked here, and by which the endpoint is found."""
        try:
            path = scope["path"] = normal(scope["raw_path"])
            if path in OPEN:
                return None
            headers = Headers(scope=scope)
            self._check_names(headers)
            client = scope.get("client")
            self._rate.take(client[0] if client else "")
            if path.startswith(GUARDED):
                self._check_token(headers)
            length = headers.get("content-length", "")
            self._check_size(int(length) if length.isdecimal() else 0)
        except Refused as error:
            return problems.answer(error)
        return None

    def _check_names(self, headers: Headers) -> None:
        host, origin = headers.get("host", "").lower(), headers.get("origin")
        if self._hosts is not None and _name(f"//{host}") not in self._hosts:
            remedy = "call it by its address, or add the name to gateway_hosts"
            raise Refused(403, "foreign_host", f"Host {shorten(repr(host))}", "localhost or a name of gateway_hosts", remedy)
        if origin is not None and urlsplit_netloc(origin) != host:
            raise Refused(
                403, "foreign_origin", f"Origin {shorten(repr(origin))}", "a page of this gateway", "call it from a server instead"
            )

    def _check_token(self, headers: Headers) -> None:
        if self._token is None:
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), self._token):
            found = "no bearer token" if not given else "another token"
            raise Refused(401, "no_token" if not given else "wrong_token", found, "gateway_token", "send Authorization: Bearer TOKEN")

    def _check_size(self, length: int) -> None:
        if length > self._most:
            found = f"{length} bytes or more"
            raise Refused(413, "too_large", found, f"at most {self._most}", "send less at once, or raise gateway_body_kb")

    def _counted(self, receive: Receive) -> Receive:
        """The same body, which ends with a refusal when it is larger than it may be: not all clients say its length first."""
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            self._check_size(size)
            return message

        return counted


def urlsplit_netloc(origin: str) -> str:
    """Host and port of an Origin, "" where it has none.

    >>> urlsplit_netloc("http://a.example:8080"), urlsplit_netloc("null")
    ('a.example:8080', '')
    """
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _route(scope: Scope) -> str:
    """The path's pattern: few, and without ids."""
    return getattr(scope.get("route"), "path_format", None) or "other"


def _method(scope: Scope) -> str:
    method = scope["method"]
    return method if method in ("GET", "HEAD", "POST", "PUT", "DELETE") else "other"
