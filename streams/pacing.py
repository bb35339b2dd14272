"""Recorded rows sent at three paces: as fast as the worker follows, a list for each, a fixed rate. Not their form (`streams.replay`).

In the data people note many plays at a sitting, one row after the other. In life there are seconds between them, and a list after each;
in a replay there are not. `with_lists` therefore waits for a user's list before that user's next row goes out, and lets rows of others
pass meanwhile. Each user's rows stay in order; rows of different users change places only among the next `AHEAD`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

from engine.dataset import Row
from engine.errors import HeadwaterError
from streams.outside import Outside
from streams.quality import Quality
from streams.replay import event_record

FOLLOWS = 400
"""Events without a list up to which more are sent: some tenths of a second of a worker's time."""
AHEAD = 100
"""Rows among which one may be chosen: eleven days of ifdb-played, and two thirds of the rate that a far longer look would allow."""
STALLED_S = 30.0
"""Without a list for so long, something is wrong: a rebalance takes some seconds."""
READ_S = 0.05


class Pace:
    """Sends rows, reads lists between them, and counts the cases.

    Args:
        name: the data set's name, which event ids begin with.
        outside: the client.
        quality: is told of each row before it goes.
        watch: called between rows; raises when a child has ended.
        moved: called with the number of rows sent by this object so far.
    """

    def __init__(self, name: str, outside: Outside, quality: Quality, watch: Callable[[], None], moved: Callable[[int], None]) -> None:
        self._name, self._outside, self._quality, self._watch, self._moved = name, outside, quality, watch, moved
        self._sent = 0

    def as_it_follows(self, rows: Sequence[Row]) -> None:
        """As fast as the worker follows; a user's lists may be coalesced, and none is judged.

        Raises:
            HeadwaterError: lists stop coming.
        """
        for row in rows:
            while self._outside.uncovered >= FOLLOWS:
                self._read(READ_S)
            self._send(row)

    def with_lists(self, rows: Sequence[Row], until: float) -> Sequence[Row]:
        """A list for each event before the user's next one; gives the rows that were not sent by `until` (perf_counter, s).

        Raises:
            HeadwaterError: lists stop coming.
        """
        waiting = list(rows[:AHEAD])
        following = AHEAD
        while waiting and perf_counter() < until:
            free = next((n for n, row in enumerate(waiting) if not self._outside.busy(row.user)), None)
            if free is None or self._outside.uncovered >= FOLLOWS:
                self._read(READ_S)
                continue
            self._send(waiting.pop(free), judged=True)
            if following < len(rows):
                waiting.append(rows[following])
                following += 1
        return [*waiting, *rows[following:]]

    def at_rate(self, rows: Sequence[Row], per_s: float) -> None:
        """At a fixed rate, whatever the worker does; freshness is measured, lists are not judged: a sitting's rows come too fast for them.

        Raises:
            HeadwaterError: lists stop coming.
        """
        started = perf_counter()
        for n, row in enumerate(rows):
            due = started + n / per_s
            while (left := due - perf_counter()) > 0:
                self._read(left)
            self._read(0)
            self._send(row, measured=True)

    def drain(self) -> None:
        """Wait until each event has its list.

        Raises:
            HeadwaterError: lists stop coming.
        """
        while self._outside.uncovered:
            self._read(READ_S)

    def _send(self, row: Row, *, judged: bool = False, measured: bool = False) -> None:
        standing = self._outside.standing.get(row.user)
        self._quality.before(row, (standing.items if standing else ()) if judged else None)
        self._outside.send(row.user, event_record(self._name, row)[1], measured=measured)
        self._sent += 1
        self._moved(self._sent)

    def _read(self, wait_s: float) -> None:
        self._watch()
        self._outside.read(wait_s)
        if self._outside.uncovered and perf_counter() - self._outside.covered_at > STALLED_S:
            found = f"no list for {STALLED_S:g} s, {self._outside.uncovered} events wait for theirs"
            raise HeadwaterError("no_lists", found, "a list after each event", "read the worker's log", retryable=True)
