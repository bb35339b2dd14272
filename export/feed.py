"""Where a cycle's events and items come from: Kafka's topics, or a recorded data set. Not what is made of them (`export.slice`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Protocol

import msgspec
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from engine.dataset import Dataset, read
from engine.decode import decode_event, decode_item
from engine.errors import BadRecord, BrokerError
from engine.partition import hash64
from engine.protocol import in_order
from engine.records import Event, Item
from export.slice import Collector, People

POLL_MS = 200
AT_ONCE = 2_000
STALLED_S = 30.0
"""Without a record for so long the topic counts as not readable."""
Progress = Callable[[int, int], None]
EVENTS = "events"


class Span(msgspec.Struct, frozen=True):
    """Events to read, per partition from `begins` to before `ends`; `skipped`: older ones left out, as more than fit; `log`: which log."""

    begins: list[int]
    ends: list[int]
    skipped: int = 0
    log: str = ""

    @property
    def count(self) -> int:
        """Records at most: at some offsets there is none, such as the marks of transactions."""
        return sum(self.ends) - sum(self.begins)


class Feed(Protocol):
    """A source of items and events."""

    def items(self) -> list[Item]:
        """The catalogue as it stands."""
        ...

    def people(self) -> People:
        """What users want of us."""
        ...

    def span(self, after: Sequence[int], log: str, most: int) -> Span:
        """What there is after these offsets, which are of that log; the newest `most` of it."""
        ...

    def read(self, span: Span, into: Collector, progress: Progress) -> None:
        """Hand the events of a span over."""
        ...


def newest(begins: Sequence[int], ends: Sequence[int], most: int) -> tuple[list[int], int]:
    """Where to begin on each partition so that `most` records are left at most, in equal shares; and how many are skipped.

    >>> newest([0, 10], [90, 20], 50)
    ([45, 15], 50)
    """
    total = sum(ends) - sum(begins)
    if total <= most:
        return list(begins), 0
    kept = [(end - begin) * most // total for begin, end in zip(begins, ends, strict=True)]
    return [end - one for end, one in zip(ends, kept, strict=True)], total - sum(kept)


@dataclass
class Topics:
    """A feed from Kafka. Consumers are in no group, and nothing is committed: offsets stand with generations.

    Args:
        client: kafka-python's settings.
        events: full name of the topic; so `catalogue` and `users`.
        log: tells which log `events` is now: its offsets mean nothing in another one, made anew under the name.
        max_bytes: largest record that is looked into.
    """

    client: Mapping[str, Any]
    events: str
    catalogue: str
    users: str
    log: Callable[[], str]
    types: Mapping[str, float]
    max_bytes: int

    def items(self) -> list[Item]:
        """The catalogue as it stands; entries that can't be read are passed over: workers put them on `dead-letters`."""
        found: dict[str, Item] = {}
        for record in self._all(self.catalogue):
            try:
                item = decode_item(record.value, record.key)
            except BadRecord:
                continue
            if item is None:
                found.pop(record.key.decode(), None)
            else:
                found[item.item_id] = item
        return list(found.values())

    def people(self) -> People:
        """Erased users, those not to be learned from, and aliases."""
        silent: set[int] = set()
        alias: dict[int, int] = {}
        erased: dict[int, int] = {}
        for record in self._all(self.users):
            if record.value is None:
                continue  # it only removes attributes
            try:
                said = msgspec.json.decode(record.value, type=_Said)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            user = hash64((record.key or b"").decode(errors="replace"))
            (silent.discard if said.personalise else silent.add)(user)
            if said.erase:
                erased[user] = record.timestamp
            if said.alias_of is not None:
                alias[user] = hash64(said.alias_of)
        return People(frozenset(silent), alias, erased)

    def span(self, after: Sequence[int], log: str, most: int) -> Span:
        """What there is now."""
        now = self.log()
        with self._consumer() as consumer:
            places = _places(consumer, self.events)
            first, ends = consumer.beginning_offsets(places), consumer.end_offsets(places)
        known = [*after, *([0] * len(places))] if log == now else [0] * len(places)
        begins = [min(max(first[tp], known[n]), ends[tp]) for n, tp in enumerate(places)]
        begins, skipped = newest(begins, [ends[tp] for tp in places], most)
        return Span(begins, [ends[tp] for tp in places], skipped, now)

    def read(self, span: Span, into: Collector, progress: Progress) -> None:
        """Hand the events of a span over, partition by partition as they come; offsets without a record are counted as missing."""
        wanted = {n: (begin, end) for n, (begin, end) in enumerate(zip(span.begins, span.ends, strict=True)) if begin < end}
        done = 0
        for done, record in enumerate(self._records(self.events, wanted), 1):
            try:
                into.add(decode_event(record.value, record.key, types=self.types, max_bytes=self.max_bytes))
            except BadRecord:
                into.drop("unreadable")
            if done % AT_ONCE == 0:
                progress(done, span.count)
        into.drop("missing", span.count - done)
        progress(span.count, span.count)

    def _all(self, topic: str) -> Iterator[Any]:
        with self._consumer() as consumer:
            places = _places(consumer, topic)
            first, ends = consumer.beginning_offsets(places), consumer.end_offsets(places)
        wanted = {tp.partition: (first[tp], ends[tp]) for tp in places if first[tp] < ends[tp]}
        yield from self._records(topic, wanted)

    def _records(self, topic: str, wanted: Mapping[int, tuple[int, int]]) -> Iterator[Any]:
        """Records of the ranges, in order within a partition; what the broker deletes meanwhile is passed over."""
        left = {TopicPartition(topic, partition): end for partition, (_, end) in wanted.items()}
        if not left:
            return
        with self._consumer() as consumer:
            consumer.assign(list(left))
            for tp in left:
                consumer.seek(tp, wanted[tp.partition][0])
            came = monotonic()
            while left:
                polled = consumer.poll(timeout_ms=POLL_MS, max_records=AT_ONCE)
                for tp, records in polled.items():
                    begin, end = wanted[tp.partition]
                    yield from (record for record in records if begin <= record.offset < end)
                for tp in [tp for tp, end in left.items() if consumer.position(tp) >= end]:  # beyond gaps too
                    del left[tp]
                    consumer.pause(tp)
                came = monotonic() if polled else came
                if left and monotonic() - came > STALLED_S:
                    where = ", ".join(f"[{tp.partition}] to {end}" for tp, end in left.items())
                    raise BrokerError(
                        "stalled", f"nothing from {topic} for {STALLED_S:g} s; left {where}", "records", "look at the broker", True
                    )

    def _consumer(self) -> _Open:
        return _Open(self.client)


