"""The demo's parts: which list covers which event, how rows are paced, what the live lists are worth, and that no process stays behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from engine.dataset import Dataset, Row, tie_of
from engine.errors import HeadwaterError
from engine.records import Item
from engine.registry import Registry
from streams import demo_words as words
from streams import outside, pacing, topics
from streams.demo import generation_for
from streams.outside import Outside
from streams.processes import Children, free_port, tail
from streams.quality import Quality
from streams.replay import item_record, producer_of
from streams.settings import Settings, load

ROOT = Path(__file__).resolve().parent.parent


def row(n: int, user: str, item: int, time_s: float = 1e9) -> Row:
    """A click."""
    return Row(n, time_s + n, user, item, "", tie_of(str(n), user, str(item)), "click", f"i{item}")


class FakeOutside:
    """Covers the oldest waiting event at each read; its users' lists hold the items i0, i1."""

    def __init__(self) -> None:
        self.standing: dict[str, outside.Standing] = {}
        self.waiting: list[str] = []
        self.sent: list[tuple[str, str]] = []
        self.measured = 0
        self.covered_at = time.perf_counter()

    @property
    def uncovered(self) -> int:
        return len(self.waiting)

    def send(self, user: str, value: bytes, *, measured: bool = False) -> None:
        assert user not in self.waiting or measured
        self.sent.append((user, json.loads(value)["item_id"]))
        self.waiting.append(user)
        self.measured += measured

    def read(self, wait_s: float) -> None:
        if self.waiting:
            user = self.waiting.pop(0)
            self.standing[user] = outside.Standing(("i0", "i1"), "g-000001", 0.0, b"")
            self.covered_at = time.perf_counter()

    def busy(self, user: str) -> bool:
        return user in self.waiting


def pace_of(client: FakeOutside, quality: Quality) -> pacing.Pace:
    """A pace on the fake."""
    return pacing.Pace("d", client, quality, lambda: None, lambda sent: None)  # type: ignore[arg-type]


