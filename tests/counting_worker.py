"""A worker that counts each user's events, for the fault tests: two source topics, two tables, one list per changed user and batch."""

import asyncio
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from streams.batch import BatchApp, run_app
from streams.lane import Batch
from streams.outbox import Outbox


class Row(msgspec.Struct, array_like=True):
    """A user's count, the last applied offset per source, the sequence number of the last event, and ballast."""

    count: int = 0
    positions: dict[str, int] = {}
    last: int = -1
    ballast: bytes = b""


def build(config: dict[str, Any]) -> BatchApp:
    """Make the app from the configuration that the test gave."""
    prefix = config["prefix"]
    outbox = Outbox({"bootstrap.servers": config["bootstrap"], **config.get("outbox", {})})
    app = BatchApp(
        config["group"],
        bootstrap=config["bootstrap"],
        outbox=outbox,
        datadir=config["datadir"],
        partitions=4,
        prefix=prefix,
        commit_interval_s=config.get("commit_interval_s", 0.5),
        session_timeout_s=6.0,
        max_dirty=config.get("max_dirty", 20_000),
    )
    row = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(Row)
    max_rows = config.get("max_rows", 500)
    users = app.checkpoint_table("users", new=Row, encode=row[0].encode, decode=row[1].decode, max_rows=max_rows)
    totals = app.checkpoint_table("totals", new=Row, encode=row[0].encode, decode=row[1].decode)
    out, ballast = f"{prefix}lists", b"." * config.get("ballast", 200)
    late: set[asyncio.Task[None]] = set()

    async def publish(batch: Batch, lists: Sequence[tuple[bytes, bytes]]) -> None:
        await asyncio.sleep(0.01)  # as scoring in another thread does
        outbox.publish_many(out, lists, batch.partition)
        batch.done()

    async def count(batch: Batch) -> None:
        rows, source = users.rows(batch.partition), f"{batch.topic}:{batch.partition}"
        changed: dict[bytes, bytes] = {}
        sums = totals.rows(batch.partition).edit(b"all")
        before = sums.positions.get(source, -1)
        for record in batch.records:
            if record.value == b"poison":
                raise ValueError("poison")
            state = rows.edit(record.key)
            if record.offset > state.positions.get(source, -1):
                state.positions = {**state.positions, source: record.offset}
                state.count += 1
                state.last = int(record.value[:20])
                state.ballast = ballast
            sums.count += record.offset > before
            changed[record.key] = b"%020d" % state.last
        sums.positions = {**sums.positions, source: max(before, batch.last)}
        rows.set_meta(b"epoch", b"1")
        task = asyncio.create_task(publish(batch, list(changed.items())))
        late.add(task)
        task.add_done_callback(late.discard)

    for topic in config["topics"]:
        app.batch_agent(topic, count)
    return app


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    sys.exit(run_app(build(json.loads(os.environ["COUNTING_WORKER"]))))
