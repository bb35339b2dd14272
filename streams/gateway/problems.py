"""What went wrong as an HTTP answer: application/problem+json (RFC 9457) with the remedy. Not where it is found out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.responses import Response

from engine.errors import BadRecord, BrokerError, HeadwaterError, Problem, TopicError

MEDIA_TYPE = "application/problem+json"
MOST = 100
"""Problems listed in one answer: a batch of a thousand bad events needs no thousand of them."""
UNREADABLE = frozenset({"malformed_json", "not_utf8", "not_an_object", "empty_value", "too_deep"})
"""Codes of a body that is no JSON of the right kind; what has the wrong fields is 422."""


class ProblemDetail(msgspec.Struct, omit_defaults=True):
    """An error, as RFC 9457 has it. ``type`` ends with a stable code; ``remedy`` says what to do; ``problems``: field by field."""

    type: str
    title: str
    status: int
    detail: str
    remedy: str = ""
    problems: Sequence[Problem] = ()


class Refused(HeadwaterError):  # noqa: N818 - it is the request that is refused
    """A request that is answered with this status; `retry_after_s` says when the same one may succeed."""

    def __init__(self, status: int, code: str, found: str, expected: str, remedy: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(code, found, expected, remedy, retryable=retry_after_s is not None)
        self.args = (status, code, found, expected, remedy)
        self.status = status
        self.retry_after_s = retry_after_s


def status_of(error: HeadwaterError) -> int:
    """The HTTP status that an error stands for.

    >>> status_of(Refused(409, "a", "b", "c", "d")), status_of(BrokerError("a", "b", "c", "d"))
    (409, 503)
    """
    match error:
        case Refused():
            return error.status
        case BadRecord() if error.code == "too_large":
            return 413
        case BadRecord() if error.code in UNREADABLE:
            return 400
        case BadRecord():
            return 422
        case BrokerError() | TopicError():
            return 503
    return 500


def answer(error: HeadwaterError) -> Response:
    """The response that tells an error."""
    status = status_of(error)
    problems = error.problems if isinstance(error, BadRecord) else ()
    count = len(problems)
    detail = f"found {error.found}, expected {error.expected}"
    if count > 1:
        detail = f"{count} problems; the first: {problems[0].field}: {detail}"
    elif problems:
        detail = f"{problems[0].field}: {detail}"
    headers = {}
    if isinstance(error, Refused) and error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    elif status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "1"
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="headwater"'
    return respond(status, error.code, detail, error.remedy, problems[:MOST], headers)


def respond(
    status: int, code: str, detail: str, remedy: str = "", problems: Sequence[Problem] = (), headers: Mapping[str, str] | None = None
) -> Response:
    """A problem as a response."""
    body = ProblemDetail(f"urn:headwater:problem:{code}", HTTPStatus(status).phrase, int(status), detail, remedy, problems)
    return Response(msgspec.json.encode(body), status, headers, MEDIA_TYPE)


def of_status(status: int, detail: Any, headers: Mapping[str, str] | None = None) -> Response:
    """The problem that only a status tells of: no such path, or a method that a path does not have."""
    remedies = {
        HTTPStatus.NOT_FOUND: "see /openapi.json for what there is",
        HTTPStatus.METHOD_NOT_ALLOWED: "see /openapi.json for the methods of this path",
    }
    phrase = HTTPStatus(status)
    return respond(status, phrase.name.lower(), str(detail), remedies.get(phrase, ""), (), headers)
