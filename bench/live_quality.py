"""The same lists live: a recorded stream through Apache Kafka and two workers, and the same cases evaluated with the delay measured there.

Rows go out at a steady rate, in the protocol's order. Before a case's row goes, its user asks for a list on `requests`, once all earlier
rows of that user are in (`after_event_id`); the row goes when the answer is there. A worker's now is the time of the newest event
(`ListMaker.stream_time`), as nobody tells it the case's, so the evaluation beside it takes the same (`Evaluation.as_live`).

How late lists know what others learned is watched in both workers: rows sent less uses counted there (`headwater_known_uses`), and less
rows whose examples are in the weights there (`headwater_ranker_examples`). By Little's law its mean is the delay in events.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.command import _broker
from bench.live_workers import EXAMPLES, USES, WORKERS, Client, Workers, watched
from engine.assess import Assessment, Listed, assess, differences, line_of
from engine.bootstrap import rounded
from engine.dataset import Dataset, Row, read
from engine.errors import HeadwaterError
from engine.evaluate import Evaluation
from engine.generation import Generation
from engine.learning import Delay, Delays
from engine.protocol import WARM, Ask, operations, stream
from engine.registry import Registry
from engine.vectors import catalogue_vectors
from streams import replay
from streams.arguments import folder_of
from streams.demo import generation_for
from streams.evaluation import writing
from streams.generations import activate
from streams.processes import Children

SHARE, RATE, CASES = 1.0, 120.0, 6_000
"""The default: all of ifdb-played in five minutes, and as many cases as `headwater evaluate` asks."""
DEPTH = 10


def examples_of(data: Dataset, rows: Sequence[Row]) -> NDArray[np.int64]:
    """(R + 1,) how many examples the first rows make: of a user with earlier ones, about an item that is new to the user and was open."""
    used: set[int] = set()
    seen: dict[str, set[int]] = {}
    made = [0]
    for row in rows:
        own, since = seen.setdefault(row.user, set()), data.available_from[row.item]
        is_open = row.item in used or since is None or since <= row.time
        made.append(made[-1] + (bool(own) and row.item not in own and is_open))
        used.add(row.item)
        own.add(row.item)
    return np.array(made)


def live(workers: Workers, data: Dataset, rate: float, wanted: int) -> tuple[dict[str, Listed], dict[str, Any]]:
    """Send the stream and ask its cases: their lists, and what was measured."""
    rows = stream(data)
    client = Client(workers.settings, data.name)
    lists: dict[str, Listed] = {}
    late = 0.0
    with watched(workers, client) as looks:
        began = time.perf_counter()
        for step in operations(rows, "next", wanted):
            if isinstance(step, Ask):
                _sleep_until(began + client.sent / rate)
                lists[step.case.id] = Listed(client.ask(step.case, DEPTH))
            else:
                due = began + client.sent / rate
                _sleep_until(due)
                late = max(late, time.perf_counter() - due)
                client.send(step.events[0])
                if client.sent % 5_000 == 0:
                    _say(f"  {client.sent:,} of {len(rows):,} events, {len(lists):,} lists, {time.perf_counter() - began:.0f} s")
        seconds = time.perf_counter() - began
        client.close()
    figures = workers.settled(len(rows))
    steady = [look for look in looks if WARM * len(rows) < look.sent < len(rows)]  # while cases are asked
    per_s = (steady[-1].sent - steady[0].sent) / (steady[-1].at - steady[0].at)
    made, learned = examples_of(data, rows), [int(one[EXAMPLES]) for one in figures]
    kept = made * (min(learned) / max(1, made[-1]))  # a burst may go beyond the limit of examples
    uses = np.array([look.sent - look.uses for look in steady])
    weights = np.array([look.sent - int(np.searchsorted(kept, look.examples)) for look in steady])

    def waited(kind: str) -> float:
        """Mean wait (s) of an item's statistics for being published."""
        name = "headwater_item_stats_wait_seconds"
        total, count = (sum(one.get(f'{name}_{part}{{kind="{kind}"}}', 0.0) for one in figures) for part in ("sum", "count"))
        return total / max(1.0, count)

    counts = float(uses.mean())
    neighbours = counts + (waited("neighbours") - waited("counts")) * per_s
    delays = {"counts": counts, "neighbours": neighbours, "weights": float(weights.mean())}
    measured = {
        "events": len(rows),
        "seconds": round(seconds, 1),
        "events_per_s": round(per_s, 1),
        "late_s": round(late, 3),
        "asked_again": client.again,
        "answer_ms": {name: round(float(np.quantile(client.waited, q)) * 1000, 1) for name, q in (("p50", 0.5), ("p99", 0.99))},
        "uses_counted": [int(one[USES]) for one in figures],
        "examples": {"expected": int(made[-1]), "learned": learned},
        "delay_events": {name: round(value, 1) for name, value in delays.items()},
        "delay_events_p95": {name: round(float(np.quantile(one, 0.95)), 1) for name, one in (("counts", uses), ("weights", weights))},
        "delay_s": {name: round(value / per_s, 3) for name, value in delays.items()},
    }
    return lists, measured


