"""Batches are handed over in order, acknowledged in any order, and committed without a hole."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import ConsumerStoppedError
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from streams.batch import QUIET_LOGGERS, BatchApp
from streams.consumer import BatchConsumer, Positions, Precedence, _round_robin
from streams.lane import Batch, Lane, OrderError
from streams.outbox import Outbox


def batches(lane: Lane, sizes: list[int]) -> list[Batch]:
    """Deliver batches of these sizes."""
    made, offset = [], 0
    for size in sizes:
        batch = Batch("events", 0, [SimpleNamespace(offset=offset + number) for number in range(size)], lane)
        lane.sent += 1
        lane.batches.append(batch)
        made.append(batch)
        offset += size
    return made


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_commit_never_passes_a_hole(sizes: list[int], random: Any) -> None:
    """However the acknowledgements come, the offset to commit stands before the first batch that is not done."""
    lane = Lane()
    made = batches(lane, sizes)
    order = list(made)
    random.shuffle(order)
    for batch in order:
        batch.done()
        batch.done()  # again without harm
        ahead = [later for later in made if not later.is_done]
        first = ahead[0].last + 1 - len(ahead[0].records) if ahead else sum(sizes)
        assert (lane.committable() or (lane.base or 0)) == first
        if random.random() < 0.5 and lane.committable() is not None:
            lane.commit(lane.committable() or 0)
            assert lane.base == first
    assert lane.committable() in (None, sum(sizes))


def test_order() -> None:
    """A batch whose predecessor never came is refused with an error; one of a closed lane is left out quietly."""
    lane = Lane()
    first, second, third = batches(lane, [2, 2, 2])
    assert first.accept()
    with pytest.raises(OrderError, match=r"batch 2 of events\[0\], up to offset 5"):
        third.accept()
    assert second.accept()
    assert (second.accepted, third.accepted, second.lost) == (True, False, False)
    lane.close()
    assert not third.accept()
    assert second.lost


def test_round_robin() -> None:
    """A partition with a backlog does not hold up the others; each keeps its order."""
    chunks = list(_round_robin({"a": range(5), "b": range(1), "c": range(4)}, 2))
    assert [(tp, list(part)) for tp, part in chunks] == [
        ("a", [0, 1]),
        ("b", [0]),
        ("c", [0, 1]),
        ("a", [2, 3]),
        ("c", [2, 3]),
        ("a", [4]),
    ]


@pytest.fixture
def app(tmp_path: Path) -> BatchApp:
    """An app that is never started."""
    outbox = Outbox({"bootstrap.servers": "127.0.0.1:1", "log_level": 0})
    return BatchApp("group", bootstrap="127.0.0.1:1, 127.0.0.1:2", outbox=outbox, datadir=tmp_path, partitions=4, prefix="p.")


def test_app(app: BatchApp) -> None:
    """The app declares no topic, keeps Faust's loggers quiet, and names changelogs as the contract says."""
    table = app.checkpoint_table("users", new=list, encode=bytes, decode=list)

    async def handler(batch: Batch) -> None: ...

    app.batch_agent("p.events", handler)
    app.finalize()
    assert [str(url) for url in app.conf.broker] == ["kafka://127.0.0.1:1", "kafka://127.0.0.1:2"]
    assert not app.conf.topic_allow_declare
    assert {logging.getLogger(name).getEffectiveLevel() for name in QUIET_LOGGERS} == {logging.WARNING}
    assert table.changelog_topic_name == "p._users-changelog"
    assert app.batch_topics == {"p.events"}
    options = dict(table.options or {})
    assert (options["driver"], options["block_cache_size"], options["write_buffer_size"]) == ("rocksdict", 4 << 20, 4 << 20)


def test_web_port_stays_closed(app: BatchApp) -> None:
    """None of the services that the app starts is a web server, whatever the settings say later (Faust's command line sets them)."""
    app.conf.web_enabled = True
    boot: Any = app.boot_strategy
    assert list(boot.web_server()) == []


