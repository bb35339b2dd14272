"""What could not be used lately, from the end of `dead-letters`: counted by reason, and the last ones. The topic has all of them."""

from __future__ import annotations

from collections import Counter, deque

import msgspec

LAST = 20
REASONS = 100
"""Reasons counted; there are some thirty."""


class Source(msgspec.Struct, frozen=True):
    """Where the record stood."""

    topic: str
    partition: int
    offset: int


class Letter(msgspec.Struct, frozen=True):
    """A dead letter without the bytes that could not be used: those are read from the topic, at ``source``."""

    reason: str
    message: str
    source: Source
    at: int


class Told(msgspec.Struct, frozen=True):
    """``by_reason``: since some records before the gateway's start; ``last``: newest first."""

    by_reason: dict[str, int]
    last: list[Letter]


_decode = msgspec.json.Decoder(Letter).decode


class Letters:
    """Counts by reason, and the last letters."""

    def __init__(self) -> None:
        self._reasons: Counter[str] = Counter()
        self._last: deque[Letter] = deque(maxlen=LAST)

    def took(self, value: bytes) -> None:
        """A record of `dead-letters`.

        Raises:
            msgspec.DecodeError: it is none.
        """
        letter = _decode(value)
        self._last.appendleft(letter)
        if letter.reason in self._reasons or len(self._reasons) < REASONS:
            self._reasons[letter.reason] += 1

    def told(self) -> Told:
        """What there is to show."""
        return Told(dict(self._reasons.most_common()), list(self._last))
