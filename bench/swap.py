"""A swap under load: freshness before, during and after, how long the switch and a rollback take, and whether every event got a list."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.load import FETCH_WAIT_MS, MOCK_FETCH_WAIT_MS, Load, Reader, Run
from bench.measure import WARM_RATE, WARM_S
from bench.subject import Subject
from streams import security
from streams.generations import Board

RATE = 300.0
BEFORE_S, AFTER_S = 20.0, 10.0
WAIT_S = 60.0
Say = Callable[[str], None]


def swap(subject: Subject, items: Sequence[str], first: str, second: str, say: Say) -> dict[str, Any]:
    """Measure a switch from `first`, which serves, to `second`, and the way back, under 300 events/s."""
    config = security.librdkafka(subject.settings)
    reader = Reader(config, subject.names.recommendations, MOCK_FETCH_WAIT_MS if subject.is_mock else FETCH_WAIT_MS)
    load = Load(config, subject.names.events, items, seed=2)
    load.run(WARM_RATE, WARM_S, reader)
    found: dict[str, Any] = {}
    for name, wanted in (("swap", second), ("rollback", first)):
        run, started, took = _during(subject, load, reader, wanted)
        ms = np.array(run.freshness) * 1000
        at = np.arange(len(ms)) / RATE
        before, while_ = ms[at < started], ms[(at >= started) & (at < started + took + 1.0)]
        figures: dict[str, Any] = {
            "switch_s": round(took, 2),
            "before_p99_ms": round(float(np.percentile(before, 99)), 2),
            "during_p99_ms": round(float(np.percentile(while_, 99)), 2),
            "during_max_ms": round(float(while_.max()), 2),
            "events_during": len(while_),
            "events_without_list": int(np.isinf(ms).sum()),
            "lists_by_generation": _generations(reader),
        }
        found[name] = figures
        say(
            f"  {name} to {wanted}: {took:.2f} s from the announcement to the last worker; p99 {figures['before_p99_ms']:.1f} ms before, "
            f"{figures['during_p99_ms']:.1f} during (x {figures['during_p99_ms'] / figures['before_p99_ms']:.2f}, "
            f"at most {figures['during_max_ms']:.0f}), {figures['events_without_list']} of {len(ms)} events without a list"
        )
    reader.close()
    return found


def _during(subject: Subject, load: Load, reader: Reader, wanted: str) -> tuple[Run, float, float]:
    """Run the load, and switch in the middle of it: when, in seconds of the run, and how long it took."""
    board = Board(subject.settings)
    times: list[float] = []
    began = time.perf_counter()

    def switch() -> None:
        time.sleep(max(0.0, began + BEFORE_S - time.perf_counter()))
        times.append(time.perf_counter() - began)
        board.activate(wanted, by="bench", reason="measuring", at_ms=time.time_ns() // 1_000_000, force=True)
        until = time.monotonic() + WAIT_S
        while subject.generation() != wanted and time.monotonic() < until:
            time.sleep(0.02)
        times.append(time.perf_counter() - began)

    thread = threading.Thread(target=switch)
    thread.start()
    run = load.run(RATE, BEFORE_S + AFTER_S, reader)
    thread.join()
    if subject.generation() != wanted:
        raise RuntimeError(f"{wanted} does not serve after {WAIT_S:g} s: the worker's own lines say why")
    return run, times[0], times[1] - times[0]


def _generations(reader: Reader) -> dict[str, int]:
    """How many lists name which generation."""
    counts: dict[str, int] = {}
    for _, value in list(reader.seen):
        name = value.partition(b'"generation":"')[2].partition(b'"')[0].decode()
        counts[name] = counts.get(name, 0) + 1
    return counts
