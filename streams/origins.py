"""Where a record stood first, told along in its headers when a worker passes it on. Not the decision to pass it on.

Only what a worker says is believed: on a topic that others write, these headers mean nothing but on records that a worker sent there again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from engine.errors import BadRecord, Problem
from engine.user import Position

ORIGIN = "headwater-origin"
"""Header: "source/epoch/partition/offset" of the place where the record stood first."""
AT = "headwater-at"
"""Header: the record time there, in ms."""
ALIAS = "headwater-alias"
"""Header: the user id under which an event was sent, now another user's."""
MERGED = "headwater-merged"
"""Header: an event of an alias's history, counted for its items already."""
MOST_BYTES = 256
"""Room that the headers of a record without an alias need: names, a source with two aliases, numbers."""

Headers = Mapping[str, bytes]


def headers_of(found: Iterable[tuple[str, bytes | None]] | None) -> dict[str, bytes]:
    """A record's headers as a mapping, those without a value left out.

    >>> headers_of([("a", b"1"), ("b", None)])
    {'a': b'1'}
    """
    return {name: value for name, value in found or () if value is not None}


def origin_of(place: Position) -> bytes:
    """A place as the header's value.

    >>> origin_of(Position("events", 7, 3, 90211))
    b'events/7/3/90211'
    """
    return f"{place.source}/{place.epoch}/{place.partition}/{place.offset}".encode()


def read_origin(headers: Headers) -> Position | None:
    """The place that the headers name, or None.

    >>> read_origin({ORIGIN: b"events/7/3/90211"})
    Position(source='events', epoch=7, partition=3, offset=90211)

    Raises:
        BadRecord: they name none that can be read.
    """
    raw = headers.get(ORIGIN)
    if raw is None:
        return None
    try:
        source, epoch, partition, offset = raw.decode().rsplit("/", 3)
        return Position(source, int(epoch), int(partition), int(offset))
    except ValueError:
        shown = repr(raw[:60])
        raise BadRecord(
            [
                Problem(
                    "headers",
                    "bad_origin",
                    shown,
                    "source/epoch/partition/offset",
                    f"leave out the header {ORIGIN}: it is the workers' own",
                )
            ]
        ) from None


def through(place: Position, user: int) -> Position:
    """The place in a log of its own for what is passed on from the user with this hash64: the user it goes to has other offsets of the
    same log.

    >>> through(Position("events", 7, 3, 90211), 255).source
    'events@ff'
    """
    return place._replace(source=f"{place.source}@{user:x}")


def went_through(place: Position, user: int) -> bool:
    """Whether the user with this hash64 has passed the record on before: then aliases form a circle.

    >>> went_through(Position("events@ff@a", 7, 3, 90211), 255), went_through(Position("events@ff", 7, 3, 90211), 15)
    (True, False)
    """
    return f"{user:x}" in place.source.split("@")[1:]