def offline(data: Dataset, vectors: Any, wanted: int, delays: Delays) -> tuple[dict[str, Listed], int]:
    """The lists that the evaluation makes for the same cases, and how many examples it learned."""
    run = Evaluation(data, vectors, delays=delays, first=len(data.rows), as_live=True)
    lists = {answer.case.id: Listed(answer.items[:DEPTH]) for answer in run.answers("next", wanted)}
    return lists, run.learned


def same(one: Mapping[str, Listed], other: Mapping[str, Listed]) -> dict[str, float]:
    """Shares of cases with the same first ten in the same order, with the same first, and of items that stand in both first tens."""
    pairs = [(a.items[:DEPTH], other[case].items[:DEPTH]) for case, a in one.items()]
    return {
        "equal": round(float(np.mean([a == b for a, b in pairs])), 4),
        "first_equal": round(float(np.mean([a[:1] == b[:1] for a, b in pairs])), 4),
        "overlap": round(float(np.mean([len(set(a) & set(b)) / max(1, len(a)) for a, b in pairs])), 4),
    }


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments ask for; the exit status: 1 where the interval of the difference leaves zero out."""
    parser = argparse.ArgumentParser(prog="python -m bench.live_quality", description=__doc__)
    parser.add_argument("dataset", nargs="?", default="ifdb-played", help="a data-set folder, or the name of one in data/")
    parser.add_argument("--share", type=float, default=SHARE, help="the first share of its events")
    parser.add_argument("--rate", type=float, default=RATE, help="events a second")
    parser.add_argument("--evaluate", type=int, default=CASES, help="cases, about")
    parser.add_argument("--broker", choices=("kafka", "embedded"), default="kafka")
    parser.add_argument("--registry", default="var/registry", help="where a generation of this catalogue is, or is exported to")
    parser.add_argument("--json", type=Path, default=Path("var/live-quality.json"), help="file for the figures")
    parser.add_argument("--keep", type=Path, help="folder for the lists of both, as `headwater evaluate --predictions` writes them")
    options = parser.parse_args(arguments)
    folder = folder_of(options.dataset)
    whole = read(folder)
    rows = stream(whole)
    data = replace(whole, rows=tuple(rows[: round(options.share * len(rows))]))
    report: dict[str, Any] = {
        "dataset": data.name,
        "share": options.share,
        "rate": options.rate,
        "workers": WORKERS,
        "broker": options.broker,
    }
    with ExitStack() as stack:
        children = stack.enter_context(Children())
        generation = _generation(options.registry, folder, whole, children)
        bootstrap = stack.enter_context(_broker(options.broker))
        if not bootstrap:
            return 1
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headwater-bench-live-", ignore_cleanup_errors=True)))
        stack.callback(children.stop)  # before their folder goes
        workers = Workers(bootstrap, options.registry, place, children)
        producer = replay.producer_of(workers.settings)
        replay.replay_items(data, producer, topic=workers.names.items)
        producer.close(timeout=20)
        activate(workers.settings, generation.id, by="bench", reason="measuring", at_ms=0)
        workers.start()
        _say(f"{len(data.rows):,} events of {data.name} at {options.rate:g}/s through {options.broker} and {WORKERS} workers")
        listed, report["live"] = live(workers, data, options.rate, options.evaluate)
    known = report["live"]["delay_events"]
    counts, weights = round(known["counts"]), round(known["weights"])
    option = f"{counts}events,{weights}events"
    _say(f"  evaluating with --learning-delay {option}")
    vectors = catalogue_vectors(generation, data.items, Path("var/cache"), threads=os.cpu_count() or 1)
    made, learned = offline(data, vectors, options.evaluate, Delays(Delay(events=counts), Delay(events=weights)))
    report["offline"] = {"learning_delay": option, "examples": learned}
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        for name, lists in (("live", listed), ("offline", made)):
            with writing(options.keep / f"{name}.jsonl.gz") as out:
                out.writelines(line_of(case, one.items) for case, one in lists.items()) if out else None
    sure = _compare(report, data, options.evaluate, listed, made)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(sure)


def _compare(report: dict[str, Any], data: Dataset, wanted: int, live_lists: Mapping[str, Listed], made: Mapping[str, Listed]) -> bool:
    """Judge both, note it in the report, and print it; whether they differ for sure."""
    ours: Assessment = assess(data, "next", live_lists, wanted=wanted)
    theirs = assess(data, "next", made, wanted=wanted)
    found = differences(theirs, ours)
    report["cases"] = len(ours.cases)
    report["NDCG@10"] = {"live": ours.figures["NDCG@10"], "offline": theirs.figures["NDCG@10"]}
    report["live_less_offline"] = {name: rounded(one) for name, one in found.items()}
    report["lists"] = same(live_lists, made)
    one, measured, alike = found["all"], report["live"], report["lists"]
    pace = f"{measured['seconds']} s ({measured['events_per_s']}/s, late by {measured['late_s']} s at most)"
    _say(f"  {measured['events']:,} events in {pace}; answers {measured['answer_ms']} ms, {measured['asked_again']} asked again")
    _say(f"  uses counted {measured['uses_counted']}, examples {measured['examples']} (offline {report['offline']['examples']})")
    for name, seconds in measured["delay_s"].items():
        _say(f"  {name} known after {seconds:.2f} s, {measured['delay_events'][name]:g} events")
    interval = f"{one.difference:+.4f} [{one.low:+.4f}, {one.high:+.4f}]"
    _say(f"  NDCG@10 live {one.other:.4f}, offline {one.one:.4f}: {interval}, {one.cases:,} cases of {one.users:,} users")
    _say(f"  same first ten {alike['equal']:.1%}, same first {alike['first_equal']:.1%}, {alike['overlap']:.1%} of items in both")
    return one.sure


def _generation(url: str, folder: Path, data: Dataset, children: Children) -> Generation:
    """The registry's generation of this catalogue; exported if there is none."""
    registry = Registry(url)
    if generation_for(registry, data.items) is None:
        _say(f"no generation for this catalogue in {url}: exporting one, about a minute")
        children.run("headwater export", ["export", "--catalogue", str(folder), "--registry", url], os.environ)
    manifest = generation_for(registry, data.items)
    if manifest is None:
        raise HeadwaterError("no_generation", f"none for this catalogue in {url}", "one that was just exported", "run `headwater export`")
    return Generation.open(registry.fetch(manifest.id))


def _sleep_until(due: float) -> None:
    while (left := due - time.perf_counter()) > 0:
        time.sleep(left)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
