"""Paths of requests, and the ids in them. Not which paths there are."""

from __future__ import annotations

from urllib.parse import quote, unquote, unquote_to_bytes

from pydantic import BeforeValidator

from engine.errors import shorten
from streams.gateway.problems import Refused

decoded = BeforeValidator(unquote)
"""Makes a part of a path, as `normal` leaves it, the text that it stands for."""


def normal(raw: bytes) -> str:
    """A path as it came, each part percent-encoded in the one way: a slash inside an id stays %2F, and divides nothing.

    >>> normal(b"/v1/%69tems/tea%2f1")
    '/v1/items/tea%2F1'

    Raises:
        Refused: 400, a part is not UTF-8.
    """
    try:
        return "/".join(quote(unquote_to_bytes(part).decode(), safe="") for part in raw.split(b"/"))
    except UnicodeDecodeError:
        found = shorten(repr(raw.decode("latin-1")))
        raise Refused(400, "not_utf8", found, "a path in UTF-8", "encode ids as UTF-8, then percent-encode them") from None
