"""The command `headwater demo`: broker, generation, worker, page, recorded events, a training cycle, a click, and a summary.

1. The embedded broker starts, topics are made.
2. The first generation for the catalogue is found in the registry, or exported there, and copied into the demo's own.
3. It is announced, the catalogue is sent, worker and gateway start.
4. The first half of the recorded events is replayed as fast as the worker follows.
5. A training cycle runs while further ones go out; what it makes is swapped in, if it is better.
6. The rest is replayed: as fast as the worker follows, then with a list after each, the last at a fixed rate.
7. A user clicks.
8. Summary.
All processes end with this one, however it ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from engine.dataset import Dataset, Row, read
from engine.errors import HeadwaterError
from engine.generation import read_manifest
from engine.manifest import CHECKPOINT, ITEMS, Manifest
from engine.protocol import stream
from engine.records import Item
from engine.registry import Registry
from engine.text import DEFAULT, item_text, text_hash
from streams import demo_words as words
from streams import replay, topics
from streams.demo_click import Click, click_of
from streams.demo_training import train, until_served
from streams.embedded import EmbeddedBroker
from streams.generations import activate
from streams.outside import Outside
from streams.pacing import Pace
from streams.processes import ROOT, Children, free_port, tail
from streams.quality import Quality
from streams.settings import load

DATA = ROOT / "data" / "ifdb-played"
PREFIX = "demo."
WORK = Path("var/demo")
KEPT = "var/registry"
"""Where the first generation is kept from one demo to the next."""
JUDGED = 0.2
"""The last share of the events, before which all is past: 7,216 of 36,080."""
LISTS_S = 30.0
"""How long that may take; what is left then goes as fast as the worker follows, so that the demo ends in time."""
LEAST_LISTS_S = 5.0
ENOUGH_S = 400.0
"""Seconds from the start at which lists for judging must be through: the installation takes 90 of 600, the rest 30."""
RATE_PER_S = 100.0
AT_RATE = 1_000
"""The last events, at a fixed rate: ten seconds, and ten events beyond p99."""
MEANWHILE = 500
"""Events that go out while it trains."""
EXAMPLES_PER_S = 100
"""Thirteen years pass in a minute, so learning is allowed more of the worker's time than the setting's default."""
EVERY = 100


def main(*, keep: bool, report: Path) -> int:
    """Run the demo; the exit status.

    Raises:
        HeadwaterError: something went wrong; all processes were stopped.
    """
    out, log = words.console(), WORK / "worker.log"
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    try:
        with ExitStack() as stack:
            _run(stack, out, log, report, keep=keep)
    except KeyboardInterrupt:
        out.print("stopped")
        return 130
    except HeadwaterError:
        if last := tail(log):
            print(f"the last lines of {log}:\n{last}", file=sys.stderr)  # noqa: T201 - before the error's own line
        raise
    return 0


def _run(stack: ExitStack, out: Console, log: Path, report_file: Path, *, keep: bool) -> None:
    began = time.perf_counter()
    log.unlink(missing_ok=True)
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headwater-demo-", ignore_cleanup_errors=True)))
    broker = stack.enter_context(EmbeddedBroker())  # 1
    port, page = free_port(), free_port()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}  # another installation's settings
    environ |= {
        "HEADWATER_BROKER": f"kafka://{broker.bootstrap}",
        "HEADWATER_PREFIX": PREFIX,
        "HEADWATER_STATE_DIR": str(scratch / "state"),
        "HEADWATER_REGISTRY": str(scratch / "registry"),
        "HEADWATER_WEB_PORT": str(port),
        "HEADWATER_GATEWAY_PORT": str(page),
        "HEADWATER_EXAMPLES_PER_S": str(EXAMPLES_PER_S),
        "HEADWATER_SESSION_TIMEOUT_S": "6",
        "OPENBLAS_NUM_THREADS": "1",
    }
    settings = load(environ)
    made = topics.create(topics.admin(settings), topics.topics(settings))
    out.print(f"broker            {broker.bootstrap}, in memory; {len(made)} topics")
    data = read(DATA)
    children = stack.enter_context(Children())
    manifest = _generation(out, children, environ, data, Registry(settings.registry))  # 2
    activate(settings, manifest.id, by="headwater demo", reason="the demo's catalogue", at_ms=round(time.time() * 1000))  # 3
    out.print(f"generation        {manifest.id}: {manifest.metrics['fidelity']['verdict']}")
    with _bar(out, "catalogue", len(data.items)) as moved:
        producer = replay.producer_of(settings)
        replay.replay_items(data, producer, lambda done, _: moved(done), topic=topics.Names.under(PREFIX).items)
        producer.close()
    worker = children.start("the worker", ["worker"], environ, log)
    worker.until_ready(f"http://127.0.0.1:{port}/readyz")
    out.print(f"worker            ready; its log is {log}")
    gateway = children.start("the gateway", ["gateway"], environ, WORK / "gateway.log")
    gateway.until_ready(f"http://127.0.0.1:{page}/readyz")
    out.print(f"page              http://127.0.0.1:{page}")
    outside = Outside(settings)
    stack.callback(outside.close)
    quality = Quality()
    rows = stream(data)
    half = len(rows) // 2
    with _bar(out, "the first half", half) as moved:  # 4
        pace = Pace(data.name, outside, quality, children.check, moved)
        pace.as_it_follows(rows[:half])
        pace.drain()
    trained = _train(out, children, outside, quality, data.name, rows[half : half + MEANWHILE], environ, scratch, port)  # 5
    serving = trained["published"] if trained["active"] else manifest.id
    measured = len(outside.freshness)
    past = int(len(rows) * (1 - JUDGED)) - half - MEANWHILE
    phases = _replay(out, children, outside, quality, data.name, rows[half + MEANWHILE :], past, began + ENOUGH_S)  # 6
    click = click_of(children.check, outside, rows)  # 7
    _show(out, click, data, rows)
    if click.after.generation != serving:
        found = f"lists of generation {click.after.generation!r}"
        raise HeadwaterError("other_generation", found, f"lists of {serving}", f"read {log}: it says why it was refused")
    report = _report(outside, measured, quality, data, manifest, phases, time.perf_counter() - began)  # 8
    report["training"] = trained
    report["click"] = {
        "user_id": click.user,
        "item_id": click.clicked.item_id,
        "list_ms": round(click.seconds * 1000, 2),
        "generation": serving,
    }
    out.print(words.summary_table(report))
    report_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    out.print(f"also in {report_file}")
    if keep:
        out.print(f"page              http://127.0.0.1:{page}")
        _keep(out, children, outside, broker.bootstrap, f"http://127.0.0.1:{port}", click)


def _generation(out: Console, children: Children, environ: dict[str, str], data: Dataset, own: Registry) -> Manifest:
    """The first generation of this catalogue, copied into the demo's own registry; exported when there is none."""
    kept = Registry(KEPT)
    found = generation_for(kept, data.items)
    if found is None:
        out.print(f"no generation for this catalogue in {KEPT}: exporting the default checkpoint, about a minute")
        children.run("headwater export", ["export", "--catalogue", str(DATA), "--registry", KEPT], environ)
        found = generation_for(kept, data.items)
    if found is None:
        raise HeadwaterError("no_generation", f"none in {KEPT}", "a generation", "run `headwater export` and see")
    return own.publish(kept.fetch(found.id))


