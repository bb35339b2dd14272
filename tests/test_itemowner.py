"""The owner of items' rows: what it leaves half done when reading stops comes again whole, and counts once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from engine.item import ItemState
from engine.model import Model
from engine.pairs import Decay, Delta, packed, written
from streams import itemowner
from streams.engine_thread import EngineThread
from streams.itemowner import ItemOwner, row_key
from streams.metrics import Metrics

NOW_MS = 1_700_000_000_000


class World:
    """Rows in memory, and batches as the consumer gives them."""

    def __init__(self, *, reading: bool) -> None:
        self.rows: dict[bytes, ItemState] = {}
        self.reading = reading
        self.acknowledged: list[int] = []
        table: Any = SimpleNamespace(rows=lambda _: self)
        epochs: Any = SimpleNamespace(check=lambda *_: 1)
        nothing: Any = None
        model, engine, metrics = Model(), EngineThread(), Metrics()
        rest: Any = {"partitions": 1, "window": 15, "decay": Decay(), "topic": "_item_stats", "reading": lambda: self.reading}
        self.owner = ItemOwner(table, model, engine, nothing, metrics, epochs, **rest)

    def edit(self, key: bytes) -> ItemState:
        return self.rows.setdefault(key, ItemState())

    def batch(self, first: int, records: int) -> Any:
        """One event on item 1 in each record, at the offsets from `first` on."""
        encode = msgspec.msgpack.Encoder().encode
        values = [encode(written("events", 1, 0, packed([Delta(first + n, NOW_MS, 1, (2,))]))) for n in range(records)]
        made = [SimpleNamespace(value=value) for value in values]
        return SimpleNamespace(partition=0, lost=False, records=made, done=lambda: self.acknowledged.append(first))


def test_what_is_given_up_counts_once_when_it_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: after a batch was left half done none that follows it is begun, or its offsets would cover what was left out."""
    monkeypatch.setattr(itemowner, "LAST_S", -1.0)
    world = World(reading=True)

    async def run() -> None:
        two = [world.batch(0, 40), world.batch(40, 40)]
        handled = asyncio.ensure_future(world.owner.handle(two[0]))
        await asyncio.sleep(0)  # the first group is in
        world.reading = False
        await handled
        await world.owner.handle(two[1])
        assert 0 < world.rows[row_key(1)].count < 40
        assert world.acknowledged == []
        world.reading = True
        for batch in two:
            await world.owner.handle(batch)

    asyncio.run(run())
    assert world.rows[row_key(1)].count == 80
    assert world.acknowledged == [0, 40]


def test_a_record_that_no_worker_wrote_stops_nobody() -> None:
    """Rule: what is no batch of deltas is passed over, a null included, and those around it count."""
    world = World(reading=True)
    batch = world.batch(0, 3)
    torn = msgspec.msgpack.encode(msgspec.structs.replace(written("events", 1, 0, packed([Delta(9, NOW_MS, 1, (2,))])), items=b"123"))
    batch.records[1:1] = [SimpleNamespace(value=value) for value in (None, b"\xff\xff", b"", torn)]
    asyncio.run(world.owner.handle(batch))
    assert (world.rows[row_key(1)].count, world.acknowledged) == (3, [0])
