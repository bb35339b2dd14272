"""A recorded data set sent to `items` and `events`, with its own event times. It reads no folder and ranks nothing."""

from __future__ import annotations

import bisect
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
from kafka import KafkaProducer
from kafka.errors import KafkaError

from engine.dataset import Dataset, Row, value_of
from engine.errors import BadSettings, BrokerError, Problem
from engine.protocol import in_order
from engine.records import EVENT_ID_CHARS, TIME_MIN_MS, Item
from engine.timestamps import ms_rfc3339
from streams import security, topics
from streams.settings import Settings

ROW_CHARS = 12
"""Room for a colon and a row's number in an event id."""
LATE_S = 120.0
"""How long the last records may take to be acknowledged: kafka-python's own limit for one record."""
Progress = Callable[[int, int], None]
"""Called with (records sent, records in all), once a record."""


class Producer(Protocol):
    """What is used of kafka-python's KafkaProducer: its default partitioner is the contract's murmur2 over the raw key."""

    def send(self, topic: str, value: bytes | None = None, key: bytes | None = None) -> Any: ...
    def flush(self, timeout: float | None = None) -> Any: ...


@dataclass(frozen=True, slots=True)
class Sent:
    """What a replay did; `first` and `last` are event times in s, None without events."""

    records: int
    seconds: float
    first: float | None = None
    last: float | None = None


def producer_of(settings: Settings) -> KafkaProducer:
    """A producer that waits for all in-sync replicas and tries again without writing twice.

    Raises:
        BrokerError: no broker answered.
    """
    config = {**security.kafka_python(settings), "acks": "all", "enable_idempotence": True, "linger_ms": 5}
    if topics.look(topics.admin(settings)).is_mock:
        config["api_version"] = security.MOCK_API_VERSION
    try:
        return KafkaProducer(**config, max_request_size=settings.max_record_bytes)
    except KafkaError as error:
        raise _broker_error(error) from error


def item_record(item: Item) -> tuple[bytes, bytes]:
    """Key and value of an item on `items`; dates as text, since an integer before March 1973 would be taken for seconds."""
    value = msgspec.to_builtins(item)
    for name in ("published_at", "available_from"):
        if value.get(name) is not None:
            value[name] = ms_rfc3339(value[name])
    return item.item_id.encode(), msgspec.json.encode(value)


def event_record(name: str, row: Row) -> tuple[bytes, bytes]:
    """Key and value of a row on `events`; its id is the data set's name and the row's number, so a second replay is dropped as a repeat.

    >>> key, value = event_record("small", Row(7, 1291191960.0, "u1", 0, "s", b"", "purchase", "i1", None, 4.25, 6.0))
    >>> key, value.decode()[:92]
    (b'u1', '{"event_id":"small:7","type":"purchase","user_id":"u1","item_id":"i1","timestamp":1291191960')
    """
    ms = round(row.time * 1000)
    fields: dict[str, Any] = {
        "event_id": f"{name[: EVENT_ID_CHARS - ROW_CHARS]}:{row.row}",
        "type": row.type,
        "user_id": row.user,
        "item_id": row.item_id,
        "timestamp": ms if ms >= TIME_MIN_MS else ms_rfc3339(ms),
    }
    if row.session:
        fields["session_id"] = row.session
    numbers = {"rating": row.rating, "price": row.price, "quantity": row.quantity}
    known = {k: v for k, v in numbers.items() if v is not None and math.isfinite(v)}
    value = value_of(row)
    if value is not None:
        fields["value"] = value
        del known["rating" if row.type == "rating" else "price"]
    if known:
        fields["context"] = known
    return row.user.encode(), msgspec.json.encode(fields)


def replay_items(dataset: Dataset, producer: Producer, progress: Progress | None = None, *, topic: str = "items") -> Sent:
    """Send the catalogue, and wait until it is acknowledged.

    Raises:
        BrokerError: a record was not taken.
    """
    started, outgoing = time.monotonic(), Outgoing(producer, topic, len(dataset.items), progress)
    for item in dataset.items:
        outgoing.send(*item_record(item))
    outgoing.finish()
    return Sent(len(dataset.items), time.monotonic() - started)


def replay_events(
    dataset: Dataset,
    producer: Producer,
    start: float | None = None,
    stop: float | None = None,
    speed: float = math.inf,
    progress: Progress | None = None,
    *,
    topic: str = "events",
) -> Sent:
    """Send the events with `start` <= time < `stop` (s) in the protocol's order, `speed` times as fast as they happened.

    Raises:
        BrokerError: a record was not taken.
    """
    return replay_rows(dataset.name, between(in_order(dataset.rows), start, stop), producer, speed, progress, topic=topic)


