"""Which events the ranker learns from, and when others' lists know of them. Pure rules; the learning is in `engine.ranker`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from engine.errors import BadSettings, Problem

FIRST = 8_000
"""Events that all become examples; at 1 ms each this is 8 s in the life of an installation."""


def learns_from(key: int, events: int, first: int = FIRST) -> bool:
    """Whether the event with hash64 `key` becomes an example when `events` events went before it.

    All of the first `first`; then one in two, in three ... as the stream grows, chosen by hash: n events make about
    `first` x (1 + ln(n / first)) examples, so an old installation spends ever less of its time on learning and still follows changes.

    >>> learns_from(7, 7_999), learns_from(7, 16_000), learns_from(8, 16_000)
    (True, False, True)
    """
    return key % max(1, events // first) == 0


@dataclass(frozen=True, slots=True)
class Delay:
    """How long lists do not know what others learn of an event: until `events` further events have come, and `seconds` of the stream's own
    time have gone by. A user's own row is never late.
    """

    events: float = 0.0
    seconds: float = 0.0

    def over(self, events: float, seconds: float) -> bool:
        """Whether lists know an event after which `events` others came, `seconds` ago.

        >>> Delay(events=2).over(1, 3600.0), Delay(events=2).over(2, 0.0), Delay().over(0, 0.0)
        (False, True, True)
        """
        return events >= self.events and seconds >= self.seconds

    @classmethod
    def of(cls, text: str) -> Delay:
        """A delay from text: seconds of the stream's time, or a number of events.

        >>> Delay.of("1.5"), Delay.of("300events"), Delay.of("inf")
        (Delay(events=0.0, seconds=1.5), Delay(events=300.0, seconds=0.0), Delay(events=0.0, seconds=inf))

        Raises:
            BadSettings: it is neither.
        """
        found = _DELAY.fullmatch(text.strip())
        if found is None:
            expected = "seconds of the stream's time, or a number of events"
            raise BadSettings([Problem("learning-delay", "bad_delay", repr(text), expected, "write --learning-delay 1.5, or 300events")])
        number = float(found[1])
        return cls(events=number) if found[2] == "events" else cls(seconds=number)


_DELAY = re.compile(r"(\d+(?:\.\d+)?|inf) *(s|events)?")