class _Said(msgspec.Struct):
    """What of a record of `users` matters here; `streams.people` checks the rest."""

    erase: bool = False
    personalise: bool = True
    alias_of: str | None = None


class _Open:
    """A consumer that is closed in the end, and whose errors are ours."""

    def __init__(self, client: Mapping[str, Any]) -> None:
        self._client = client

    def __enter__(self) -> Any:
        try:
            # earliest: where retention overtakes us we go on with the oldest that is left, not with what comes next
            self._consumer = KafkaConsumer(**self._client, group_id=None, enable_auto_commit=False, auto_offset_reset="earliest")
        except KafkaError as error:
            raise _broken(error) from error
        return self._consumer

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._consumer.close()
        if isinstance(error, KafkaError):
            raise _broken(error) from error


def _places(consumer: Any, topic: str) -> list[TopicPartition]:
    numbers = consumer.partitions_for_topic(topic)
    if not numbers:
        raise BrokerError("missing_topic", f"no topic {topic}", "the installation's topics", "run `headwater topics create`")
    return [TopicPartition(topic, n) for n in sorted(numbers)]


def _broken(error: KafkaError) -> BrokerError:
    remedy = "check HEADWATER_BROKER, the network, and the user's rights"
    return BrokerError(type(error).__name__, str(error), "a broker that answers", remedy, retryable=bool(error.retriable))


@dataclass
class Recorded:
    """A feed from a data set: its first `share` of events, as one partition."""

    dataset: Dataset
    share: float = 1.0
    most: int | None = None
    _rows: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        rows = in_order(self.dataset.rows)
        self._rows = rows[: int(len(rows) * self.share)][: self.most]

    @classmethod
    def open(cls, folder: Any, share: float, most: int | None) -> Recorded:
        """Read a data-set folder.

        Raises:
            DatasetError: it is none.
        """
        return cls(read(folder), share, most)

    def items(self) -> list[Item]:
        """The catalogue."""
        return list(self.dataset.items)

    def people(self) -> People:
        """Nobody has said anything."""
        return People()

    def span(self, after: Sequence[int], log: str, most: int) -> Span:
        """What there is."""
        own = f"dataset:{self.dataset.name}"
        begins, skipped = newest([min([*after, 0][0], len(self._rows)) if log == own else 0], [len(self._rows)], most)
        return Span(begins, [len(self._rows)], skipped, own)

    def read(self, span: Span, into: Collector, progress: Progress) -> None:
        """Hand the events over."""
        for row in self._rows[span.begins[0] : span.ends[0]]:
            into.add(Event(str(row.row), row.type, row.user, round(row.time * 1000), row.item_id, row.session or None, row.rating))
        progress(span.count, span.count)
