"""A worker process takes out of standing lists what was removed, made unavailable or blocked, whatever happens to it meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.worker_process import NOW_MS, Installation, Record, Worker, catalogue

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]
DEADLINE_S = 60.0
USERS = tuple(f"u{n}" for n in range(12))
ENTRIES = {item["item_id"]: item for item in catalogue()}


@pytest.fixture(scope="module")
def world(embedded: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation with forty items, a worker, and twelve users with a list on two surfaces each."""
    with Installation(embedded, "again.", tmp_path_factory.mktemp("again"), surfaces="home,cart") as world:
        fill(world)
        world.start()
        for n, user in enumerate(USERS):
            world.event(f"e-{user}", user, f"i{n}")
        for user in USERS:
            for surface in ("home", "cart"):
                world.list_after(f"e-{user}", user=user, surface=surface)
        yield world


@pytest.fixture(scope="module")
def worker(world: Installation) -> Worker:
    """Its worker."""
    return world.workers[0]


def fill(world: Installation) -> None:
    """Send the catalogue."""
    for item in ENTRIES.values():
        world.put(world.names.items, item["item_id"], item)
    world.flush()


def standing(world: Installation) -> dict[tuple[str, str], Record]:
    """The lists as they stand now, by surface and user."""
    found = {}
    for key, record in world.last(world.names.recommendations).items():
        surface, _, user = key.decode().partition(":")
        if record.value is not None:
            found[surface, user] = record
    return found


def ids(record: Record) -> list[str]:
    """The items of a list."""
    return [one["item_id"] for one in record.json["items"]]


def holding(found: dict[tuple[str, str], Record], *items: str) -> set[tuple[str, str]]:
    """Which lists hold one of these."""
    return {place for place, record in found.items() if set(items) & set(ids(record))}


def most_listed(world: Installation, surface: str = "home", user: str | None = None) -> str:
    """An item that many lists of a surface hold, or of one user, and that nobody has used."""
    held = [name for place, r in standing(world).items() if place[0] == surface and user in (None, place[1]) for name in ids(r)]
    held = [name for name in held if int(name[1:]) >= len(USERS)]
    return max(sorted(set(held)), key=held.count)


def gone_from(
    world: Installation, items: set[str], places: set[tuple[str, str]], seconds: float = DEADLINE_S
) -> dict[tuple[str, str], Any]:
    """Wait until none of these lists holds one of these items; the lists.

    Raises:
        AssertionError: one still does, in time.
    """
    until = time.monotonic() + seconds
    while True:
        found = standing(world)
        left = holding(found, *items) & places
        if not left:
            return {place: found[place].json for place in places}
        assert time.monotonic() < until, f"{left} hold one of {items}\n{world.troubles()}"
        time.sleep(0.2)


def taken_out(world: Installation, before: dict[tuple[str, str], Record], items: set[str], trigger: dict[str, Any]) -> None:
    """Wait until the items are out of all lists; the lists that held them name the trigger and end when they would have, others stay."""
    held = holding(before, *items)
    assert held
    after = gone_from(world, items, held)
    assert len({one["list_id"] for one in after.values()}) == len(after), "one record, a list of its own for each user and surface"
    for place, one in after.items():
        assert trigger.items() <= one["trigger"].items(), (place, one["trigger"])
        assert one["valid_until"] == before[place].json["valid_until"]
        assert one["generated_at"] >= before[place].json["generated_at"]
        assert one["applied"] == before[place].json["applied"]
        assert len(one["items"]) == 10
    now = standing(world)
    assert {place for place, record in now.items() if record.offset != before[place].offset} == held


def test_removed(world: Installation, worker: Worker) -> None:
    """A tombstone takes the item out of every list that holds it, and leaves the others as they are; an entry brings it back."""
    before, name = standing(world), most_listed(world)
    world.send(world.names.items, name, None)
    taken_out(world, before, {name}, {"kind": "item_removed", "item_id": name})
    assert worker.metric("headwater_republished_lists_total", reason="item_removed") == len(holding(before, name))
    assert worker.metric("headwater_republish_delay_seconds_count") > 0
    assert worker.metric("headwater_republish_delay_seconds_bucket", le="60.0") == worker.metric("headwater_republish_delay_seconds_count")
    world.send(world.names.items, name, ENTRIES[name])


