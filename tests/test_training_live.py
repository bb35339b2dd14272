"""Training while it serves, as real processes on a broker: from Kafka's events to lists of the new generation; killed ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.generation import Generation
from engine.registry import Registry
from streams.generations import Board
from streams.replay import event_record, item_record
from tests import tiny_bert
from tests.training_shop import shop
from tests.worker_process import ROOT, Installation, free_port

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]
DATA = shop(3_000)
SETTINGS = {
    "train_layers": 2,
    "train_epochs": 4,
    "train_rate": 3e-3,
    "train_held_out": 0.5,
    "train_threads": 1,
    "train_least_events": 100,
    "examples_per_s": 0,  # weights stand still: a list after the swap is then the new generation's own
}


class Shop(Installation):
    """An installation with the shop's catalogue, a first generation that serves, and events on their topic."""

    def begin(self) -> None:
        """Fill it."""
        self.environ["HEADWATER_TRAIN_DIR"] = str(self.folder / "train")
        checkpoint = tiny_bert.write_checkpoint(self.folder / "tiny-bert")
        for item in DATA.items:
            self.put(self.names.items, *item_record(item))
        self.flush()
        catalogue = self.folder / "items.jsonl"
        catalogue.write_bytes(b"\n".join(item_record(item)[1] for item in DATA.items))
        self.run("export", str(checkpoint), "--catalogue", str(catalogue), "--precision", "fp32", "--max-tokens", "24")
        self.run("generations", "activate")
        for row in DATA.rows:
            self.put(self.names.events, *event_record(DATA.name, row))
        self.flush()

    def run(self, *arguments: str) -> str:
        """A command of ours, to its end; its standard output."""
        done = subprocess.run(self._command(*arguments), env=self._environ(), capture_output=True, text=True, check=False, timeout=200)
        assert done.returncode == 0, done.stderr[-3_000:]
        return done.stdout.strip()

    def begun(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        """A command of ours, under way."""
        return subprocess.Popen(
            self._command(*arguments), env={**self._environ(), **environ}, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "streams.cli", *arguments]

    def _environ(self) -> dict[str, str]:
        plain = {key: value for key, value in os.environ.items() if not key.startswith("HEADWATER_")}
        return {**plain, **self.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def world(embedded: str, prefix: str, tmp_path: Path) -> Iterator[Shop]:
    """The shop on the embedded broker."""
    with Shop(embedded, prefix, tmp_path, **SETTINGS) as made:
        made.begin()
        yield made


def active(world: Shop) -> str:
    """What serves, as the topic says it."""
    said = Board(world.settings).read().active
    assert said is not None
    return said.id


def test_from_events_to_lists_of_a_new_generation(world: Shop) -> None:
    """Rule: `headwater train` reads the topics, and a worker that serves meanwhile switches to what it made; lists name it from then on,
    and no event is lost.
    """
    worker = world.start()
    world.settled()
    world.event("before", "u1", "i1")
    assert world.list_after("before", user="u1")["generation"] == "g-000001"
    assert world.run("train") == "g-000002"
    assert active(world) == "g-000002"
    manifest = world.run("generations", "show", "g-000002")
    assert '"parent": "g-000001"' in manifest
    until = time.monotonic() + 20
    while worker.metric("headwater_generation_info", generation="g-000002") != 1:
        assert time.monotonic() < until, worker.log()[-3_000:]
        time.sleep(0.05)
    world.event("after", "u1", "i2")
    assert world.list_after("after", user="u1")["generation"] == "g-000002"
    assert "* g-000002" in world.run("generations", "list")
    world.run("generations", "rollback")
    assert active(world) == "g-000001"
    world.settled()
    assert sum(row.events for row in world.users().values()) == len(DATA.rows) + 2
    worker.stop()


@pytest.mark.parametrize("stage", ["tune", "publish"])
def test_killed_for_good_at_a_stage(world: Shop, stage: str) -> None:
    """Rule: a trainer killed at a stage leaves the active generation and a whole registry; the next one waits until its lease has run out,
    and ends the cycle. (Every step, in one process: test_cycle.)
    """
    process = world.begun("train")
    assert process.stderr is not None
    for line in process.stderr:
        if stage in line:
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before"
    assert active(world) == "g-000001"
    registry = Registry(world.settings.registry)
    for generation_id in registry.ids():
        Generation.open(registry.fetch(generation_id))
    assert world.run("train").startswith("g-00000")
    made = [registry.manifest(i) for i in registry.ids()]
    assert [one.parent for one in made] == [None, "g-000001"]
    assert active(world) == made[-1].id


def test_the_trainer_begins_by_itself(world: Shop) -> None:
    """Rule: `headwater trainer` trains when enough has happened, tells so on /metrics, does not begin again without new events, and ends
    with status 0 when told to.
    """
    port = free_port()
    process = world.begun("trainer", HEADWATER_TRAINER_PORT=str(port), HEADWATER_TRAIN_AFTER_EVENTS="500")
    try:
        until = time.monotonic() + 120
        while active(world) == "g-000001":
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.5)
        metrics = ""
        while 'headwater_trainer_cycles_total{verdict="accepted"} 1.0' not in metrics:
            assert time.monotonic() < until, metrics
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                metrics = answer.read().decode()
            time.sleep(0.2)
        assert 'headwater_trainer_ndcg{list="text",of="candidate"}' in metrics
    finally:
        process.terminate()
        _, said = process.communicate(timeout=40)
    assert process.returncode == 0, said[-2_000:]
    assert Registry(world.settings.registry).ids() == ["g-000001", "g-000002"]
