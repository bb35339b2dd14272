"""The checkpoint keeps its order of steps, and leaves nothing half done when a step fails."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import rocksdict
from faust.types import TP

from streams.checkpoint import Checkpoint
from streams.outbox import DeliveryError
from streams.table import OFFSET_KEY, Rows

EVENTS = TP("events", 0)


class Bench:
    """An outbox, a group and one partition of a table that write down what is asked of them, in order."""

    def __init__(self, folder: Path) -> None:
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        self.db = rocksdict.Rdict(str(folder / "db"), options=options)
        self.steps: list[str] = []
        self.offsets = {EVENTS: 10}
        self.confirmed = True
        self.late = False
        self.error: DeliveryError | None = None
        self.pending = 0
        self.sent: dict[bytes, bytes | None] = {}
        self.meanwhile: dict[str, Any] = {}
        self.rows: Rows[bytearray] = Rows("users", 0, self.db, new=bytearray, encode=bytes, decode=bytearray, limit=lambda: 1_000)
        table: Any = SimpleNamespace(owned=[self.rows], changelog_topic_name="_users-changelog", name="users", every=1, sources=())
        self.checkpoint = Checkpoint([table], self, slice_s=0.0, pause_s=0.0)  # type: ignore[arg-type]

    def _step(self, name: str) -> None:
        self.steps.append(name)
        if name in self.meanwhile:
            self.meanwhile.pop(name)()

    # the outbox

    def receipt(self) -> Any:
        return SimpleNamespace(offset=4, late=self.late)

    async def barrier(self) -> None:
        self._step("barrier")
        if self.error is not None:
            raise self.error

    async def ready(self) -> None: ...

    async def settle(self, receipts: Sequence[Any]) -> None:
        self._step("settle")

    def publish_many(self, topic: str, records: Sequence[tuple[bytes, bytes | None]], partition: int, *, receipt: Any) -> None:
        self._step("publish")
        assert (topic, partition) == ("_users-changelog", 0)
        self.sent.update(records)

    # the group

    def committable(self) -> Mapping[TP, int]:
        self._step("committable")
        return dict(self.offsets)

    async def confirm(self) -> bool:
        self._step("confirm")
        return self.confirmed

    async def commit_done(self, offsets: Mapping[TP, int]) -> bool:
        self._step(f"commit {dict(offsets)[EVENTS]}")
        return True

    def run(self) -> bool:
        return asyncio.run(self.checkpoint.run(self))

    def stored(self) -> dict[Any, Any]:
        return dict(self.db.items())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bench with two dirty rows."""
    bench = Bench(tmp_path)
    bench.rows.edit(b"a").extend(b"1")
    bench.rows.edit(b"b").extend(b"1")
    return bench


def test_order(bench: Bench) -> None:
    """Output is acknowledged, ownership proved, the changelog written, then RocksDB; the commit is last."""
    assert bench.run()
    assert bench.steps == ["committable", "barrier", "confirm", "publish", "settle", "commit 10"]
    assert bench.sent == {b"a": b"1", b"b": b"1"}
    assert bench.stored() == {b"a": b"1", b"b": b"1", OFFSET_KEY: b"4"}
    assert (bench.checkpoint.stats.runs, bench.checkpoint.stats.rows, bench.checkpoint.stats.changelog_bytes) == (1, 2, 2)


def test_what_is_held_back_is_published_before_rows_are_taken(bench: Bench) -> None:
    """A row that says an event is known is never written before what the event led to is acknowledged."""
    bench.checkpoint.before.append(lambda: bench.steps.append("held"))
    assert bench.run()
    assert bench.steps[:3] == ["held", "committable", "barrier"]


class Mapped(dict[str, Any]):
    """A table as Faust makes it: a mapping, equal to any other with the same content."""

    changelog_topic_name = "_users-changelog"

    def __init__(self, name: str, rows: Sequence[Any], every: int, sources: Sequence[str]) -> None:
        super().__init__()
        self.name, self.owned, self.every, self.sources = name, rows, every, sources


