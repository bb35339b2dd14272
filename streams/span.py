"""The part of `events` that a backfill reads, and which of its events become examples. It reads nothing itself."""

from __future__ import annotations

from dataclasses import dataclass

from engine.learning import learns_from
from engine.partition import hash64
from streams.group import Group, Offsets


@dataclass(frozen=True)
class Span:
    """Per partition of `events`: the first record that is there (`first`), and where live workers go on (`until`, not included)."""

    first: Offsets
    until: Offsets

    def chosen(self, event_id: str, partition: int, offset: int) -> bool:
        """Whether an event becomes an example. It depends on the log alone: a backfill that was killed, or is shared, chooses the same.

        Partitions fill alike, so before the n-th event of one there were about n times their number in all.

        >>> from faust.types import TP
        >>> log = TP("events", 0)
        >>> span = Span({log: 1_000}, {log: 900_000})
        >>> span.chosen("e7", 0, 100_999), sum(span.chosen(f"e{n}", 0, 501_000) for n in range(1_000))
        (True, 197)
        """
        first = next((at for tp, at in self.first.items() if tp.partition == partition), 0)
        return learns_from(hash64(event_id), max(0, offset - first) * len(self.until))


def span_of(group: Group, topic: str, ms: int | None) -> Span:
    """The events produced before a time (ms), None: all that there are now.

    Raises:
        BrokerError: the broker does not tell.
        TopicError: it is the embedded one, which knows no times.
    """
    parts = group.parts([topic])
    return Span(group.first(parts), group.ends(parts) if ms is None else group.at(parts, ms))