def generation_for(registry: Registry, items: tuple[Item, ...]) -> Manifest | None:
    """The newest generation of a registry that comes from no other, can be trained from, and is of exactly these items' texts; or None.

    Raises:
        ArtefactError: the registry does not answer.
    """
    wanted = {item.item_id: text_hash(item_text(item, DEFAULT)) for item in items}
    for generation_id in reversed(registry.ids()):
        folder = registry.fetch(generation_id)
        manifest = read_manifest(folder)
        first = manifest.parent is None and CHECKPOINT in manifest.training
        same = manifest.text_template == DEFAULT.version and manifest.items == len(wanted)
        if first and same and dict(json.loads((folder / ITEMS).read_text(encoding="utf-8"))) == wanted:
            return manifest
    return None


def _train(
    out: Console,
    children: Children,
    outside: Outside,
    quality: Quality,
    name: str,
    rows: list[Row],
    environ: dict[str, str],
    scratch: Path,
    port: int,
) -> dict[str, Any]:
    """A training cycle, and the worker's switch to what it made."""
    pace = Pace(name, outside, quality, children.check, lambda _: None)
    with out.status("training") as shown:
        log = WORK / "train.log"
        outcome = train(children, environ, scratch, log, pace, outside, rows, lambda stage: shown.update(f"training: {stage}"))
    out.print(f"training          {outcome['total_s']:.0f} s; its log is {log}")
    for line in words.verdict_lines(outcome):
        out.print(f"                  {line}")
    if outcome["active"]:
        outcome["swap_s"] = round(until_served(children.check, f"http://127.0.0.1:{port}/metrics", outcome["published"]), 2)
    return outcome