def replay_rows(
    name: str,
    rows: Sequence[Row],
    producer: Producer,
    speed: float = math.inf,
    progress: Progress | None = None,
    *,
    topic: str = "events",
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Sent:
    """Send rows as they stand; at a finite `speed` the n-th goes out (its time - the first's) / speed seconds after the first.

    Raises:
        BrokerError: a record was not taken.
    """
    started, outgoing = clock(), Outgoing(producer, topic, len(rows), progress)
    for row in rows:
        if math.isfinite(speed):
            wait = started + (row.time - rows[0].time) / speed - clock()
            if wait > 0:
                sleep(wait)
        outgoing.send(*event_record(name, row))
    outgoing.finish()
    return Sent(len(rows), clock() - started, rows[0].time if rows else None, rows[-1].time if rows else None)


def between(rows: Sequence[Row], start: float | None, stop: float | None) -> Sequence[Row]:
    """The rows, ordered by time, with `start` <= time < `stop` (s); None is no bound."""
    low = 0 if start is None else bisect.bisect_left(rows, start, key=lambda r: r.time)
    high = len(rows) if stop is None else bisect.bisect_left(rows, stop, key=lambda r: r.time)
    return rows[low:high]


def speed_of(text: str) -> float:
    """A speed from text.

    >>> speed_of("10x"), speed_of("0.5"), speed_of("max")
    (10.0, 0.5, inf)

    Raises:
        BadSettings: it is none, or not above 0.
    """
    if text == "max":
        return math.inf
    try:
        speed = float(text.removesuffix("x"))
    except ValueError:
        speed = math.nan
    if not 0 < speed < math.inf:
        raise BadSettings([Problem("speed", "bad_speed", repr(text), "a number above 0 with or without x, or max", "write --speed 10x")])
    return speed


def instant(text: str) -> float:
    """Seconds since the epoch of a date or date-time on the command line; UTC where no zone is named.

    >>> instant("2015"), instant("2015-01-01T01:00:00+01:00")
    (1420070400.0, 1420070400.0)

    Raises:
        BadSettings: it is neither.
    """
    try:
        when = datetime.fromisoformat(f"{text}-01-01" if text.isdecimal() and len(text) == len("2015") else text)
    except ValueError as error:
        problem = Problem("from/to", "bad_moment", repr(text), "a year, a date or an RFC 3339 time", "write --from 2015-06-01")
        raise BadSettings([problem]) from error
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


class Outgoing:
    """Records on their way to one topic: the first that is refused ends the replay, also when its answer comes late."""

    def __init__(self, producer: Producer, topic: str, total: int, progress: Progress | None) -> None:
        self._producer, self._topic, self._total, self._progress = producer, topic, total, progress
        self._sent = 0
        self._error: BaseException | None = None

    def send(self, key: bytes, value: bytes) -> None:
        self._check()
        try:
            self._producer.send(self._topic, value, key).add_errback(self._failed)
        except KafkaError as error:
            raise _broker_error(error) from error
        self._sent += 1
        if self._progress:
            self._progress(self._sent, self._total)

    def finish(self) -> None:
        try:
            self._producer.flush(LATE_S)
        except KafkaError as error:
            raise _broker_error(error) from error
        self._check()

    def _failed(self, error: BaseException) -> None:
        self._error = self._error or error

    def _check(self) -> None:
        if self._error:
            raise _broker_error(self._error) from self._error


def _broker_error(error: BaseException) -> BrokerError:
    text = f"{type(error).__name__}: {error}"
    remedy = "check HEADWATER_BROKER, and that `headwater topics check` passes; then send again: repeats are dropped"
    return BrokerError("replay", text, "every record acknowledged", remedy, retryable=bool(getattr(error, "retriable", False)))


def summary(what: str, sent: Iterable[tuple[str, Sent]]) -> str:
    """One line for people about a replay."""
    parts = [f"{s.records:,} {kind} in {s.seconds:.1f} s ({s.records / max(s.seconds, 1e-9):,.0f}/s)" for kind, s in sent]
    span = [f"{datetime.fromtimestamp(s.first, UTC):%F} to {datetime.fromtimestamp(s.last, UTC):%F}" for _, s in sent if s.first and s.last]
    return f"{what}: " + ", ".join(parts) + "".join(f"; events of {s}" for s in span)
