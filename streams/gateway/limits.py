"""How often and how much a client may ask: token buckets and counts by address. Not who may ask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from streams.gateway.bounded import Bounded
from streams.gateway.problems import Refused

ADDRESSES = 10_000
"""Addresses remembered: 200 bytes each. One that was forgotten begins with a full bucket."""
BURST_S = 2.0
"""Seconds' worth of requests that may come at once."""


class Rate:
    """A token bucket per address: so many requests a second, and twice as many at once.

    >>> now = [0.0]
    >>> rate = Rate(1.0, lambda: now[0])
    >>> [rate.wait_s("a") for _ in range(3)], rate.wait_s("b")
    ([0.0, 0.0, 1.0], 0.0)
    >>> now[0] = 1.0
    >>> rate.wait_s("a")
    0.0
    """

    def __init__(self, per_s: float, clock: Callable[[], float]) -> None:
        self._per_s, self._clock = per_s, clock
        self._buckets = Bounded[tuple[float, float]](ADDRESSES)  # tokens, as of when

    def take(self, address: str) -> None:
        """Take one token.

        Raises:
            Refused: 429, there is none.
        """
        if wait_s := self.wait_s(address):
            expected = f"{self._per_s:g} requests a second of one address"
            raise Refused(429, "too_many_requests", "more", expected, "send fewer, or events in batches", retry_after_s=wait_s)

    def wait_s(self, address: str) -> float:
        """Take one token: 0, or the seconds until there is one."""
        if not self._per_s:
            return 0.0
        now, full = self._clock(), self._per_s * BURST_S
        tokens, at = self._buckets.peek(address) or (full, now)
        tokens = min(full, tokens + (now - at) * self._per_s)
        if tokens < 1:
            return (1 - tokens) / self._per_s
        self._buckets.put(address, (tokens - 1, now))
        return 0.0


class Places:
    """Streams that are open, in all and by address."""

    def __init__(self, most: int, most_each: int) -> None:
        self._most, self._most_each = most, most_each
        self._by_address: Counter[str] = Counter()
        self.taken = 0

    def take(self, address: str) -> None:
        """Take a place.

        Raises:
            Refused: 429, all are taken.
        """
        mine = self._by_address[address]
        if self.taken >= self._most or mine >= self._most_each:
            found = f"{mine} streams of {address}, {self.taken} in all"
            expected = f"at most {self._most_each} of one address, {self._most} in all"
            raise Refused(
                429, "too_many_streams", found, expected, "close streams that nobody watches, or raise the setting", retry_after_s=5
            )
        self._by_address[address] += 1
        self.taken += 1

    def leave(self, address: str) -> None:
        """Give a place back."""
        self.taken -= 1
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]