def test_unavailable(world: Installation) -> None:
    """The same for an item that is not available, or not yet (and was never used: then its date is not believed)."""
    for change in ({"available": False}, {"available_from": "2099-01-01T00:00:00Z"}):
        before, name = standing(world), most_listed(world, "cart")
        world.send(world.names.items, name, {**ENTRIES[name], **change})
        taken_out(world, before, {name}, {"kind": "item_unavailable", "item_id": name})
        world.send(world.names.items, name, ENTRIES[name])


def test_blocked_and_filtered(world: Installation) -> None:
    """A block takes out what it matches, a filter what it does not match, where they hold; when they end nothing is made again."""
    rules = world.names.rules
    before = standing(world)
    caves = {name for name, item in ENTRIES.items() if "cave" in item["categories"]}
    world.send(rules, "no-caves", {"rule_id": "no-caves", "action": "block", "match": {"category": "cave"}, "surfaces": ["home"]})
    home = {place: record for place, record in before.items() if place[0] == "home"}
    held = holding(home, *caves)
    after = gone_from(world, caves, held)
    assert all(one["trigger"]["kind"] == "rule" and one["trigger"]["rule_id"] == "no-caves" for one in after.values())
    now = standing(world)
    assert {place for place, record in now.items() if record.offset != before[place].offset} == held
    others = {name for name, item in ENTRIES.items() if "t0" in item["tags"]}
    world.send(rules, "not-t0", {"rule_id": "not-t0", "action": "filter", "match": {"tags": ["t1", "t2"]}})
    after = gone_from(world, others, set(now))
    assert any(one["trigger"].get("rule_id") == "not-t0" for one in after.values())
    before = standing(world)
    world.send(rules, "no-caves", None)
    world.send(rules, "not-t0", None)
    world.read_by_all(rules)
    time.sleep(6.5)
    assert {place: record.offset for place, record in standing(world).items()} == {place: r.offset for place, r in before.items()}


def test_an_entry_that_a_rule_is_about(world: Installation) -> None:
    """An item whose entry changes so that a rule keeps it out is taken out as well."""
    rules, name = world.names.rules, most_listed(world)
    world.send(rules, "no-gore", {"rule_id": "no-gore", "action": "block", "match": {"tags": "gore"}})
    world.read_by_all(rules)
    before = standing(world)
    world.send(world.names.items, name, {**ENTRIES[name], "tags": ["gore"]})
    taken_out(world, before, {name}, {"kind": "rule", "rule_id": "no-gore"})
    world.send(world.names.items, name, ENTRIES[name])
    world.send(rules, "no-gore", None)


def test_a_rule_that_starts(world: Installation) -> None:
    """A rule with a time takes nothing out before, and all it matches once its time has come, although no event comes then."""
    before, name = standing(world), most_listed(world)
    starts = round(time.time() * 1000) + 9_000
    rule = {"rule_id": "later", "action": "block", "match": {"item_ids": [name]}, "starts_at": starts}
    world.send(world.names.rules, "later", rule)
    world.read_by_all(world.names.rules)
    time.sleep(6.5)
    assert holding(standing(world), name) == holding(before, name)
    taken_out(world, before, {name}, {"kind": "rule", "rule_id": "later", "timestamp": starts})
    assert time.time() * 1000 >= starts
    world.event("after-start", "u0", "i30")
    assert name not in [one["item_id"] for one in world.list_after("after-start", user="u0")["items"]]
    world.send(world.names.rules, "later", None)
    world.read_by_all(world.names.rules)