def test_a_fetch_waits_for_work_but_not_for_ever(app: BatchApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """While lists wait to be made the next fetch waits with them, until they are made or a few milliseconds have passed."""

    async def run() -> None:
        asked = 0

        def for_two_looks() -> bool:
            nonlocal asked
            asked += 1
            return asked <= 2

        await app.calm()  # nothing is at work
        monkeypatch.setattr("streams.batch.CALM_S", 10.0)  # two looks may take longer than a few milliseconds on a busy machine
        app.busy = for_two_looks
        await app.calm()
        assert asked == 3
        monkeypatch.undo()
        app.busy = lambda: True
        await app.calm()

    asyncio.run(asyncio.wait_for(run(), 30))


def test_dirty_rows_hold_reading_back(app: BatchApp) -> None:
    """At `max_dirty` rows a checkpoint is asked for; at twice as many reading waits until it has taken them."""

    async def run() -> None:
        asked: list[bool] = []

        async def commit() -> None:
            asked.append(app.checkpoint.hurry)

        app.max_dirty = 10
        dirty = SimpleNamespace(dirty=9)
        app.checkpoint_tables = [dirty]  # type: ignore[list-item]
        app.consumer = SimpleNamespace(commit=commit)  # type: ignore[assignment]
        await app.admit()
        await asyncio.sleep(0)
        assert asked == []
        dirty.dirty = 10
        await app.admit()
        await asyncio.sleep(0)
        assert asked == [False]
        dirty.dirty = 20
        async with app.checkpoint._lock:  # noqa: SLF001 - a checkpoint under way
            waiting = asyncio.create_task(app.admit())
            await asyncio.sleep(0.02)
            assert not waiting.done()
            assert app.checkpoint.hurry
            dirty.dirty = 5
            await asyncio.wait_for(waiting, 1)
        assert not app.checkpoint.hurry

    asyncio.run(run())


def test_confirm_commits_what_is_known() -> None:
    """Ownership is proved with an offset that is committed already, or with the first one read: never one further."""

    async def run() -> None:
        sent: list[dict[Any, int]] = []

        async def commit(offsets: dict[Any, int]) -> bool:
            sent.append(offsets)
            return True

        lane = Lane()
        lane.base = 7
        for batch in batches(lane, [3]):
            batch.done()
        consumer: Any = SimpleNamespace(_lanes={("events", 0): lane}, _commit=commit)
        assert await BatchConsumer.confirm(consumer)
        assert sent == [{("events", 0): 7}]

    asyncio.run(run())


class Fetching:
    """What `getmany` needs around it: a fetch during which the test lets something happen."""

    getmany = BatchConsumer.getmany
    _rewind, _doubtful, _batch_message = BatchConsumer._rewind, BatchConsumer._doubtful, BatchConsumer._batch_message  # noqa: SLF001 - under test
    _give_precedence, _reads_on = BatchConsumer._give_precedence, BatchConsumer._reads_on  # noqa: SLF001 - as above
    close_gaps, wait_empty = BatchConsumer.close_gaps, BatchConsumer.wait_empty
    _undone, _close_lanes = BatchConsumer._undone, BatchConsumer._close_lanes  # noqa: SLF001 - as above

    def __init__(self, meanwhile: Any) -> None:
        recovery = SimpleNamespace(active_offsets={CHANGELOG: 41}, standby_offsets={})
        monitor = SimpleNamespace(track_tp_end_offset=lambda *_: None)
        self.app: Any = SimpleNamespace(
            consumer_generation_id=1,
            batch_size=2,
            batch_topics={"events"},
            monitor=monitor,
            tables=SimpleNamespace(recovery=recovery),
            precedence=None,
            until={},
            drain_s=1.0,
            failure=None,
            checkpoint_tables=(),
        )
        self._handling: set[Batch] = set()
        self._ended = True  # no checkpoint
        self.app.calm = self.calm
        self.flow_active, self.should_stop, self._epoch = True, False, 0
        self._buffered_partitions: set[TP] = set()
        self._read_offset: dict[TP, int | None] = {}
        self._lanes: dict[TP, Lane] = {}
        self._held: set[TP] = set()
        self._rounds, self._committed_offset = 0, dict[TP, int]()
        self.paused: set[TP] = set()
        self.waited = 0.0
        self.meanwhile = meanwhile

    def pause_partitions(self, tps: Any) -> None:
        """Upstream's."""
        self.paused |= set(tps)

    def resume_partitions(self, tps: Any) -> None:
        """Upstream's."""
        self.paused -= set(tps)

    def assignment(self) -> set[TP]:
        """All that is ours."""
        return {EVENTS, PAIRS}

    async def _commit(self, offsets: dict[TP, int]) -> bool:
        self.sought.append(offsets)
        return True

    async def calm(self) -> None:
        """Nothing else is at work."""
        self.sought: list[Any] = []

    async def _wait_next_records(self, timeout: float) -> tuple[dict[TP, list[Any]], None]:  # noqa: ASYNC109 - upstream's
        self.waited = timeout
        self.meanwhile(self)
        record = {"timestamp": 0, "timestamp_type": 0}
        return {tp: [SimpleNamespace(offset=n, **record) for n in range(42, 45)] for tp in (EVENTS, CHANGELOG)}, None

    def highwater(self, tp: TP) -> int:
        return 45

    def _is_changelog_tp(self, tp: TP) -> bool:
        return tp == CHANGELOG

    async def _seek_committed(self) -> None:
        self.sought.append("committed")

    async def seek_wait(self, offsets: dict[TP, int]) -> None:
        self.sought.append(offsets)

    def fetch(self) -> list[tuple[TP, Any]]:
        async def run() -> list[tuple[TP, Any]]:
            return [(tp, message.value) async for tp, message in self.getmany(1.0)]  # type: ignore[misc]

        return asyncio.run(run())


EVENTS, CHANGELOG, PAIRS = TP("events", 0), TP("_users-changelog", 0), TP("_pairs", 0)


def test_fetch() -> None:
    """Source records come as batches, changelog records as lists, in chunks and by turns."""
    fetched = Fetching(lambda _: None).fetch()
    assert [(tp, [record.offset for record in getattr(value, "records", value)]) for tp, value in fetched] == [
        (EVENTS, [42, 43]),
        (CHANGELOG, [42, 43]),
        (EVENTS, [44]),
        (CHANGELOG, [44]),
    ]
    assert isinstance(fetched[0][1], Batch)


@pytest.mark.parametrize("until,read", [(41, []), (42, []), (43, [42]), (44, [42, 43]), (45, [42, 43, 44]), (46, [42, 43, 44])])
def test_reading_ends_at_an_offset(until: int, read: list[int]) -> None:
    """Nothing from there on is delivered, wherever a fetch or a chunk is cut, and the partition is fetched no more; others are."""
    consumer = Fetching(lambda _: None)
    consumer.app.until = {EVENTS: until}
    fetched = consumer.fetch()
    assert [record.offset for tp, value in fetched if tp == EVENTS for record in value.records] == read
    assert len([tp for tp, _ in fetched if tp == CHANGELOG]) == 2
    assert consumer.paused == ({EVENTS} if until < 45 else set())


def test_later_topics_wait_for_what_is_undone() -> None:
    """While more records of another topic are undone than allowed, the later topic is not fetched; then it is, unless it has been read."""
    consumer = Fetching(lambda _: None)
    consumer.app.precedence = Precedence(frozenset({"events"}), {"_pairs": 3})
    lane = consumer._lanes[PAIRS] = Lane()  # noqa: SLF001 - as the consumer keeps it
    lane.base = 40  # of 45
    consumer.fetch()
    assert consumer.paused == {EVENTS}
    assert consumer.waited < 1.0
    lane.base = 42
    consumer.fetch()
    assert not consumer.paused
    assert consumer.waited == 1.0


def test_gaps_at_the_end_are_committed() -> None:
    """An offset without a record is passed only when a whole fetch after it has been handled and committed, and no seek came between."""
    consumer = Fetching(lambda _: None)
    consumer.sought = []
    lane = consumer._lanes[EVENTS] = Lane()  # noqa: SLF001 - as above

    def closed(*, rounds: int = 2, epoch: int = 0, position: int = 45) -> bool:
        consumer.sought.clear()
        consumer._rounds, consumer._epoch = rounds, epoch  # noqa: SLF001 - as above
        asyncio.run(consumer.close_gaps({EVENTS: 45}, Positions(0, 1, {EVENTS: position})))  # type: ignore[misc]
        return bool(consumer.sought)

    assert closed()
    assert lane.base == 45
    assert not closed(rounds=1)
    assert not closed(epoch=1)
    assert not closed(position=44)
    consumer.flow_active = False
    assert not closed()
    consumer.flow_active = True
    batches(lane, [1])
    assert not closed()


@pytest.mark.parametrize(
    "meanwhile",
    [lambda consumer: setattr(consumer, "flow_active", False), lambda consumer: setattr(consumer, "_epoch", 1)],
    ids=["rebalance begins", "lanes are closed"],
)
def test_no_gap_is_committed_once_a_rebalance_began(meanwhile: Any) -> None:
    """What came to an undone lane is not passed over because the lane went away while another partition's offset was committed."""
    consumer = Fetching(lambda _: None)
    consumer.sought, consumer._rounds = [], 2  # noqa: SLF001 - as above
    batches(consumer._lanes.setdefault(PAIRS, Lane()), [1])  # noqa: SLF001 - as above

    async def commit(offsets: dict[TP, int]) -> bool:
        consumer.sought.append(offsets)
        consumer._lanes.clear()  # noqa: SLF001 - as above
        meanwhile(consumer)
        return True

    consumer._commit = commit  # type: ignore[method-assign]  # noqa: SLF001 - as above
    ends = {EVENTS: 45, PAIRS: 45}
    asyncio.run(consumer.close_gaps(ends, Positions(0, 1, ends)))  # type: ignore[misc]
    assert consumer.sought == [{EVENTS: 45}]


def test_no_worker_ends_because_it_cannot_tell_what_expired(caplog: pytest.LogCaptureFixture) -> None:
    """A consumer that stops, or a broker that is away, while the first offsets are asked for: a line in the log."""

    async def earliest(*_: TP) -> dict[TP, int]:
        raise ConsumerStoppedError

    consumer: Any = SimpleNamespace(
        assignment=lambda: {EVENTS}, app=SimpleNamespace(batch_topics={"events"}), _committed_offset={EVENTS: 7}, earliest_offsets=earliest
    )
    with caplog.at_level("INFO"):
        asyncio.run(BatchConsumer._tell_expired(consumer))  # noqa: SLF001 - as above
    assert "expired_unknown reason=ConsumerStoppedError()" in caplog.text


def test_nothing_is_held_back_after_a_rebalance() -> None:
    """Partitions that waited for others are not read on while the tables are recovered: Faust resumes them afterwards."""
    consumer = Fetching(lambda _: None)
    consumer.app.precedence = Precedence(frozenset({"events"}), {"_pairs": 3})
    consumer._held = {EVENTS}  # noqa: SLF001 - as above
    asyncio.run(consumer.wait_empty())  # type: ignore[misc]
    consumer.paused = {EVENTS}
    consumer.fetch()
    assert consumer.paused == {EVENTS}


@pytest.mark.parametrize(
    "meanwhile",
    [
        lambda consumer: setattr(consumer, "flow_active", False),
        lambda consumer: setattr(consumer, "_epoch", 1),
        lambda consumer: setattr(consumer.app, "consumer_generation_id", 2),
    ],
    ids=["flow stopped", "seek", "rebalance"],
)
def test_doubtful_fetch_is_undone(meanwhile: Any) -> None:
    """What was fetched across a seek or a rebalance is read again: sources from the commit, changelogs from what recovery has seen."""
    consumer = Fetching(meanwhile)
    assert consumer.fetch() == []
    assert consumer.sought == ["committed", {CHANGELOG: 41}]
