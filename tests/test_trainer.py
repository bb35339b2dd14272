"""When a cycle begins, and what is told of it. The cycle's process is a stand-in here; real ones run in test_training_live."""

from __future__ import annotations

import json
import socket
import sys
import threading
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.errors import BrokerError
from engine.manifest import Compared, Gate, Manifest, Variant
from export.cycle import Outcome
from export.feed import Span
from export.slice import Collector, People
from export.trainer import AGAIN_S, Trainer, serve
from streams.processes import free_port


class Feed:
    """Events whose number is set."""

    def __init__(self) -> None:
        self.end = 0
        self.log = "one"
        self.away = False

    def span(self, after: Sequence[int], log: str, most: int) -> Span:
        if self.away:
            raise BrokerError("away", "nobody", "a broker", "look", retryable=True)
        return Span([min(sum(after) if self.log == "one" else 0, self.end)], [self.end], log=self.log)

    def items(self) -> list[Any]:
        raise AssertionError("a trainer does not read items")

    def people(self) -> People:
        raise AssertionError("a trainer does not read users")

    def read(self, span: Span, into: Collector, progress: Any) -> None:
        raise AssertionError("a trainer does not read events")


class Board:
    """What is active."""

    def __init__(self) -> None:
        self.serving: str | None = "g-000001"

    def active(self) -> str | None:
        return self.serving

    def announce(self, manifest: Manifest) -> None: ...

    def activate(self, generation_id: str, parent: str, reason: str) -> None: ...


class Registry:
    """Manifests with the offsets that a test gives."""

    def __init__(self, offsets: Mapping[str, int]) -> None:
        self.offsets = offsets

    def manifest(self, generation_id: str) -> Manifest:
        return Manifest(
            id=generation_id,
            dims=1,
            max_tokens=1,
            text_template="",
            variants={"fp32": Variant()},
            serving="fp32",
            offsets={"events": [self.offsets[generation_id]]},
        )


GATE = Gate(True, "g-000001", (), {"text": Compared(500, 0.1, 0.2, 0.08, 0.12)}, 1_000, 100)


def report(**fields: Any) -> dict[str, Any]:
    """A cycle's report, as JSON has it."""
    given = {
        "published": "g-000002",
        "active": True,
        "why": "",
        "parent": "g-000001",
        "seconds": {},
        "peak_bytes": 7,
        "gate": GATE,
        **fields,
    }
    return dict(msgspec.to_builtins(Outcome(**given)))


class World:
    """A trainer whose cycles are a small program that writes what a test says."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.feed, self.board, self.now = Feed(), Board(), 0.0
        self.says, self.ran = folder / "says", folder / "ran"
        script = (
            "import pathlib, shutil, sys\n"
            f"pathlib.Path({str(self.ran)!r}).open('a').write('x')\n"
            f"says = pathlib.Path({str(self.says)!r})\n"
            "sys.exit(3) if not says.exists() else shutil.copyfile(says, sys.argv[sys.argv.index('--report') + 1])\n"
        )
        given: dict[str, Any] = {"every_s": 3_600.0, "after_events": 500, "least_events": 100, **settings}
        self.trainer = Trainer(
            feed=self.feed,
            bulletin=self.board,
            registry=Registry({"g-000001": 1_000, "g-000002": 1_600}),  # type: ignore[arg-type]
            command=[sys.executable, "-c", script],
            environ={},
            work=folder / "work",
            clock=lambda: self.now,
            **given,
        )

    @property
    def cycles(self) -> int:
        """How many began."""
        return len(self.ran.read_text()) if self.ran.exists() else 0

    def metric(self, name: str, **labels: str) -> float:
        """A value of the trainer's."""
        found = self.trainer.meters.registry.get_sample_value(name, labels)
        assert found is not None, name
        return found


@pytest.mark.parametrize(
    "new, seconds, due",
    [(0, 9_999, False), (99, 9_999, False), (100, 10, False), (100, 3_600, True), (499, 10, False), (500, 0, True)],
)
def test_when(tmp_path: Path, new: int, seconds: float, due: bool) -> None:
    """Rule: by time if a little is new, at once if much is, never for next to nothing."""
    world = World(tmp_path)
    world.feed.end, world.now = 1_000 + new, seconds
    assert world.trainer.due() is due
    assert world.metric("headwater_trainer_new_events") == new


def test_only_by_time(tmp_path: Path) -> None:
    """Rule: with 0 for the number of events only time counts."""
    world = World(tmp_path, after_events=0)
    world.feed.end = 1_000_000
    assert not world.trainer.due()


def test_nothing_active(tmp_path: Path) -> None:
    """Rule: before the first generation nothing is trained."""
    world = World(tmp_path)
    world.board.serving, world.feed.end, world.now = None, 1_000_000, 1e9
    assert not world.trainer.due()