def test_a_rule_for_some_users(world: Installation) -> None:
    """Lists of users whom a rule is not for stay as they are."""
    world.send(world.names.users, "u1", {"user_id": "u1", "attributes": {"country": "no"}})
    world.settled()
    before = standing(world)
    mine, theirs = most_listed(world, user="u1"), {place for place in before if place[1] != "u1"}
    rule = {"rule_id": "norway", "action": "block", "match": {"item_ids": [mine]}, "users": {"country": "no"}}
    world.send(world.names.rules, "norway", rule)
    after = gone_from(world, {mine}, {("home", "u1"), ("cart", "u1")})
    assert after["home", "u1"]["trigger"]["rule_id"] == "norway"
    now = standing(world)
    assert all(now[place].offset == before[place].offset for place in theirs)
    world.send(world.names.rules, "norway", None)
    world.read_by_all(world.names.rules)


def test_the_erased_and_the_opted_out(world: Installation) -> None:
    """An erased user's list stays ended; one without personalisation is made again, without personal reasons."""
    world.send(world.names.users, "u2", {"user_id": "u2", "erase": True, "timestamp": NOW_MS + 1})
    world.send(world.names.users, "u3", {"user_id": "u3", "personalise": False})
    world.settled()
    before = standing(world)
    assert ("home", "u2") not in before
    name = most_listed(world, user="u3")
    world.send(world.names.items, name, None)
    after = gone_from(world, {name}, holding(before, name))
    assert {reason["kind"] for one in after["home", "u3"]["items"] for reason in one["reasons"]} <= {"popular", "new"}
    assert not {("home", "u2"), ("cart", "u2")} & set(standing(world))
    world.send(world.names.items, name, ENTRIES[name])


def test_learned_since(world: Installation, worker: Worker) -> None:
    """Lists made when little was known are made again once a hundred events have come, within the time that they had."""
    before = standing(world)
    others = {place: record for place, record in before.items() if place[1] in USERS[4:]}
    for n in range(120):
        world.put(
            world.names.events,
            f"v{n}",
            {"event_id": f"v{n}", "type": "click", "user_id": f"v{n}", "item_id": f"i{n % 5}", "timestamp": NOW_MS},
        )
    world.flush()
    until = time.monotonic() + DEADLINE_S
    while not all(standing(world)[place].json["trigger"]["kind"] == "renewal" for place in others):
        assert time.monotonic() < until, world.troubles()
        time.sleep(0.5)
    now = standing(world)
    for place, record in others.items():
        assert now[place].json["valid_until"] == record.json["valid_until"]
        assert set(now[place].json["trigger"]) == {"kind", "timestamp"}
    assert worker.metric("headwater_republished_lists_total", reason="renewal") >= len(others)
    assert worker.stop() < 6
    assert "Traceback" not in worker.log()
    assert "level=error" not in worker.log()


@pytest.mark.kafka
def test_taken_out_while_no_worker_looked(kafka: str, prefix: str, tmp_path: Path) -> None:
    """What is removed while the worker is away, and what it had not finished when it was killed, is taken out once it is back."""
    with Installation(kafka, prefix, tmp_path, renew_lists_per_s=0) as world:
        fill(world)
        worker = world.start()
        users = [f"u{n}" for n in range(300)]
        for n, user in enumerate(users):
            event = {"event_id": f"e{n}", "type": "click", "user_id": user, "item_id": f"i{n % 7}", "timestamp": NOW_MS}
            world.put(world.names.events, user, event)
        world.flush()
        world.settled()
        before = standing(world)
        assert len(before) == len(users)
        first, second = most_listed(world), None
        world.send(world.names.items, first, None)
        until = time.monotonic() + DEADLINE_S
        while not worker.metric("headwater_republished_lists_total", reason="item_removed"):
            assert time.monotonic() < until
            time.sleep(0.005)
        worker.kill()  # some lists are out, not all of them noted; none is known to have been noted
        second = most_listed(world)
        world.send(world.names.items, second, {**ENTRIES[second], "available": False})
        worker = world.start()
        after = gone_from(world, {first, second}, set(before))
        assert all(one["valid_until"] == before[place].json["valid_until"] for place, one in after.items())
        by_list: dict[str, set[str]] = {}
        for record in world.tail(world.names.recommendations).to_end():
            by_list.setdefault(record.json["list_id"], set()).add(str(record.key))
        assert all(len(keys) == 1 for keys in by_list.values()), "no two users share a list's id"
        worker.stop()
