"""`make bench`: measures on the embedded broker and, where there is one, on Apache Kafka; prints and writes bench/report.json."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import gateway, measure, ranking
from bench.backfill import backfill
from bench.subject import Subject
from bench.swap import RATE, swap
from engine.dataset import Dataset, read
from engine.generation import Generation
from engine.registry import Registry
from streams.embedded import EmbeddedBroker
from streams.generations import activate

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "bench" / "report.json"
PARTS = ("ranking", "freshness", "throughput", "encode", "swap", "backfill", "gateway")
WITH_LISTS = (100, 200, 300, 500, 1_000, 1_500, 2_000, 2_500, 3_000, 3_500, 4_000, 5_000, 6_000)
WITHOUT_LISTS = (1_000, 2_000, 3_500, 5_000, 7_500, 10_000, 12_500, 15_000, 17_500, 20_000, 25_000)


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments ask for; the exit status."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--broker", choices=("embedded", "kafka"), action="append", help="only this one; may be given again")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each freshness run")
    parser.add_argument("--sustain", type=float, default=measure.SUSTAIN_S, help="length of the proof of a sustained rate")
    parser.add_argument("--only", choices=PARTS, action="append")
    options = parser.parse_args(arguments)
    wanted = options.only or PARTS
    report: dict[str, Any] = {"freshness_ms": {}, "throughput": {}, "encode_per_s": {}, "bytes": {}, "backfill": {}, "gateway": {}}
    if "ranking" in wanted:
        report["ranking"] = ranking.measured(ranking.SIZES, _say)
    if set(wanted) - {"ranking"}:
        _with_brokers(options, wanted, report)
    REPORT.write_text(json.dumps(report, indent=1) + "\n")
    _say(f"written to {REPORT.relative_to(ROOT)}")
    return 0


def _with_brokers(options: argparse.Namespace, wanted: Sequence[str], report: dict[str, Any]) -> None:
    data = read(ROOT / "data" / "online-retail")
    registry, generation = _generation()
    if "encode" in wanted:
        _say(f"encoding titles of {data.name}, {generation.id} ({generation.manifest.serving} serves)")
        report["encode_per_s"] = measure.encoding(generation, data, _say)
    for name in options.broker or ("embedded", "kafka"):
        with _broker(name) as bootstrap:
            if bootstrap:
                _measure(name, bootstrap, registry, generation, data, options, wanted, report)


def _measure(
    name: str,
    bootstrap: str,
    registry: str,
    generation: Generation,
    data: Dataset,
    options: argparse.Namespace,
    wanted: Sequence[str],
    report: dict[str, Any],
) -> None:
    if "backfill" in wanted and name == "kafka":  # the embedded broker keeps 5 MB of a partition
        _say(f"backfill of {data.name}, {len(data.rows):,} events, {name}")
        report["backfill"] = backfill(bootstrap, registry, generation.id, data, activate, _say)
    if not {"freshness", "throughput", "swap", "gateway"} & set(wanted):
        return
    items = [row.item_id for row in data.rows]  # with repetition: as often as they were bought
    subject = Subject(bootstrap, registry)
    measure.prepare(subject, data)
    activate(subject.settings, generation.id, by="bench", reason="measuring", at_ms=0)
    with subject:
        if "freshness" in wanted:
            _say(f"freshness, {name}: from before send() to the covering list being readable, {options.seconds:g} s a rate")
            report["freshness_ms"][name] = measure.freshness(subject, items, options.seconds, _say)
        if "throughput" in wanted:
            _say(f"highest sustained rate with lists, {name}")
            report["throughput"][name] = measure.sustained(subject, items, WITH_LISTS, _say, lists=True, seconds=options.sustain)
            report["bytes"] = measure.sizes(subject, generation.manifest.dims)
            _say(f"  bytes: {report['bytes']['user']:.0f} a user, {report['bytes']['item']:.0f} an item")
        if "swap" in wanted and name != "embedded":  # whose own pauses are longer than a swap
            _say(f"a swap of generations under {RATE:g} events/s, {name}")
            report["swap"] = swap(subject, items, generation.id, _tuned(registry, generation.id), _say)
        if "gateway" in wanted:
            _say(f"gateway, {name}: {gateway.CLIENTS} clients at once, each waits for its answer; {options.seconds:g} s each")
            report["gateway"][name] = gateway.measured(subject, items, options.seconds, _say)
    if "throughput" in wanted:
        _say(f"highest sustained rate, state only, {name}")
        subject = Subject(bootstrap, registry, lists=False)
        measure.prepare(subject, data)
        with subject:
            found = measure.sustained(subject, items, WITHOUT_LISTS, _say, lists=False, seconds=options.sustain)
        report["throughput"][name]["state_only_events_per_s"] = found["events_per_s"]


def _generation() -> tuple[str, Generation]:
    """The first generation of the bench's own registry that has a checkpoint beside it; exported if there is none."""
    url = str(ROOT / "var" / "bench-registry")
    registry = Registry(url)
    if not _roots(registry):
        _say("exporting a generation for online-retail, once")
        command = [sys.executable, "-m", "streams.cli", "export", "--catalogue", str(ROOT / "data" / "online-retail"), "--registry", url]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    roots = _roots(registry)
    if not roots:
        raise RuntimeError(f"the export left nothing in {url}")
    return url, Generation.open(registry.fetch(roots[-1]))


def _roots(registry: Registry) -> list[str]:
    """Generations that come from no other and can be trained from."""
    manifests = map(registry.manifest, registry.ids())
    return [one.id for one in manifests if one.parent is None and one.training]


def _tuned(url: str, parent: str) -> str:
    """A generation tuned from this one; made first if there is none."""
    registry = Registry(url)
    for found in registry.ids():
        if registry.manifest(found).parent == parent:
            return found
    _say("tuning a second generation, once: three minutes")
    command = [sys.executable, "-m", "streams.cli", "train", "--dataset", str(ROOT / "data" / "online-retail"), "--most", "10000"]
    environ = {**os.environ, "HEADWATER_TRAIN_DIR": str(ROOT / "var" / "bench-train"), "HEADWATER_TRAIN_STEPS": "20"}
    subprocess.run([*command, "--registry", url], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env=environ)
    return next(found for found in registry.ids() if registry.manifest(found).parent == parent)


@contextmanager
def _broker(name: str) -> Iterator[str]:
    """The address of a broker of this kind, "" (said) where there is none."""
    if name == "embedded":
        with EmbeddedBroker() as broker:
            yield broker.bootstrap
        return
    if given := os.environ.get("HEADWATER_TEST_BROKER"):
        yield given.removeprefix("kafka://")
        return
    home = os.environ.get("KAFKA_HOME")
    if not home:
        _say("Apache Kafka: left out, neither KAFKA_HOME nor HEADWATER_TEST_BROKER is set")
        yield ""
        return
    script = str(Path(home) / "kafka")
    with tempfile.TemporaryDirectory(prefix="headwater-bench-kafka-") as folder:
        started = subprocess.run([script, "start", "--dir", folder], check=True, capture_output=True, text=True, timeout=90)
        try:
            yield started.stdout.split()[-1]
        finally:
            subprocess.run([script, "stop", "--dir", folder], check=False, capture_output=True, timeout=60)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