def test_large_rows_take_part_seldom(bench: Bench) -> None:
    """A table that takes part in one of two is left out together with the topics that lead to it; a whole one leaves out none."""
    tables: Any = [Mapped("other", [], 1, ["users"]), Mapped("users", [bench.rows], 2, ["events"])]
    checkpoint = Checkpoint(tables, bench, slice_s=0.0, pause_s=0.0)  # type: ignore[arg-type]
    other = TP("users", 0)
    bench.offsets = {EVENTS: 10, other: 5}
    committed: list[Any] = []

    async def commit_done(offsets: Mapping[TP, int]) -> bool:
        committed.append(dict(offsets))
        return True

    bench.commit_done = commit_done  # type: ignore[method-assign]
    for whole in (False, False, True):
        bench.rows.edit(b"a").extend(b"1")
        assert asyncio.run(checkpoint.run(bench, whole=whole))
    assert committed == [{other: 5}, {EVENTS: 10, other: 5}, {EVENTS: 10, other: 5}]
    assert checkpoint.stats.rows == 2 + 1


def test_later_changes_wait(bench: Bench) -> None:
    """What is changed or done after step 1 belongs to the next checkpoint."""

    def later() -> None:
        bench.rows.edit(b"a").extend(b"2")
        bench.offsets[EVENTS] = 20

    bench.meanwhile["barrier"] = later
    assert bench.run()
    assert (bench.sent[b"a"], bench.steps[-1], bench.rows.dirty) == (b"1", "commit 10", 1)
    assert bench.run()
    assert (bench.stored()[b"a"], bench.steps[-1]) == (b"12", "commit 20")


def test_nothing_to_do(bench: Bench) -> None:
    """Without dirty rows and done records nothing is asked of the broker."""
    assert bench.run()
    bench.steps.clear()
    bench.offsets.clear()
    assert bench.run()
    assert bench.steps == ["committable"]


@pytest.mark.parametrize("step", ["confirm", "publish", "settle"])
def test_partition_gone_meanwhile(bench: Bench, step: str) -> None:
    """A partition that goes away while the checkpoint is under way is neither stored nor committed."""
    bench.meanwhile[step] = bench.rows.close
    assert not bench.run()
    assert bench.stored() == {}
    assert not bench.steps[-1].startswith("commit 1")
    assert bench.checkpoint.stats.abandoned == 1


def test_refused_member_writes_nothing(bench: Bench) -> None:
    """A worker that the broker has given up writes no changelog, and its rows stay dirty."""
    bench.confirmed = False
    assert not bench.run()
    assert bench.sent == {}
    assert bench.rows.dirty == 2


def test_late_changelog_is_given_up(bench: Bench) -> None:
    """Rows that could not be sent in time are neither stored nor committed; they go out with the next checkpoint."""
    bench.late = True
    assert not bench.run()
    assert (bench.stored(), bench.steps[-1], bench.rows.dirty) == ({}, "settle", 2)
    bench.late = False
    assert bench.run()
    assert bench.stored()[b"a"] == b"1"


def test_delivery_error_commits_nothing(bench: Bench) -> None:
    """A record that was refused stops the checkpoint before anything becomes durable."""
    bench.error = DeliveryError("delivery_x", "a", "b", "c")
    with pytest.raises(DeliveryError):
        bench.run()
    assert (bench.sent, bench.stored(), bench.rows.dirty) == ({}, {}, 2)
    assert bench.steps == ["committable", "barrier"]


def test_one_at_a_time(bench: Bench) -> None:
    """A checkpoint asked for while one is under way begins after it."""

    async def both() -> None:
        await asyncio.gather(bench.checkpoint.run(bench), bench.checkpoint.run(bench))

    asyncio.run(both())
    assert bench.steps.index("commit 10") < len(bench.steps) - 1 - bench.steps[::-1].index("committable")