def orders(sent: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Each user's items as sent."""
    found: dict[str, list[str]] = {}
    for user, item in sent:
        found.setdefault(user, []).append(item)
    return found


def test_a_list_stands_before_the_users_next_event() -> None:
    """Rule: with lists, a user's rows wait for each other, keep their order, and all others' may pass; nothing is left out."""
    rows = [row(n, f"u{n // 5 % 3}", n % 7) for n in range(60)]
    client, quality = FakeOutside(), Quality()
    assert pace_of(client, quality).with_lists(rows, time.perf_counter() + 30) == []
    assert orders(client.sent) == orders([(r.user, r.item_id) for r in rows])
    assert [r.user for r in quality.rows] == [user for user, _ in client.sent]


def test_what_is_not_sent_in_time_is_given_back() -> None:
    """Rule: when the time is up, the rows that did not go out come back in order."""
    rows = [row(n, "u", n) for n in range(150)]
    assert pace_of(FakeOutside(), Quality()).with_lists(rows, time.perf_counter() - 1) == rows


def test_a_worker_that_makes_no_lists_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: waiting for lists ends with an error, not never."""
    monkeypatch.setattr(pacing, "STALLED_S", 0.05)
    client = FakeOutside()
    monkeypatch.setattr(client, "read", lambda wait_s: time.sleep(0.01))
    pace = pace_of(client, Quality())
    pace.at_rate([row(0, "u", 0)], 1000.0)
    with pytest.raises(HeadwaterError, match="no_lists"):
        pace.drain()


def test_cases_are_new_items_of_known_users() -> None:
    """Rule: a case is an event of a user with earlier events on an item new to that user; the list is the one before the event."""
    quality = Quality()
    for n, (user, item, listed) in enumerate(
        [
            ("a", 0, ("i0",)),
            ("a", 1, ("i1", "i5")),
            ("a", 1, ("i1",)),
            ("b", 1, ("i1",)),
            ("b", 2, None),
            ("a", 3, ()),
            ("b", 3, ("i0", "i3")),
        ]
    ):
        quality.before(row(n, user, item), listed)
    assert [a.step for a in quality.asked] == [1, 5, 6]
    live = quality.live()
    assert (live["cases"], live["HR@10"], live["NDCG@10"]) == (3, 0.6667, round((1 + 0 + 1 / 1.584962500721156) / 3, 4))
    items = tuple(Item(item_id=f"i{n}", title=f"{n}") for n in range(6))
    data = Dataset("d", {}, items, (None,) * 6, {item.item_id: n for n, item in enumerate(items)}, tuple(quality.rows))
    popular = quality.popularity(data)
    assert {figures["cases"] for figures in popular.values()} == {3}
    assert all(figures["HR@10"] == 0.3333 for figures in popular.values())  # only the last item had been used by somebody


def test_reasons_and_the_summary_are_said_in_words() -> None:
    """Rule: a list is shown with titles and its strongest reasons, the summary with every number, at a pipe's width too."""
    items = {f"i{n}": Item(item_id=f"i{n}", title=f"Title {n}") for n in range(4)}
    reasons = [words.Reason("often_together", 0.5, "i1"), words.Reason("often_together", 0.4, "i2"), words.Reason("odd_kind", -0.1)]
    assert words.in_words(reasons, items) == "often played with “Title 1” and “Title 2”"
    assert words.in_words([words.Reason("odd_kind", 0.1)], items) == "odd kind"
    before = words.Made("l1", "g-000001", [words.Listed("i0", 0, 1.0, reasons), words.Listed("i3", 1, 0.5, [])])
    after = words.Made("l2", "g-000001", [words.Listed("i3", 0, 1.0, reasons), words.Listed("gone", 1, 0.5, [])])
    out = Console(width=words.WIDTH, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    out.print(words.list_table("after", after, items, before))
    report: dict[str, Any] = {
        "events": 1000,
        "lists": 999,
        "dead_letters": 0,
        "freshness_ms": {"p50": 5.0, "p99": None, "events": 10, "events_per_s": 150.0},
        "ndcg_at_10": {"live": 0.1, "se": 0.01, "cases": 7, "popularity": 0.05},
        "generation": {"id": "g-000001", "variant": "fp32", "verdict": "fp32: it was asked for"},
        "training": {"published": "g-000002", "active": False, "why": "refused: worse", "gate": None, "freshness_ms": {}},
        "seconds": 60.0,
    }
    out.print(words.summary_table(report))
    out.file.close()
    text = out.export_text()
    for part in ("Title 3", "gone", "new", "1,000", "p50 5.0 ms", "0.1000 ± 0.0100", "g-000001, fp32: it was asked for", "refused: worse"):
        assert part in text


def test_no_child_outlives_its_context(tmp_path: Path) -> None:
    """Rule: a child that ends is noticed, with its log's name; those that run are stopped with the context, whatever ended it."""
    log = tmp_path / "logs" / "worker.log"
    environ = {**os.environ, "HEADWATER_LIST_SIZE": "0"}
    with Children() as children:
        failing = children.start("the worker", ["worker"], environ, log)
        failing.process.wait(60)
        with pytest.raises(HeadwaterError, match=r"worker.log"):
            children.check()
        assert "list_size" in tail(log)
    assert tail(tmp_path / "none") == ""
    running: list[subprocess.Popen[bytes]] = []

    def interrupted() -> None:
        with Children() as children:
            running.append(children.start("sleep", ["--help"], dict(os.environ), log).process)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert running[0].poll() is not None


def test_an_empty_registry_has_no_generation(tmp_path: Path) -> None:
    """Rule: where nothing is published for this catalogue, none is found."""
    assert generation_for(Registry(str(tmp_path)), (Item(item_id="i", title="t"),)) is None


def test_the_demo_loads_no_models() -> None:
    """Rule: the demo's own process loads no model: it is an outside client."""
    code = "import sys, streams.demo; print([m for m in ('torch', 'transformers', 'optimum') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.broker
@pytest.mark.timeout(120)
def test_an_outside_client_knows_which_list_covers_its_event(embedded: str, prefix: str, tmp_path: Path) -> None:
    """Rule: after `send`, the list that covers the event is read, and its time from before the sending is known."""
    environ = {
        "HEADWATER_BROKER": f"kafka://{embedded}",
        "HEADWATER_PREFIX": prefix,
        "HEADWATER_STATE_DIR": str(tmp_path / "state"),
        "HEADWATER_REGISTRY": str(tmp_path / "registry"),
        "HEADWATER_WEB_PORT": str(free_port()),
        "HEADWATER_SESSION_TIMEOUT_S": "6",
    }
    settings: Settings = load(environ)
    topics.create(topics.admin(settings), topics.topics(settings))
    producer = producer_of(settings)
    for n in range(12):
        key, value = item_record(Item(item_id=f"i{n}", title=f"Title {n}"))
        producer.send(topics.Names.under(prefix).items, value, key)
    producer.close()
    with Children() as children:
        children.start("the worker", ["worker"], {**os.environ, **environ}, tmp_path / "worker.log")
        client, quality = Outside(settings), Quality()
        pace = pacing.Pace("d", client, quality, children.check, lambda sent: None)
        pace.as_it_follows([row(n, f"u{n % 3}", n) for n in range(3)])
        pace.drain()
        pace.with_lists([row(n, f"u{n % 3}", n) for n in range(3, 9)], time.perf_counter() + 60)
        pace.at_rate([row(9, "u0", 9)], 100.0)
        pace.drain()
        assert client.lists >= 8
        assert len(quality.asked) == 6
        assert len(client.freshness) == 1
        assert 0 < client.freshness[0] < 30
        assert "i9" not in client.standing["u0"].items
        assert len(client.standing["u0"].items) == 8  # 12 items, 4 of them used by u0
        assert client.records(topics.Names.under(prefix).dead_letters) == 0
        client.close()
