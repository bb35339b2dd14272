"""Requests to a worker process: plain, rerank, more like this, search, and what a response says when it can't have all it asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from engine.partition import partition_of
from engine.registry import Registry
from streams.generations import activate
from tests import tiny_bert
from tests.worker_process import NOW_MS, Installation, catalogue

pytestmark = [pytest.mark.broker, pytest.mark.timeout(120)]

_numbers = count()


@pytest.fixture(scope="module")
def world(embedded: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation with forty items and a worker, without a generation."""
    with Installation(embedded, "requests.", tmp_path_factory.mktemp("requests"), max_record_bytes=60_000) as world:
        for item in catalogue():
            world.put(world.names.items, item["item_id"], item)
        world.flush()
        world.start()
        yield world


def ask(world: Installation, user: str, partition: int = -1, **fields: Any) -> Any:
    """Send a request and give its response."""
    request_id = f"q{next(_numbers)}"
    world.send(world.names.requests, user, {"request_id": request_id, "user_id": user, **fields}, partition)
    return world.tail(world.names.responses).first(lambda r: r.json["request_id"] == request_id).json


def ids(found: Any) -> list[str]:
    """The items of a list."""
    return [one["item_id"] for one in found["items"]]


def test_unknown_user(world: Installation) -> None:
    """Someone never seen gets a list, before the first event of the installation too."""
    found = ask(world, "nobody", timestamp=NOW_MS)
    assert len(found["items"]) == 10
    assert found["trigger"] == {"kind": "request", "request_id": found["request_id"], "timestamp": NOW_MS}
    assert (found["user_id"], found["surface"], found["applied"]) == ("nobody", "home", {})
    record = world.tail(world.names.responses).records[-1]
    assert (record.key, record.partition) == (b"nobody", partition_of(b"nobody", world.partitions))
    assert record.headers["schema"] == b"headwater.response.v1"


def test_k_surface_and_exclude(world: Installation) -> None:
    """As many as asked for, on the surface asked for, without what is excluded."""
    first = ask(world, "kim", k=3, surface="cart")
    assert (len(first["items"]), first["surface"]) == (3, "cart")
    second = ask(world, "kim", k=3, exclude=ids(first))
    assert not set(ids(first)) & set(ids(second))
    assert len(ask(world, "kim", k=1000)["items"]) == 40


def test_filters(world: Installation) -> None:
    """Only items with one of the values in each field; without any such item an empty list says so."""
    found = ask(world, "finn", k=40, filters={"tags": ["t1", "t2"], "category": "cave"})
    assert set(ids(found)) == {f"i{n}" for n in range(0, 40, 4) if n % 3}
    empty = ask(world, "finn", filters={"tags": "nothing"})
    assert (empty["items"], empty["note"]) == ([], "nothing may be listed")
    assert ask(world, "finn", filters={"tags": []})["items"] == []


def test_rerank(world: Installation) -> None:
    """All candidates are ranked and no other, once each, seen ones too; those that nobody knows come last."""
    world.event("r1", "rosa", "i5")
    world.list_after("r1", user="rosa")
    candidates = ["gone", "i5", "i9", "i7", "i9", "lost"]
    found = ask(world, "rosa", candidates=candidates, k=2)
    assert sorted(ids(found)) == sorted(set(candidates))
    assert sorted(ids(found)[-2:]) == ["gone", "lost"]
    assert {reason["kind"] for one in found["items"][-2:] for reason in one["reasons"]} == {"unknown_item"}
    for one in found["items"]:
        assert sum(reason["weight"] for reason in one["reasons"]) == pytest.approx(one["score"], rel=0.01, abs=1e-5)
    assert ask(world, "rosa", candidates=[])["note"] == "no usable candidate"
    assert set(ids(ask(world, "rosa", candidates=["gone"]))) == {"gone"}


def test_more_like_this(world: Installation) -> None:
    """More like an item: the item itself is left out, and what its users used leads."""
    for n in range(6):
        world.event(f"m{n}", f"mate{n}", "i30")
        world.event(f"o{n}", f"mate{n}", "i31")
    world.neighbours_read()
    found = ask(world, "stranger", seed_item_id="i30")
    assert ids(found)[0] == "i31"
    assert "i30" not in ids(found)
    assert any(reason.get("item_id") == "i30" for reason in found["items"][0]["reasons"])
    assert len(ask(world, "stranger", seed_item_id="never-heard-of")["items"]) == 10


