"""What could not be used, with the reason and the original bytes. Not how it is sent, and not a log of errors of our own."""

from __future__ import annotations

from base64 import b64encode

import msgspec

from engine.errors import HeadwaterError, Problem, ProblemsError

MAX_BYTES = 64 * 1024
"""Most bytes of a key or value that a dead letter repeats: 64 KiB, 87,384 characters of base64."""
MESSAGE_CHARS = 4096
"""Longest message, in characters: some twenty problems."""
MAX_PROBLEMS = 50
"""Most problems listed one by one; all of them are found again by reading the record."""
SCHEMA = "headwater.dead-letter.v1"


class Source(msgspec.Struct, frozen=True, gc=False):
    """Where the record stood. ``timestamp`` is the broker's record time in ms UTC, -1 without one."""

    topic: str
    partition: int
    offset: int
    timestamp: int


class DeadLetter(msgspec.Struct, frozen=True, gc=False):
    """One record of `dead-letters`. ``key`` and ``value`` are base64, cut at 64 KiB of the original; the lengths are the whole ones.

    A null key or value is null here too, with a length of 0. ``problems`` is the message, part by part, for programs.
    """

    reason: str
    message: str
    source: Source
    key: str | None
    key_length: int
    value: str | None
    value_length: int
    at: int
    problems: tuple[Problem, ...] = ()


def dead_letter(error: HeadwaterError, source: Source, key: bytes | None, value: bytes | None, at_ms: int) -> DeadLetter:
    """Make the dead letter of a record that `error` says cannot be used.

    >>> error = HeadwaterError("unknown", "x", "y", "z")
    >>> letter = dead_letter(error, Source("events", 0, 7, 1732200000000), None, b"{}", 1732200000123)
    >>> letter.reason, letter.message, letter.key, letter.value, letter.value_length
    ('unknown', 'found x, expected y (z)', None, 'e30=', 2)
    """
    problems: tuple[Problem, ...] = ()
    if isinstance(error, ProblemsError):
        problems, message = error.problems[:MAX_PROBLEMS], str(error)
    else:
        message = f"found {error.found}, expected {error.expected} ({error.remedy})"
    return DeadLetter(
        reason=error.code,
        message=message if len(message) <= MESSAGE_CHARS else message[: MESSAGE_CHARS - 1] + "…",
        source=source,
        key=_base64(key),
        key_length=len(key or b""),
        value=_base64(value),
        value_length=len(value or b""),
        at=at_ms,
        problems=problems,
    )


def _base64(data: bytes | None) -> str | None:
    return None if data is None else b64encode(data[:MAX_BYTES]).decode("ascii")


_ENCODER = msgspec.json.Encoder()


def encode_dead_letter(letter: DeadLetter) -> bytes:
    """Write a dead letter as the UTF-8 JSON of the contract."""
    return _ENCODER.encode(letter)