def test_after_a_cycle_it_counts_anew_whatever_the_verdict(tmp_path: Path) -> None:
    """Rule: a refused cycle is not repeated on the same events; the next begins when as much again has happened."""
    world = World(tmp_path)
    refused = Gate(False, "g-000001", ("worse",), GATE.lists, 1_000, 100)
    world.says.write_text(json.dumps(report(active=False, why="refused: worse", gate=refused)))
    world.feed.end = 1_600
    assert world.trainer.due()
    world.trainer.cycle()
    assert world.cycles == 1
    assert world.metric("headwater_trainer_cycles_total", verdict="refused") == 1
    assert world.metric("headwater_trainer_ndcg", of="candidate", list="text") == 0.2
    assert not world.trainer.due()
    world.feed.end = 2_100
    assert world.trainer.due()


def test_a_log_made_anew_counts_from_its_beginning(tmp_path: Path) -> None:
    """Rule: what was read of an old log says nothing of one that was made anew under its name, however short that is."""
    world = World(tmp_path)
    world.says.write_text(json.dumps(report(active=False, why="refused: worse")))
    world.feed.end = 5_000
    world.trainer.cycle()
    assert world.trainer.new_events() == 0
    world.feed.log, world.feed.end = "two", 700
    assert world.trainer.new_events() == 700
    assert world.trainer.due()
    world.trainer.cycle()
    assert world.trainer.new_events() == 0


def test_a_new_parent_is_followed(tmp_path: Path) -> None:
    """Rule: when another generation serves, whoever activated it, new events are those after its offsets."""
    world = World(tmp_path)
    world.feed.end = 1_650
    assert world.trainer.new_events() == 650
    world.board.serving = "g-000002"
    assert world.trainer.new_events() == 50
    assert world.metric("headwater_trainer_info", active="g-000002") == 1
    assert world.trainer.meters.registry.get_sample_value("headwater_trainer_info", {"active": "g-000001"}) is None


def test_a_failed_cycle_is_tried_again_ever_later(tmp_path: Path) -> None:
    """Rule: a cycle that dies counts as failed and is tried again after a wait that doubles; one that ends well ends that."""
    world = World(tmp_path)
    world.feed.end = 2_000
    for wait in (AGAIN_S, 2 * AGAIN_S):
        assert world.trainer.due()
        world.trainer.cycle()
        assert not world.trainer.due()
        world.now += wait - 1
        assert not world.trainer.due()
        world.now += 2
    assert world.metric("headwater_trainer_cycles_total", verdict="failed") == 2
    world.says.write_text(json.dumps(report()))
    world.trainer.cycle()
    assert world.metric("headwater_trainer_cycles_total", verdict="accepted") == 1
    assert world.metric("headwater_trainer_cycle_peak_bytes") == 7


def test_a_report_of_an_earlier_cycle_is_not_taken_for_this_one_s(tmp_path: Path) -> None:
    """Rule: a cycle that dies before its report is a failed one, also when an old report lies about."""
    world = World(tmp_path)
    world.says.write_text(json.dumps(report()))
    world.trainer.cycle()
    world.says.unlink()
    world.trainer.cycle()
    assert world.metric("headwater_trainer_cycles_total", verdict="failed") == 1


def test_stopping_ends_the_cycle(tmp_path: Path) -> None:
    """Rule: told to stop, the trainer ends its cycle's process and does not count it as failed."""
    world = World(tmp_path)
    world.trainer._command = [sys.executable, "-c", "import time; time.sleep(60)"]  # noqa: SLF001
    threading.Timer(0.5, world.trainer.stopping.set).start()
    world.trainer.cycle()
    assert world.metric("headwater_trainer_cycles_total", verdict="failed") == 0


def test_the_loop_outlives_a_broker_that_is_away(tmp_path: Path) -> None:
    """Rule: an error of the broker is waited out, and told."""
    world = World(tmp_path)
    world.feed.away = True
    threading.Timer(0.3, world.trainer.stopping.set).start()
    world.trainer.run()
    assert world.cycles == 0


def test_its_web(tmp_path: Path) -> None:
    """Rule: /healthz says ok while the trainer lives, /metrics has its figures; both end with it."""
    world, port = World(tmp_path), free_port()
    with serve("127.0.0.1", port, world.trainer.meters.registry):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz") as answer:
            assert answer.read() == b"ok\n"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert b'headwater_trainer_cycles_total{verdict="accepted"} 0.0' in answer.read()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz")


def test_an_idle_connection_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Rule: a connection on which nothing is said is closed after a while, without a word; meanwhile others are answered."""
    monkeypatch.setattr("export.trainer._Quiet.timeout", 1.0)
    world, port = World(tmp_path), free_port()
    with serve("127.0.0.1", port, world.trainer.meters.registry), socket.create_connection(("127.0.0.1", port)) as idle:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            assert answer.read() == b"ok\n"
        idle.settimeout(5)
        assert idle.recv(1) == b""
    assert capfd.readouterr().err == ""
