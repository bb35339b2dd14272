"""Which events the ranker learns from. Pure rules of the event itself and of how many went before; the learning is in `engine.ranker`."""

from __future__ import annotations

FIRST = 100_000
"""Events that all become examples; at 1 ms each this is 8 s in the life of an installation."""


def learns_from(key: int, events: int, first: int = FIRST) -> bool:
    """Whether the event with hash64 `key` becomes an example when `events` events went before it.

    All of the first `first`; then one in two, in three ... as the stream grows, chosen by hash: n events make about
    `first` x (1 + ln(n / first)) examples, so an old installation spends ever less of its time on learning and still follows changes.

    >>> learns_from(7, 7_999), learns_from(7, 16_000), learns_from(8, 16_000)
    (True, False, True)
    """
    return key % max(1, events // first) == 0
