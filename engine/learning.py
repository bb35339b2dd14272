"""Which events the ranker learns from, and when others' lists know of them. Pure rules; the learning is in `engine.ranker`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from engine.errors import BadSettings, Problem

FIRST = 100_000
"""Events that all become examples; at 0.5 ms each this is a minute in the life of an installation."""


def learns_from(key: int, events: int, first: int = FIRST) -> bool:
    """Whether the event with hash64 `key` becomes an example when `events` events went before it.

    All of the first `first`; then one in two, in three ... as the stream grows, chosen by hash: n events make about
    `first` x (1 + ln(n / first)) examples, so an old installation spends ever less of its time on learning and still follows changes.

    >>> learns_from(7, 99_999), learns_from(7, 200_000), learns_from(8, 200_000)
    (True, False, True)
    """
    return key % max(1, events // first) == 0


@dataclass(frozen=True, slots=True)
class Delay:
    """How long lists do not know something of an event: until `events` further ones have come, and `seconds` of the stream's own time have
    gone by.
    """

    events: float = 0.0
    seconds: float = 0.0

    def over(self, events: float, seconds: float) -> bool:
        """Whether lists know an event after which `events` others came, `seconds` ago.

        >>> Delay(events=2).over(1, 3600.0), Delay(events=2).over(2, 0.0), Delay().over(0, 0.0)
        (False, True, True)
        """
        return events >= self.events and seconds >= self.seconds


@dataclass(frozen=True, slots=True)
class Delays:
    """How late lists know what others learned: `counts` and pairs of items, and the ranker's `weights`. A user's own row is never late."""

    counts: Delay = Delay()
    weights: Delay = Delay()

    @classmethod
    def of(cls, text: str) -> Delays:
        """Delays from text: that of the counts, and after a comma that of the weights, if it is another one.

        >>> Delays.of("1.5") == Delays(Delay(seconds=1.5), Delay(seconds=1.5))
        True
        >>> Delays.of("50events,100events") == Delays(Delay(events=50), Delay(events=100))
        True

        Raises:
            BadSettings: a part is neither a number of seconds nor of events, or there are more than two.
        """
        found = [_DELAY.fullmatch(part) for part in text.split(",")]
        parts = [Delay(**{"events" if one[2] else "seconds": float(one[1])}) for one in found if one is not None]
        if len(parts) < len(found) or len(parts) not in (1, 2):
            expected = "seconds of the stream's time, or a number of events; two of them with a comma for counts and weights"
            raise BadSettings([Problem("learning-delay", "bad_delay", repr(text), expected, "write 1.5, 300events, or 50events,100events")])
        return cls(parts[0], parts[-1])


_DELAY = re.compile(r"(\d+(?:\.\d+)?|inf)(events)?")
