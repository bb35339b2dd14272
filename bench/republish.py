"""What it takes to take an item out of standing lists: notes of lists gone through per second, and the time until the last list is out.

`python -m bench.republish scan` works in this process, on RocksDB; `live` starts a worker on Apache Kafka (KAFKA_HOME) with 20,000 users'
lists of online-retail, sends events at a steady rate, and removes the item that most lists hold.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import rocksdict
from confluent_kafka import Producer

from bench.command import _broker
from bench.load import Load, Reader
from bench.measure import prepare
from bench.subject import Subject
from engine.dataset import read
from engine.listed import Listed, encode_listed, name_of
from engine.model import Model
from engine.partition import item_key
from engine.records import Item
from engine.rules import compile_rules
from engine.user import UserState, decode_user, encode_user
from streams import security
from streams.metrics import Metrics
from streams.republisher import Republisher
from streams.table import Rows
from streams.withdrawals import ITEMS, RULES, Place, Withdrawals

ROOT = Path(__file__).resolve().parent.parent
USERS, RATE, SECONDS, AT_S = 20_000, 100.0, 60.0, 15.0
ITEM_COUNT, K, STORED_AT_ONCE = 50_000, 10, 400_000


def scan(count: int, partitions: int = 8) -> None:
    """Go through the notes of `count` lists on a quiet loop, with a million bytes of nothing else to do."""
    rng = np.random.default_rng(0)
    model, metrics = Model(), Metrics()
    withdrawals = Withdrawals(model.catalogue, {ITEMS: 1, RULES: 2})
    keys = np.empty(ITEM_COUNT, np.uint64)
    for n in range(ITEM_COUNT):
        keys[n] = item_key(f"i{n}")
        model.catalogue.put(Item(f"i{n}", "any"))
    with tempfile.TemporaryDirectory(prefix="headwater-bench-scan-") as folder:
        owned = [_rows(Path(folder) / str(p), p) for p in range(partitions)]
        began = time.perf_counter()
        for n in range(count):
            listed = Listed(2**50, 1_000_000, tuple(keys[rng.integers(1, ITEM_COUNT, K)].tolist()) if n % 1_000 else (int(keys[0]),) * K)
            owned[n % partitions].set_note(name_of("home", f"user-{n:08}"), encode_listed(listed))
            if n % STORED_AT_ONCE == STORED_AT_ONCE - 1 or n == count - 1:
                for rows in owned:
                    rows.take()
                    while records := rows.encoded(2_000):
                        rows.store(records, None)
                    rows.saved()
        print(f"{count:,} notes stored in {time.perf_counter() - began:.1f} s")
        asked: list[Any] = []
        maker: Any = SimpleNamespace(
            stream_time=lambda: 1_700_000_000_000, keep_time=lambda _: None, waiting=0, waiting_again=0, again=asked.append
        )
        users: Any = SimpleNamespace(owned=owned)
        republisher = Republisher(
            users, maker, model, withdrawals, metrics, rules=lambda: compile_rules(()), known=lambda: 0, renew_per_s=0.0
        )
        withdrawals.removed(int(keys[0]), "i0", Place(0, 7, round(time.time() * 1000)))
        model.catalogue.remove("i0")
        late: list[float] = []

        async def story() -> None:
            probe = asyncio.create_task(_probe(late))
            await asyncio.sleep(2.0)
            idle = list(late)
            late.clear()
            began, used = time.perf_counter(), time.process_time()
            await republisher.look()
            spent.extend((time.perf_counter() - began, time.process_time() - used))
            probe.cancel()
            p50, p99 = np.percentile(idle, [50, 99]) * 1e3
            print(f"a quiet loop wakes {p50:.2f} ms late at the median, {p99:.2f} at the 99th percentile")

        spent: list[float] = []
        asyncio.run(story())
        took, cpu = spent
        p50, p99, most = (*np.percentile(late, [50, 99]) * 1e3, max(late) * 1e3)
        print(
            f"gone through in {took:.1f} s, {count / took:,.0f}/s, with {cpu:.1f} s of processor time ({cpu / count * 1e6:.2f} us a list); "
            f"{len(asked):,} found; the loop woke {p50:.2f} ms late at the median, {p99:.2f} at the 99th percentile, {most:.1f} at most"
        )


def _rows(path: Path, partition: int) -> Rows[UserState]:
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    db = rocksdict.Rdict(str(path), options=options)
    return Rows("users", partition, db, new=UserState, encode=encode_user, decode=decode_user, limit=lambda: 1_000)


async def _probe(late: list[float]) -> None:
    """How much later than asked for this loop wakes somebody."""
    while True:
        began = time.perf_counter()
        await asyncio.sleep(0.002)
        late.append(time.perf_counter() - began - 0.002)


def live(bootstrap: str, renew: float) -> None:
    """Remove an item under load, while so many lists a second may be renewed."""
    data = read(ROOT / "data" / "online-retail")
    items = [row.item_id for row in data.rows]
    subject = Subject(bootstrap, "var/bench-no-registry", settings={"HEADWATER_RENEW_LISTS_PER_S": str(renew)})
    prepare(subject, data)
    config = security.librdkafka(subject.settings)
    with subject:
        reader = Reader(config, subject.names.recommendations)
        producer = Producer({**config, "acks": "all", "partitioner": "murmur2_random"})
        rng, now = np.random.default_rng(1), round(time.time() * 1000)
        began = time.perf_counter()
        for n in range(USERS):
            event = {"event_id": f"e{n}", "type": "click", "user_id": f"u{n}", "item_id": items[rng.integers(len(items))], "timestamp": now}
            producer.produce(subject.names.events, msgspec.json.encode(event), f"u{n}".encode())
            producer.poll(0)
        producer.flush(60)
        while subject.applied() < USERS or subject.counter("headwater_pending_users"):
            time.sleep(0.5)
        time.sleep(2)
        print(f"{USERS:,} users' lists after {time.perf_counter() - began:.0f} s")
        newest: dict[str, list[str]] = {}
        for _, value in reader.seen:
            found = msgspec.json.decode(value)
            newest[found["user_id"]] = [one["item_id"] for one in found["items"]]
        ((name, held),) = Counter(item for listed in newest.values() for item in set(listed)).most_common(1)
        load = Load(config, subject.names.events, items, seed=3)
        removed: list[float] = []

        def remove() -> None:
            time.sleep(AT_S)
            removed.append(time.perf_counter())
            producer.produce(subject.names.items, None, name.encode())
            producer.flush(10)

        thread = threading.Thread(target=remove)
        thread.start()
        started, used = time.perf_counter(), subject.cpu_s()
        run = load.run(RATE, SECONDS, reader)
        thread.join()
        ms, at = np.array(run.freshness) * 1000, np.arange(len(run.freshness)) / RATE
        again = [at for at, value in reader.seen if b'"trigger":{"kind":"item_removed"' in value]
        late = np.array(again) - removed[0]
        over = removed[0] - started + float(late.max())
        before, during = ms[at < removed[0] - started], ms[(at >= removed[0] - started) & (at < over)]
        rate = len(again) / float(late.max() - late.min())
        print(f"{name} stood in {held:,} of {len(newest):,} lists")
        print(f"{len(again):,} made again, the median after {np.median(late):.1f} s, the last after {late.max():.1f} s ({rate:,.0f}/s)")
        for what, found in (("before", before), ("while they are made again", during)):
            p50, p99 = np.percentile(found, [50, 99])
            print(f"freshness at {RATE:g} events/s {what}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, of {len(found):,} events")
        scanned = subject.counter("headwater_standing_scan_seconds")
        print(f"processor time of the worker: {subject.cpu_s() - used:.1f} s in {SECONDS:g} s; notes gone through in {scanned:.2f} s")
        reader.close()


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.republish", description=__doc__)
    parser.add_argument("what", choices=("scan", "live"))
    parser.add_argument("--lists", type=int, default=1_000_000, help="scan: notes of lists")
    parser.add_argument("--renew", type=float, default=0.0, help="live: HEADWATER_RENEW_LISTS_PER_S")
    options = parser.parse_args()
    if options.what == "scan":
        scan(options.lists)
        return 0
    with _broker("kafka") as bootstrap:
        if bootstrap:
            live(bootstrap, options.renew)
    return 0


if __name__ == "__main__":
    sys.exit(main())