def test_after_an_event(world: Installation) -> None:
    """A response waits for the event it names; one that does not come in time makes it stale, within 50 ms or so."""
    for n in range(5):
        world.put(
            world.names.events, "ada", {"event_id": f"a{n}", "type": "click", "user_id": "ada", "item_id": f"i{n}", "timestamp": NOW_MS}
        )
        found = ask(world, "ada", after_event_id=f"a{n}", k=40)
        assert "stale" not in found
        assert f"i{n}" not in ids(found)
    started = time.monotonic()
    assert ask(world, "ada", after_event_id="never sent")["stale"] is True
    assert time.monotonic() - started < 2
    assert ask(world, "unheard", after_event_id="never sent")["stale"] is True


def test_query_without_a_generation(world: Installation) -> None:
    """Where no encoder serves, a search goes by words, mistyped ones too, names the query as a reason, and the list says so."""
    world.event("q1", "quinn", "i1")
    world.list_after("q1", user="quinn")
    for user in ("quinn", "stranger to all"):
        found = ask(world, user, query="Storys numbr 17")
        assert ids(found)[0] == "i17"
        assert found["items"][0]["reasons"][0]["kind"] == "query"
        for one in found["items"]:
            assert sum(reason["weight"] for reason in one["reasons"]) == pytest.approx(one["score"], rel=0.01, abs=1e-5)
        assert len(found["items"]) == 10
        assert "by words only: no generation" in found["note"]
    for odd in ("", "🐉", "x" * 10_000, "the of and"):
        assert len(ask(world, "quinn", query=odd)["items"]) == 10


def test_wrong_partition(world: Installation) -> None:
    """A request on a wrong partition is passed on to the right one, answered there, and counted."""
    wrong = (partition_of(b"wendy", world.partitions) + 1) % world.partitions
    assert len(ask(world, "wendy", partition=wrong)["items"]) == 10
    assert world.tail(world.names.responses).records[-1].partition == partition_of(b"wendy", world.partitions)
    assert world.workers[0].metric("headwater_rerouted_records_total", source="requests") == 1


def test_a_response_that_would_be_too_large(world: Installation) -> None:
    """An answer that no record can hold goes without reasons, then cut, and says so; the worker goes on."""
    many = [f"candidate-{n}" for n in range(700)]
    found = ask(world, "greedy", candidates=many)
    assert "without reasons" in found["note"]
    assert len(found["items"]) == 700
    found = ask(world, "greedy", candidates=[f"candidate-{n}" for n in range(2_500)])
    assert found["note"].startswith("cut to")
    assert 300 < len(found["items"]) < 1_500
    assert ask(world, "greedy")["items"]


def test_search(world: Installation, tmp_path: Path) -> None:
    """With a generation a search puts items first whose text is near, with the query as a reason; the list names the generation."""
    pytest.importorskip("onnx", reason="wants the export extra, to write a graph")
    for n, title in enumerate(("kaba lodo", "kaba kaba", "mife nugu", "pehy rajo")):
        world.send(world.names.items, f"w{n}", {"item_id": f"w{n}", "title": title, "published_at": NOW_MS - 10**9})
    registry = Registry(world.settings.registry)
    for seed in (5, 6):  # the second one is a swap while searches come
        generation_id = registry.publish(tiny_bert.write_generation(tmp_path / f"draft{seed}", seed=seed)).id
        activate(world.settings, generation_id, by="test", reason="test", at_ms=NOW_MS, force=True)
        until = time.monotonic() + 20
        while (found := ask(world, "sara", query="mife nugu"))["generation"] != generation_id:
            assert time.monotonic() < until, world.troubles()
        until = time.monotonic() + 10
        while ids(found)[0] != "w2":  # encoded live, a moment later
            assert time.monotonic() < until, found
            found = ask(world, "sara", query="mife nugu")
        assert "query" in {reason["kind"] for reason in found["items"][0]["reasons"]}
        assert "note" not in found


def test_a_generation_that_is_not_there(world: Installation) -> None:
    """A generation that can't be fetched is not served: the worker stays with the one it has, says so, and asks again."""
    before = ask(world, "gus")["generation"]
    world.send(world.names.generations, "active", {"id": "g-999999"})
    until = time.monotonic() + 10
    while "generation_not_fetched" not in world.logs():
        assert time.monotonic() < until
        time.sleep(0.05)
    assert ask(world, "gus")["generation"] == before


def test_end(world: Installation) -> None:
    """The worker is still the one that was started, and ends well."""
    assert world.workers[0].process.poll() is None, world.troubles()
    assert world.workers[0].stop() < 4.5
    assert "Traceback" not in world.logs(), world.troubles()
