"""Which generation serves, as the record `active` of the topic `generations` says it (contract). Not what a generation is."""

from __future__ import annotations

import msgspec

from engine.errors import FOUND_CHARS, BadRecord, Problem

ACTIVE = b"active"
"""The record's key; the topic's other keys are ids, with manifests."""


class Active(msgspec.Struct, frozen=True):
    """The record `active` of `generations`. `at` in ms; `forced`: serve it although its gate refused it; `hold`: no trainer may put another
    in its place, as after a rollback, until somebody activates one by hand.
    """

    id: str
    share: float = 1.0
    by: str = ""
    at: int = 0
    reason: str = ""
    forced: bool = False
    hold: bool = False


def read_active(value: bytes) -> Active:
    """The record `active`.

    Raises:
        BadRecord: it can't be read.
    """
    try:
        return msgspec.json.decode(value, type=Active)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        expected = '{"id", "share", "by", "at", "reason"}'
        raise BadRecord([Problem("value", "malformed_json", str(error)[:FOUND_CHARS], expected, "send a valid record")]) from error
