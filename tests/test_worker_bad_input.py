"""Records that no producer should send, to a worker process: each is treated as the contract says, counted, and stops nothing."""

from __future__ import annotations

import json
import time
from base64 import b64decode
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from engine.partition import item_key, partition_of
from streams.topics import Names
from tests.worker_process import NOW_MS, Installation, Worker, catalogue

pytestmark = [pytest.mark.broker, pytest.mark.timeout(120)]

LIMIT = 40_000  # bytes of a record, by this installation's settings
_numbers = count()


@pytest.fixture(scope="module")
def world(embedded: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation with forty items and a worker."""
    with Installation(embedded, "bad.", tmp_path_factory.mktemp("bad"), max_record_bytes=LIMIT) as world:
        for item in catalogue():
            world.put(world.names.items, item["item_id"], item)
        world.flush()
        world.start()
        yield world


@pytest.fixture(scope="module")
def worker(world: Installation) -> Worker:
    """Its worker."""
    return world.workers[0]


@pytest.fixture(autouse=True)
def goes_on(world: Installation) -> Iterator[None]:
    """After each test the worker makes lists as before, on the partition that was fed."""
    yield
    worker, name = world.workers[-1], f"next{next(_numbers)}"
    world.event(name, "bea", "i1")
    assert world.list_after(name, user="bea")["items"], worker.log()[-4000:]
    assert worker.process.poll() is None, worker.log()[-4000:]


def good(**fields: Any) -> dict[str, Any]:
    """A good event of bea, with other fields; a field of None is left out."""
    event = {"event_id": f"e{next(_numbers)}", "type": "click", "user_id": "bea", "item_id": "i2", "timestamp": NOW_MS, **fields}
    return {name: value for name, value in event.items() if value is not None}


BAD_EVENTS: dict[str, tuple[Any, str]] = {
    "not json": (b'{"event_id": "e', "malformed_json"),
    "no bytes": (b"", "empty_value"),
    "null value": (None, "null_value"),
    "not utf-8": (b'{"event_id": "\xff"}', "not_utf8"),
    "not an object": (b"[1, 2]", "not_an_object"),
    "very deep": (b'{"a": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", "too_deep"),
    "nan": (json.dumps(good(value=float("nan"))).encode(), "not_finite"),
    "infinity": (b'{"event_id":"e","type":"view","user_id":"bea","item_id":"i1","timestamp":1732200000000,"value":1e999}', "not_finite"),
    "half a surrogate pair": (json.dumps(good(item_id="\ud800")).encode(), "malformed_json"),
    "no event id": (good(event_id=None), "missing"),
    "no type": (good(type=None), "missing"),
    "no user id": (good(user_id=None), "missing"),
    "no item": (good(item_id=None), "missing"),
    "no time": (good(timestamp=None), "missing"),
    "id is a number": (good(event_id=7), "wrong_type"),
    "value is text": (good(value="7"), "wrong_type"),
    "position below 0": (good(position=-1), "out_of_range"),
    "context is a list": (good(context=[1]), "wrong_type"),
    "long event id": (good(event_id="e" * 129), "too_long"),
    "long item id": (good(item_id="é" * 257), "too_long"),
    "empty item id": (good(item_id=""), "empty"),
    "unknown type": (good(type="sneeze"), "unknown"),
    "seconds": (good(timestamp=NOW_MS // 1000), "time_in_seconds"),
    "negative time": (good(timestamp=-5), "time_out_of_range"),
    "microseconds": (good(timestamp=NOW_MS * 1000), "time_out_of_range"),
    "time as float": (good(timestamp=NOW_MS + 0.5), "wrong_type"),
    "bad surface": (good(surface="Home Page"), "bad_pattern"),
    "impression of nothing": (good(type="impression", item_id=None), "missing"),
    "search for nothing": (good(type="search", item_id=None), "missing"),
    "huge": (good(context={"text": "x" * LIMIT}), "too_large"),
    "key of somebody else": (good(user_id="not-bea"), "key_mismatch"),
}


def test_bad_events(world: Installation, worker: Worker) -> None:
    """Each goes to dead-letters with a stable reason, what was found, expected and to do, its place and its bytes, and is counted."""
    before = worker.metric("headwater_events_total", outcome="dead")
    sent = {}
    for name, (value, reason) in BAD_EVENTS.items():
        raw = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
        sent[name] = (world.send(world.names.events, "bea", raw), raw, reason)
    for name, (place, raw, reason) in sent.items():
        letter = world.dead_letter(world.names.events, place)
        assert letter["reason"] == reason, (name, letter)
        assert "found" in letter["message"], name
        assert "expected" in letter["message"], name
        assert b64decode(letter["key"]) == b"bea"
        assert letter["value"] is None if raw is None else b64decode(letter["value"]) == raw[: 64 * 1024], name
        assert letter["value_length"] == len(raw or b"")
        assert letter["source"]["timestamp"] <= letter["at"]
    assert worker.metric("headwater_events_total", outcome="dead") == before + len(BAD_EVENTS)
    for reason in {reason for _, reason in BAD_EVENTS.values()}:
        assert worker.metric("headwater_dead_letters_total", topic=world.names.events, reason=reason) >= 1, reason
    assert world.tail(world.names.dead_letters).records[-1].headers["schema"] == b"headwater.dead-letter.v1"


def test_every_problem_is_named(world: Installation) -> None:
    """One dead letter says all that is wrong with its record."""
    place = world.send(world.names.events, "bea", {"type": "sneeze", "user_id": 7, "timestamp": 5, "value": "x"})
    letter = world.dead_letter(world.names.events, place)
    assert {problem["field"] for problem in letter["problems"]} >= {"event_id", "type", "user_id", "timestamp", "value"}


def test_null_key(world: Installation) -> None:
    """A record without a key is nobody's."""
    place = world.send(world.names.events, None, good(), partition=1)
    letter = world.dead_letter(world.names.events, place)
    assert (letter["reason"], letter["key"], letter["key_length"]) == ("null_key", None, 0)
    place = world.send(world.names.events, b"\xff\xfe", good(), partition=1)
    assert world.dead_letter(world.names.events, place)["reason"] == "key_not_utf8"


def test_largest_records(world: Installation) -> None:
    """A record of exactly the largest size counts; on a wrong partition too, where there is room for what is told along with it."""
    event = good()
    rest = LIMIT - len(json.dumps({**event, "context": {"text": ""}}))
    world.send(world.names.events, "bea", {**event, "context": {"text": "x" * rest}})
    assert world.list_after(event["event_id"], user="bea")
    wrong = (partition_of(b"bea", world.partitions) + 1) % world.partitions
    event = good(event_id=event["event_id"][:-1] + "w")
    place = world.send(world.names.events, "bea", {**event, "context": {"text": "x" * rest}}, wrong)
    assert world.dead_letter(world.names.events, place)["reason"] == "too_large"
    event = good()
    world.send(world.names.events, "bea", {**event, "context": {"text": "x" * (rest - 1_500)}}, wrong)
    assert world.list_after(event["event_id"], user="bea")


def test_unknown_item(world: Installation) -> None:
    """An event on an item that the catalogue does not have counts, and once the item arrives it is listed."""
    for n in range(6):
        world.event(f"y{n}", f"early{n}", "i3")
        world.event(f"z{n}", f"early{n}", "later")
    world.settled()
    assert world.items()[item_key("later")].count == 6
    world.send(world.names.items, "later", {"item_id": "later", "title": "Came after its events"})
    world.neighbours_read()
    world.read_by_all(world.names.items)
    world.event("late1", "lara", "i3")
    found = world.list_after("late1", user="lara")
    assert found["items"][0]["item_id"] == "later"


def test_future_and_ancient_times(world: Installation) -> None:
    """An event from the future counts as of now and ages nothing; one of 1970, told as text, counts too; each is in the history by time."""
    world.event("f1", "fred", "i1")
    for name, at, item in (
        ("f2", 4_102_444_800_000, "i2"),
        ("f3", "1970-01-02T00:00:00Z", "i3"),
        ("f4", "2999-01-01T00:00:00+02:00", "i4"),
    ):
        world.event(name, "fred", item, timestamp=at)
    found = world.list_after("f4", user="fred")
    assert len(found["items"]) == 10
    assert found["trigger"]["timestamp"] > 4_000_000_000_000
    world.settled()
    row = world.users()["fred"]
    assert [one.item_id for one in row.history] == ["i3", "i1", "i2", "i4"]
    assert row.events == 4
    assert row.last_time <= time.time() * 1000 + 300_000
    world.event("f5", "frida", "i1")
    assert world.list_after("f5", user="frida")["items"]


def test_rfc3339_is_a_time(world: Installation) -> None:
    """A time may be an RFC 3339 text with any offset."""
    world.event("rfc", "ralf", "i1", timestamp="2024-11-21T14:40:00.123+02:00")
    assert world.list_after("rfc", user="ralf")["trigger"]["timestamp"] == 1_732_192_800_123


def test_wrong_partition(world: Installation, worker: Worker) -> None:
    """Records on wrong partitions reach the user's row through `_events`, once each, and the user stays one; items are counted once."""
    right = partition_of(b"wanda", world.partitions)
    before = worker.metric("headwater_events_total", outcome="rerouted")
    for n in range(8):
        world.event(f"w{n}", "wanda", f"i{n}", partition=n % world.partitions, timestamp=NOW_MS + n)
    world.event("w3", "wanda", "i3", partition=(right + 1) % world.partitions)  # a repeat, on another partition
    world.settled()
    assert worker.metric("headwater_events_total", outcome="rerouted") == before + 6 + 1
    row = world.users()["wanda"]
    assert (row.events, sorted(one.item_id for one in row.history)) == (8, [f"i{n}" for n in range(8)])
    lists = [r for r in world.tail(world.names.recommendations).to_end() if r.key == b"home:wanda"]
    assert {r.partition for r in lists} == {right}
    assert not {one["item_id"] for one in lists[-1].json["items"]} & {f"i{n}" for n in range(8)}
    changelog = [r for r in world.tail(world.names.users_changelog).to_end() if r.key == b"uwanda"]
    assert {r.partition for r in changelog} == {right}


def test_wrong_partition_of_users(world: Installation) -> None:
    """What is said about a user on a wrong partition is passed on, with its time; it never makes a second row."""
    world.event("v1", "vera", "i1", timestamp=NOW_MS - 10)
    world.list_after("v1", user="vera")
    right = partition_of(b"vera", world.partitions)
    for partition in range(world.partitions):
        if partition != right:
            world.send(world.names.users, "vera", {"user_id": "vera", "attributes": {"at": partition}}, partition)
    world.settled()
    world.send(world.names.users, "vera", {"user_id": "vera", "erase": True}, (right + 1) % world.partitions)
    world.settled()
    changelog = [r for r in world.tail(world.names.users_changelog).to_end() if r.key == b"uvera"]
    assert {r.partition for r in changelog} == {right}
    row = world.users()["vera"]
    assert (row.history, row.attributes) == ([], {})
    assert abs(row.erased_at - time.time() * 1000) < 60_000


def test_headers_of_others_mean_nothing(world: Installation) -> None:
    """A tracer's headers, or ones that look like a worker's, change nothing on `events`; on `_events` bad ones are dead letters."""
    names = ("origin", "as", "headwater-origin", "headwater-alias", "headwater-merged", "traceparent")
    event = good()
    world.send(world.names.events, "bea", event, headers=[(name, b"\xff/x/y") for name in names])
    assert world.list_after(event["event_id"], user="bea")
    place = world.send(
        world.names.routed_events, "bea", good(), partition_of(b"bea", world.partitions), headers=[("headwater-origin", b"events/1/x/2")]
    )
    assert world.dead_letter(world.names.routed_events, place)["reason"] == "bad_origin"
    place = world.send(world.names.routed_events, None, good(), 1, headers=[("headwater-alias", b"bea")])
    assert world.dead_letter(world.names.routed_events, place)["reason"] == "null_key"


ODD_IDS = (
    "ünïcødé-用户-🙂",
    "nul\0inside",
    "__faust\0offset__",
    "\0epoch/events",
    "ranker",
    "a b\tc\n",
    '"quoted"',
    "../../etc/passwd",
    "u" * 256,
    "'; --",
)


def test_odd_user_ids(world: Installation) -> None:
    """Whatever characters an id has, it is one user with one row and one list, and nothing inside is mistaken for it."""
    for n, user in enumerate(ODD_IDS):
        world.event(f"odd{n}", user, "i1")
        world.event(f"odd{n}b", user, "i2")
    for n, user in enumerate(ODD_IDS):
        found = world.list_after(f"odd{n}b", user=user)
        assert (found["user_id"], len(found["items"])) == (user, 10)
    world.settled()
    rows = world.users()
    assert {user: rows[user].events for user in ODD_IDS} == dict.fromkeys(ODD_IDS, 2)


def test_odd_item_ids(world: Installation) -> None:
    """Item ids may have any characters too."""
    for n, name in enumerate(ODD_IDS):
        world.send(world.names.items, name, {"item_id": name, "title": f"Odd {n}"})
        world.event(f"oi{n}", "olga", name)
    world.settled()
    assert len(world.users()["olga"].history) == len(ODD_IDS)
    assert all(world.items()[item_key(name)].count == 1 for name in ODD_IDS)


OTHERS: dict[str, list[tuple[str, bytes | None, Any, str]]] = {
    "items": [
        ("not json", b"i1", b"{", "malformed_json"),
        ("no title", b"i1", {"item_id": "i1"}, "missing"),
        ("key of another", b"i2", {"item_id": "i1", "title": "x"}, "key_mismatch"),
        ("null key", None, {"item_id": "i1", "title": "x"}, "null_key"),
        ("null key and value", None, None, "null_key"),
        ("seconds", b"i1", {"item_id": "i1", "title": "x", "published_at": 1_600_000_000}, "time_in_seconds"),
        ("price", b"i1", b'{"item_id": "i1", "title": "x", "price": NaN}', "not_finite"),
    ],
    "users": [
        ("not json", b"bea", b"nope", "malformed_json"),
        ("alias of itself", b"bea", {"user_id": "bea", "alias_of": "bea"}, "self_alias"),
        ("erase is text", b"bea", {"user_id": "bea", "erase": "yes"}, "wrong_type"),
        ("key of another", b"bea", {"user_id": "bob", "erase": True}, "key_mismatch"),
        ("null key", None, {"user_id": "bea", "erase": True}, "null_key"),
        ("huge", b"bea", {"user_id": "bea", "attributes": {"text": "x" * 70_000}}, "too_large"),
    ],
    "requests": [
        ("not json", b"bea", b"?", "malformed_json"),
        ("no id", b"bea", {"user_id": "bea"}, "missing"),
        ("k", b"bea", {"request_id": "q", "k": 0}, "out_of_range"),
        ("large k", b"bea", {"request_id": "q", "k": 1001}, "out_of_range"),
        ("filters", b"bea", {"request_id": "q", "filters": {"a": {"b": 1}}}, "wrong_type"),
        ("key of another", b"bea", {"request_id": "q", "user_id": "bob"}, "key_mismatch"),
        ("null key", None, {"request_id": "q", "user_id": "bea"}, "null_key"),
        ("huge", b"bea", {"request_id": "q", "query": "x" * LIMIT}, "too_large"),
    ],
    "rules": [
        ("not json", b"r", b"block everything", "malformed_json"),
        ("unknown action", b"r", {"rule_id": "r", "action": "explode", "match": {"tags": "t1"}}, "unknown"),
        ("no match", b"r", {"rule_id": "r", "action": "block"}, "missing"),
        ("matches all", b"r", {"rule_id": "r", "action": "block", "match": {}}, "empty"),
        ("null key", None, None, "null_key"),
    ],
    "generations": [
        ("not json", b"active", b"g-1", "malformed_json"),
        ("no id", b"active", {"share": 1}, "malformed_json"),
        ("not utf-8", b"active", b'{"id": "\xff"}', "malformed_json"),
        ("deep", b"active", b'{"id": "x", "more": ' + b"[" * 20_000, "malformed_json"),
        ("null key", None, {"id": "g-1"}, "missing"),
        ("no manifest", b"g-1", {"id": "g-1"}, "manifest_format"),
        ("key not utf-8", b"\xff", b"\xff", "bad_manifest"),
    ],
}


@pytest.mark.parametrize("topic", list(OTHERS))
def test_bad_records_of_other_topics(world: Installation, topic: str) -> None:
    """What can't be used on the other topics is a dead letter too, and what was there before stays."""
    name = str(getattr(Names.under(world.prefix), topic))
    if topic == "rules":
        world.send(name, "r", {"rule_id": "r", "action": "block", "match": {"tags": "t1"}})
    sent = [(what, world.send(name, key, value), reason) for what, key, value, reason in OTHERS[topic]]
    for what, place, reason in sent:
        assert world.dead_letter(name, place)["reason"] == reason, what
    if topic == "rules":
        world.read_by_all(name)
        event = good()
        world.send(world.names.events, "bea", event)
        found = world.list_after(event["event_id"], user="bea")
        assert all(int(one["item_id"][1:]) % 3 != 1 for one in found["items"] if one["item_id"][1:].isdigit())
        world.send(name, "r", None)


def test_nested_attributes(world: Installation) -> None:
    """Attributes may hold anything; the row can be read again."""
    attributes = {"tags": ["a", 1, None], "deep": {"a": [{}]}, "n": 1, "x": 0.5, "t": True, "none": None, "s": "é"}
    world.send(world.names.users, "nell", {"user_id": "nell", "attributes": attributes})
    world.settled()
    kept = world.users()["nell"].attributes
    assert {"n": 1, "x": 0.5, "t": True, "s": "é"}.items() <= kept.items()


def test_end_and_restart(world: Installation, worker: Worker) -> None:
    """After all that the worker ends well; another one reads the same state and the same bad records, and gets ready."""
    worker.stop()
    assert "Traceback" not in worker.log(), worker.log()[-4000:]
    world.start()
    world.event("again", "bea", "i1")
    assert world.list_after("again", user="bea")