def _replay(
    out: Console, children: Children, outside: Outside, quality: Quality, name: str, rows: list[Row], judged: int, enough: float
) -> dict[str, float]:
    """Send all rows, those from `judged` on with a list after each; the seconds of each phase. `enough`: perf_counter at which these
    must be through.
    """
    past, late = rows[:judged], len(rows) - AT_RATE
    seconds, began = {}, time.perf_counter()

    def done(phase: str) -> None:
        nonlocal began
        seconds[phase], began = round(time.perf_counter() - began, 2), time.perf_counter()

    with _bar(out, "further events", len(past)) as moved:
        pace = Pace(name, outside, quality, children.check, moved)
        pace.as_it_follows(past)
        pace.drain()
        done("past")
    with _bar(out, "a list after each", late - len(past)) as moved:
        pace = Pace(name, outside, quality, children.check, moved)
        now = time.perf_counter()
        until = max(now + LEAST_LISTS_S, min(now + LISTS_S, enough))
        pace.as_it_follows(pace.with_lists(rows[len(past) : late], until))
        pace.drain()
        done("with_lists")
    with _bar(out, f"at {RATE_PER_S:g} a second", AT_RATE) as moved:
        pace = Pace(name, outside, quality, children.check, moved)
        pace.at_rate(rows[late:], RATE_PER_S)
        pace.drain()
        done("at_rate")
    return seconds


def _show(out: Console, click: Click, data: Dataset, rows: list[Row]) -> None:
    items = {item.item_id: item for item in data.items}
    played = list(dict.fromkeys(row.item_id for row in reversed(rows) if row.user == click.user))
    said = ", ".join(f"“{words.title(item_id, items)}”" for item_id in played[:4])
    out.print(f"\nA user, {click.user}, with {len(played)} plays, lately {said}.")
    out.print(words.list_table("The list before the click", click.before, items))
    clicked = words.title(click.clicked.item_id, items)
    out.print(f"Click on {click.clicked.rank + 1}, “{clicked}”. The next list stood on the topic after {click.seconds * 1000:.1f} ms:")
    out.print(words.list_table("The list after the click", click.after, items, click.before))


def _report(
    outside: Outside, measured: int, quality: Quality, data: Dataset, manifest: Manifest, phases: dict[str, float], seconds: float
) -> dict[str, Any]:
    """The summary as values."""
    live, popular = quality.live(), quality.popularity(data)
    fresh = np.array(outside.freshness[measured:]) * 1000
    return {
        "events": outside.sent,
        "lists": outside.lists,
        "dead_letters": outside.records(topics.Names.under(PREFIX).dead_letters),
        "freshness_ms": {
            **{f"p{p}": round(float(np.percentile(fresh, p)), 2) if len(fresh) else None for p in (50, 99)},
            "events": len(fresh),
            "events_per_s": RATE_PER_S,
        },
        "ndcg_at_10": {
            "live": live.get("NDCG@10", 0.0),
            "se": live.get("se", 0.0),
            "cases": live["cases"],
            "popularity": max((f.get("NDCG@10", 0.0) for f in popular.values()), default=0.0),
        },
        "generation": {"id": manifest.id, "variant": manifest.serving, "verdict": manifest.metrics["fidelity"]["verdict"]},
        "replay_s": phases,
        "seconds": round(seconds, 1),
    }


def _keep(out: Console, children: Children, outside: Outside, address: str, web: str, click: Click) -> None:
    """Leave all running until Ctrl-C."""
    item_id = click.after.items[0].item_id if click.after.items else "i1"
    out.print(words.how_to_go_on(address, PREFIX, web, item_id), soft_wrap=True, markup=False)
    try:
        while True:
            children.check()
            outside.read(0.5)
    except KeyboardInterrupt:
        out.print("stopping")


@contextmanager
def _bar(out: Console, what: str, total: int) -> Iterator[Any]:
    """A progress bar as a callback; where the output is no terminal, its last state is one line."""
    columns = (TextColumn("{task.description:17}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out) as bars:
        task = bars.add_task(what, total=total)

        def moved(done: int) -> None:
            if done % EVERY == 0 or done == total:
                bars.update(task, completed=done)

        yield moved


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt
