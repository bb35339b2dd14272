"""A worker process from events to lists: what a list holds, and what rules, catalogue and users change in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from engine.partition import item_key, partition_of
from tests.worker_process import NOW_MS, Installation, Worker, catalogue

pytestmark = [pytest.mark.broker, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def world(embedded: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation with forty items and a worker."""
    with Installation(embedded, "lists.", tmp_path_factory.mktemp("lists"), surfaces="home,cart") as world:
        for item in catalogue():
            world.put(world.names.items, item["item_id"], item)
        world.flush()
        world.start()
        yield world


@pytest.fixture(scope="module")
def worker(world: Installation) -> Worker:
    """Its worker."""
    return world.workers[0]


def ids(found: Any) -> list[str]:
    """The items of a list."""
    return [one["item_id"] for one in found["items"]]


def kinds(found: Any) -> set[str]:
    """The kinds of reasons in a list."""
    return {reason["kind"] for one in found["items"] for reason in one["reasons"]}


def test_event_to_list(world: Installation) -> None:
    """An event leads to a list per configured surface, as the contract describes it, on the user's partition."""
    world.event("a1", "anna", "i1")
    for surface in ("home", "cart"):
        found = world.list_after("a1", user="anna", surface=surface)
        record = world.tail(world.names.recommendations).first(lambda r, s=surface: r.key == f"{s}:anna".encode())  # type: ignore[misc]
        assert record.partition == partition_of(b"anna", world.partitions)
        assert record.headers["schema"] == b"headwater.recommendation.v1"
        assert (found["user_id"], found["surface"], found["generation"]) == ("anna", surface, "none")
        assert found["trigger"] == {"kind": "event", "event_id": "a1", "timestamp": NOW_MS}
        assert found["valid_until"] > found["generated_at"] >= NOW_MS
        assert len(found["list_id"]) == 32
        assert len(found["items"]) == 10
        for rank, one in enumerate(found["items"]):
            assert (one["rank"], one["propensity"]) == (rank, 1.0)
            assert sum(reason["weight"] for reason in one["reasons"]) == pytest.approx(one["score"], rel=0.01, abs=1e-5)
            assert [abs(reason["weight"]) for reason in one["reasons"]] == sorted((abs(r["weight"]) for r in one["reasons"]), reverse=True)
        scores = [one["score"] for one in found["items"]]
        assert scores == sorted(scores, reverse=True)


def test_seen_items_are_not_listed_again(world: Installation) -> None:
    """What a user has used is not in the user's next list, and the lists of two surfaces have different ids."""
    for n in range(12):
        world.event(f"b{n}", "bob", f"i{n}")
    found = world.list_after("b11", user="bob")
    assert not {f"i{n}" for n in range(12)} & set(ids(found))
    assert found["list_id"] != world.list_after("b11", user="bob", surface="cart")["list_id"]


def test_used_together_is_a_reason(world: Installation) -> None:
    """Items that the same users used one after the other recommend each other, by name."""
    for n in range(6):
        world.event(f"t{n}", f"pair{n}", "i20")
        world.event(f"u{n}", f"pair{n}", "i21")
    world.neighbours_read()
    world.event("carl1", "carl", "i20")
    found = world.list_after("carl1", user="carl")
    assert ids(found)[0] == "i21"
    assert {"kind": "often_together", "item_id": "i20"}.items() <= found["items"][0]["reasons"][0].items()


def test_impressions_and_searches_make_no_list(world: Installation, worker: Worker) -> None:
    """An impression or a search changes nothing that the user should see: it is counted, and no list follows."""
    world.send(
        world.names.events,
        "dora",
        {"event_id": "d1", "type": "impression", "user_id": "dora", "timestamp": NOW_MS, "items": ["i1", "i2"]},
    )
    world.send(world.names.events, "dora", {"event_id": "d2", "type": "search", "user_id": "dora", "timestamp": NOW_MS, "query": "cave"})
    world.settled()
    assert world.users()["dora"].events == 2
    assert b"home:dora" not in world.last(world.names.recommendations)


def test_a_surface_that_is_not_configured(world: Installation) -> None:
    """An event that names another placement leads to a list for that one too."""
    world.event("s1", "sven", "i3", surface="mail")
    assert world.list_after("s1", user="sven", surface="mail")["surface"] == "mail"
    assert world.list_after("s1", user="sven", surface="home")


def test_block_and_filter(world: Installation) -> None:
    """While a rule blocks or filters, no list made breaks it; its tombstone ends it."""
    rules = world.names.rules
    world.send(rules, "no-caves", {"rule_id": "no-caves", "action": "block", "match": {"category": "cave"}})
    world.send(rules, "t1-in-cart", {"rule_id": "t1-in-cart", "action": "filter", "match": {"tags": ["t1"]}, "surfaces": ["cart"]})
    world.read_by_all(rules)
    world.event("r1", "rita", "i1")
    home, cart = ids(world.list_after("r1", user="rita")), ids(world.list_after("r1", user="rita", surface="cart"))
    assert len(home) == 10
    assert all(int(name[1:]) % 4 for name in home)
    assert cart
    assert all(int(name[1:]) % 3 == 1 and int(name[1:]) % 4 for name in cart)
    world.send(rules, "no-caves", None)
    world.send(rules, "t1-in-cart", None)
    world.read_by_all(rules)
    world.event("r2", "rita", "i2")
    both = ids(world.list_after("r2", user="rita")) + ids(world.list_after("r2", user="rita", surface="cart"))
    assert any(int(name[1:]) % 4 == 0 for name in both)
    assert any(int(name[1:]) % 3 != 1 for name in both)


def test_a_rule_for_some_users(world: Installation) -> None:
    """A rule with user attributes holds for the users that have them."""
    world.send(world.names.users, "nora", {"user_id": "nora", "attributes": {"country": "no", "nested": {"list": [1, {"a": []}]}, "n": 1}})
    world.send(
        world.names.rules, "no-t0", {"rule_id": "no-t0", "action": "block", "match": {"tags": "t0"}, "users": {"country": ["no", "se"]}}
    )
    world.settled()
    world.read_by_all(world.names.rules)
    world.event("n1", "nora", "i1")
    world.event("m1", "mona", "i1")
    assert all(int(name[1:]) % 3 for name in ids(world.list_after("n1", user="nora")))
    assert any(int(name[1:]) % 3 == 0 for name in ids(world.list_after("m1", user="mona")))
    world.send(world.names.users, "nora", None)
    world.settled()
    world.event("n2", "nora", "i2")
    assert any(int(name[1:]) % 3 == 0 for name in ids(world.list_after("n2", user="nora")))
    world.send(world.names.rules, "no-t0", None)


def test_removed_and_unavailable_items(world: Installation) -> None:
    """An item that is taken out or not available is in no list made afterwards; once it is back it may be listed."""
    world.event("e1", "eva", "i37")
    first, second, third = ids(world.list_after("e1", user="eva"))[:3]
    entries = {item["item_id"]: item for item in catalogue()}
    world.send(world.names.items, first, None)
    world.send(world.names.items, second, {**entries[second], "available": False})
    world.read_by_all(world.names.items)
    world.event("e2", "eva", third)
    assert not {first, second} & set(ids(world.list_after("e2", user="eva")))
    for name in (first, second):
        world.send(world.names.items, name, entries[name])
    world.read_by_all(world.names.items)
    world.send(world.names.requests, "eva", {"request_id": "back", "user_id": "eva", "k": len(entries)})
    answer = world.tail(world.names.responses).first(lambda r: r.json["request_id"] == "back").json
    assert {first, second} <= set(ids(answer)), "all that eva has not seen"


def test_without_personalisation(world: Installation) -> None:
    """A user who does not want to be personalised gets lists without personal reasons, at once, and nothing is learned from the user."""
    world.event("p1", "paul", "i20")
    assert "often_together" in kinds(world.list_after("p1", user="paul"))
    world.send(world.names.users, "paul", {"user_id": "paul", "personalise": False})
    tail = world.tail(world.names.recommendations)
    found = tail.first(lambda r: r.key == b"home:paul" and r.json["trigger"]["kind"] == "user").json
    assert kinds(found) <= {"popular", "new", "bias"}
    assert found["trigger"]["user_id"] == "paul"
    world.settled()
    before = world.items()[item_key("i30")].count if item_key("i30") in world.items() else 0
    world.event("p2", "paul", "i30")
    assert kinds(world.list_after("p2", user="paul")) <= {"popular", "new", "bias"}
    world.settled()
    after = world.items()[item_key("i30")].count if item_key("i30") in world.items() else 0
    assert after == before


def test_erased(world: Installation) -> None:
    """An erased user's lists end with a tombstone on each surface, the state is empty, and older events stay out; newer ones begin anew."""
    for n in range(5):
        world.event(f"x{n}", "xena", f"i{n}", surface="mail" if n == 4 else "home", timestamp=NOW_MS - 1000)
    world.list_after("x4", user="xena", surface="mail")
    world.event("x5", "xena", "i6", timestamp=NOW_MS - 1000)  # so that a list may be under way
    world.send(world.names.users, "xena", {"user_id": "xena", "erase": True, "timestamp": NOW_MS})
    world.settled()
    world.event("x6", "xena", "i7", timestamp=NOW_MS - 500)
    world.event("x1", "xena", "i1", timestamp=NOW_MS - 1000)
    world.settled()
    lists = world.last(world.names.recommendations)
    assert [lists[f"{surface}:xena".encode()].value for surface in ("home", "cart", "mail")] == [None, None, None]
    row = world.users()["xena"]
    assert (row.history, row.seen, row.event_ids, row.events, row.erased_at) == ([], {}, {}, 0, NOW_MS)
    world.event("x7", "xena", "i1", timestamp=NOW_MS + 1000)
    assert world.list_after("x7", user="xena")
    world.settled()
    assert world.users()["xena"].events == 1


def test_alias(world: Installation) -> None:
    """An anonymous history becomes the signed-in user's, once; later events follow, repeats do not count, items are counted once."""
    before = {name: world.items()[item_key(name)].count if item_key(name) in world.items() else 0 for name in ("i31", "i32", "i33")}
    for n, name in enumerate(("i31", "i32")):
        world.event(f"anon{n}", "anon", name, timestamp=NOW_MS - 5000 + n)
    world.event("sig0", "signed", "i33")
    world.list_after("anon1", user="anon")
    world.send(world.names.users, "anon", {"user_id": "anon", "alias_of": "signed"})
    world.settled()
    world.event("anon0", "anon", "i31", timestamp=NOW_MS - 5000)  # a repeat from before
    world.event("anon2", "anon", "i34")
    world.event("anon2", "anon", "i34")  # a repeat from after
    found = world.list_after("anon2", user="signed")
    assert not {"i31", "i32", "i33", "i34"} & set(ids(found))
    world.settled()
    users = world.users()
    assert [one.item_id for one in users["signed"].history] == ["i31", "i32", "i33", "i34"]
    assert users["signed"].events == 4
    assert (users["anon"].history, users["anon"].alias_of) == ([], "signed")
    assert world.last(world.names.recommendations)[b"home:anon"].value is None
    after = world.items()
    assert {name: after[item_key(name)].count - count for name, count in before.items()} == {"i31": 1, "i32": 1, "i33": 1}


def test_aliases_in_a_circle(world: Installation) -> None:
    """Two users that are each other's alias send no event round for ever: each event counts for one of them."""
    world.send(world.names.users, "ping", {"user_id": "ping", "alias_of": "pong"})
    world.send(world.names.users, "pong", {"user_id": "pong", "alias_of": "ping"})
    world.settled()
    world.event("c1", "ping", "i1")
    world.event("c2", "pong", "i2")
    world.settled()
    users = world.users()
    assert sorted([users["ping"].events, users["pong"].events]) in ([0, 2], [1, 1])


def test_erasure_follows_the_alias(world: Installation) -> None:
    """Who erases an anonymous id erases the user that it has become."""
    world.event("f1", "fay-anon", "i1", timestamp=NOW_MS - 10)
    world.send(world.names.users, "fay-anon", {"user_id": "fay-anon", "alias_of": "fay"})
    world.settled()
    assert world.users()["fay"].events == 1
    world.send(world.names.users, "fay-anon", {"user_id": "fay-anon", "erase": True})
    world.settled()
    row = world.users()["fay"]
    assert (row.history, row.events) == ([], 0)
    assert row.erased_at
    assert world.last(world.names.recommendations)[b"home:fay"].value is None


def test_web(worker: Worker) -> None:
    """/healthz, /readyz and /metrics answer; no path gives what is in a table."""
    assert worker.get("/healthz") == (200, "ok\n")
    assert worker.get("/readyz") == (200, "ready\n")
    status, text = worker.get("/metrics")
    assert status == 200
    assert "anna" not in text
    assert worker.metric("headwater_events_total", outcome="applied") > 30
    assert worker.metric("headwater_lists_total", kind="standing") > 30
    assert worker.metric("headwater_catalogue_items") == 40
    assert worker.metric("headwater_memory_bytes") > 10e6
    for path in (
        "/",
        "/table",
        "/table/",
        "/table/users/",
        "/table/users/anna",
        "/tables",
        "/users",
        "/users/anna",
        "/router",
        "/stats",
        "/agents",
    ):
        assert worker.get(path)[0] == 404, path


def test_end(world: Installation, worker: Worker) -> None:
    """SIGTERM ends the worker within seconds, with status 0 and no noise; it ended for no other reason before."""
    assert worker.process.poll() is None, worker.log()[-4000:]
    assert worker.stop() < 4.5
    text = worker.log()
    assert "Traceback" not in text, text[-4000:]
    assert "level=error" not in text, text[-4000:]
    assert "level=critical" not in text, text[-4000:]
