"""What a batch is, and the lane that it comes and is acknowledged in. Not how it is fetched (`streams.consumer`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from engine.errors import HeadwaterError

Handler = Callable[["Batch"], Awaitable[None]]


class OrderError(HeadwaterError):
    """A batch came to its handler whose predecessor did not: going on would lose records."""


class Lane:
    """The batches of one partition between two seeks, in order; closed by the next seek or when the partition goes."""

    __slots__ = ("accepted", "base", "batches", "closed", "sent")

    def __init__(self) -> None:
        self.batches: deque[Batch] = deque()  # delivered and not yet committed
        self.sent = 0
        self.accepted = 0
        self.closed = False
        self.base: int | None = None  # where reading goes on after a crash now: known to the broker, or equal to it

    def committable(self) -> int | None:
        """Give the offset after the last record up to which all are done; None: the first is not."""
        offset = None
        for batch in self.batches:
            if not batch.is_done:
                break
            offset = batch.last + 1
        return offset

    def commit(self, offset: int) -> None:
        """Forget what the broker now knows to be done."""
        self.base = offset
        while self.batches and self.batches[0].last < offset:
            self.batches.popleft()

    def close(self) -> None:
        self.closed = True
        self.batches.clear()


class Batch:
    """Up to `batch_size` consecutive records of one partition, as aiokafka gave them (`key`, `value`, `offset`, `timestamp`, `headers`).

    The handler changes rows, publishes or hands on, and sees to it that `done` is called, by itself or later by whoever finishes the work:
    from then on the records may be committed. Rows of the partition may be changed until then, not afterwards.
    """

    __slots__ = ("_lane", "_number", "is_done", "last", "partition", "records", "topic")

    def __init__(self, topic: str, partition: int, records: Sequence[Any], lane: Lane) -> None:
        self.topic = topic
        self.partition = partition
        self.records = records
        self.last: int = records[-1].offset
        self.is_done = False
        self._lane = lane
        self._number = lane.sent

    @property
    def accepted(self) -> bool:
        """Whether its handler was given it."""
        return self._number < self._lane.accepted

    @property
    def lost(self) -> bool:
        """Whether the partition went away or was read anew: the records come again, here or elsewhere."""
        return self._lane.closed

    def done(self) -> None:
        """Acknowledge the records; in any order, and again without harm."""
        self.is_done = True

    def accept(self) -> bool:
        """Take the next batch of its lane; False: the lane is closed.

        Raises:
            OrderError: an earlier batch of the lane never arrived.
        """
        lane = self._lane
        if lane.closed:
            return False
        if self._number != lane.accepted:
            raise OrderError(
                "batch_missing",
                f"batch {self._number} of {self.topic}[{self.partition}], up to offset {self.last}",
                f"batch {lane.accepted}",
                "start the worker again: it reads from the committed offset; report this, Faust dropped a batch without a seek",
                retryable=True,
            )
        lane.accepted += 1
        return True
