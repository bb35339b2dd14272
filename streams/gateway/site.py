"""The page: files of the package, served as they are. What it shows comes from the endpoints, as for any client."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from hashlib import sha256
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

MEDIA_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
INDEX = "index.html"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def router() -> APIRouter:
    """The files, read once."""
    made = APIRouter(include_in_schema=False)
    folder = files("streams.gateway") / "page"
    for file in sorted(folder.iterdir(), key=lambda found: found.name):
        content, (kind, path) = file.read_bytes(), _told(file.name)
        tag = f'"{sha256(content).hexdigest()[:16]}"'
        made.add_api_route(path, _served(content, f"{kind}; charset=utf-8", tag), methods=["GET", "HEAD"])
    return made


def _told(name: str) -> tuple[str, str]:
    """Media type and path of a file."""
    return MEDIA_TYPES[f".{name.rpartition('.')[2]}"], "/" if name == INDEX else f"/{name}"


def _served(content: bytes, media_type: str, tag: str) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    async def served(request: Request) -> Response:
        headers = {**HEADERS, "ETag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    return served
