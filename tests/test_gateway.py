"""The gateway as a process, on a broker with a real worker: events in, lists out, streams, limits, and what it says of what is wrong."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.core.result import Ok

from engine.partition import partition_of
from streams.embedded import EmbeddedBroker
from tests.gateway_process import JSON, GatewayProcess
from tests.worker_process import NOW_MS, Installation, catalogue

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]

TOKEN = "a token of sixteen or more"
_numbers = count()


@pytest.fixture(scope="module")
def world(embedded: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation with forty items and a worker."""
    with Installation(embedded, "gateway.", tmp_path_factory.mktemp("gateway"), max_record_bytes=60_000) as world:
        for item in catalogue():
            world.put(world.names.items, item["item_id"], item)
        world.flush()
        world.start()
        yield world


@pytest.fixture(scope="module")
def gateway(world: Installation) -> Iterator[GatewayProcess]:
    """A gateway of it."""
    limits: dict[str, Any] = {
        "gateway_body_kb": 200,
        "gateway_batch": 50,
        "gateway_streams_per_client": 4,
        "gateway_heartbeat_s": 0.3,
        "gateway_deadline_s": 20,
    }
    with GatewayProcess(world, **limits, gateway_rate_per_s=0) as gateway:
        yield gateway


def event(user: str, item: str | None = "i1", **fields: Any) -> dict[str, Any]:
    """An event of a user."""
    return {"event_id": f"g{next(_numbers)}", "type": "click", "user_id": user, "item_id": item, "timestamp": NOW_MS, **fields}


def ids(found: Any) -> list[str]:
    """The items of a list."""
    return [one["item_id"] for one in found["items"]]


def covers(found: Any, place: Any) -> bool:
    """Whether a list covers an accepted event."""
    partition, offset = found["applied"].get("events", (-1, -1))
    return bool(partition == place["partition"] and offset >= place["offset"])


def test_an_event_changes_the_list(world: Installation, gateway: GatewayProcess) -> None:
    """Rule: what is answered with 202 stands on `events` on the user's partition, and the list that is served then covers it."""
    answer = gateway.call("POST", "/v1/events", sent := event("ann"))
    assert answer.status == 202
    [place] = answer.json["accepted"]
    assert place["event_id"] == sent["event_id"]
    assert place["partition"] == partition_of(b"ann", world.partitions)
    record = world.tail(world.names.events).first(lambda r: (r.partition, r.offset) == (place["partition"], place["offset"]))
    assert (record.key, record.json) == (b"ann", sent)
    found = gateway.until(
        "GET", "/v1/users/ann/lists/home", lambda a: a.headers["headwater-source"] == "standing" and covers(a.json, place)
    )
    assert found.json == world.list_after(sent["event_id"], user="ann")
    assert "i1" not in ids(found.json)


def test_a_batch_of_events(world: Installation, gateway: GatewayProcess) -> None:
    """Rule: all events of an array are sent in order and byte for byte, or, when one is wrong, none."""
    sent = [event("ben", f"i{n}", context={"note": "ü  "}) for n in range(5)]
    body = b"[" + b" , ".join(json.dumps(one, ensure_ascii=False).encode() for one in sent) + b"]"
    places = gateway.call("POST", "/v1/events", body).json["accepted"]
    assert [place["event_id"] for place in places] == [one["event_id"] for one in sent]
    assert [place["offset"] for place in places] == list(range(places[0]["offset"], places[0]["offset"] + 5))
    last = world.tail(world.names.events).first(lambda r: (r.partition, r.offset) == (places[-1]["partition"], places[-1]["offset"]))
    assert last.value == json.dumps(sent[-1], ensure_ascii=False).encode()
    before = len(world.tail(world.names.events).to_end())
    refused = gateway.call(
        "POST", "/v1/events", [event("ben"), {"event_id": "x", "type": "clik", "user_id": "ben", "timestamp": 1, "item_id": 7}]
    )
    assert refused.status == 422
    assert {one["field"] for one in refused.json["problems"]} == {"[1].type", "[1].item_id", "[1].timestamp"}
    assert all(one["remedy"] for one in refused.json["problems"])
    assert len(world.tail(world.names.events).to_end()) == before
    assert gateway.call("POST", "/v1/events", []).json == {"accepted": []}


def test_someone_never_seen(gateway: GatewayProcess) -> None:
    """Rule: a user without a standing list gets one that a worker makes now; ids may hold anything."""
    for user in ("nobody", "a/b", "élodie ?#%", "a/lists/home"):
        answer = gateway.call("GET", f"/v1/users/{quote(user, safe='')}/lists/home")
        assert answer.status == 200, answer.body
        assert (answer.headers["headwater-source"], answer.json["user_id"], len(answer.json["items"])) == ("asked", user, 10)


def test_an_id_is_one_part_of_the_path(gateway: GatewayProcess) -> None:
    """Rule: an id that looks like the end of another path is an id: nobody reads another user's history or list by it."""
    users = ("bea", "bea/lists", "bea/stream", "bea/history", "bea/lists/home")
    for user in users:
        assert gateway.call("POST", "/v1/events", event(user, f"of-{user}")).status == 202
    for user in users:
        path = f"/v1/users/{quote(user, safe='')}"
        shown = gateway.until("GET", f"{path}/history", lambda a: bool(a.json["events"])).json
        assert (shown["user_id"], [one["item_id"] for one in shown["events"]]) == (user, [f"of-{user}"])
        assert gateway.call("GET", f"{path.replace('b', '%62')}/lists/home").json["user_id"] == user
        with gateway.stream(quote(user, safe="")) as events:
            assert json.loads(events.next()["data"])["user_id"] == user
    assert gateway.call("GET", "/v1/users/bea/lists/history/home").code == "not_found"
    for method, path in (("PUT", "/v1/items/%FF%FE"), ("DELETE", "/v1/rules/%ED%A0%80"), ("GET", "/v1/users/%FF/lists/home")):
        refused = gateway.call(method, path, {"title": "x"})
        assert (refused.status, refused.code) == (400, "not_utf8")
    assert gateway.call("PUT", "/v1/items/a%2Flists%2Fb", {"title": "x"}).json["id"] == "a/lists/b"


def test_a_surface_that_has_no_lists(gateway: GatewayProcess) -> None:
    """Rule: a surface is one of the setting, or one that an event named; any other is a 404 that names the known ones."""
    for path in ("lists/basket", "stream?surface=basket"):
        refused = gateway.call("GET", f"/v1/users/ute/{path}")
        assert (refused.status, refused.code) == (404, "unknown_surface")
        assert "(home)" in refused.json["detail"]
        assert "HEADWATER_SURFACES" in refused.json["remedy"]
    [place] = gateway.call("POST", "/v1/events", event("ute", surface="basket")).json["accepted"]
    gateway.until("GET", "/v1/users/ute/lists/basket", lambda a: a.status == 200 and covers(a.json, place))
    assert gateway.call("GET", "/v1/users/vic/lists/basket").json["surface"] == "basket"


def test_a_list_that_ended_or_is_too_old_is_not_served(world: Installation, gateway: GatewayProcess) -> None:
    """Rule: a tombstone ends a list, and so does its `valid_until`; then a worker is asked."""
    path = "/v1/users/olga/lists/home"
    made = gateway.call("GET", path).json | {"list_id": "planted", "valid_until": NOW_MS + 10**8}
    world.send(world.names.recommendations, "home:olga", made, partition_of(b"olga", world.partitions))
    gateway.until("GET", path, lambda a: a.json["list_id"] == "planted")
    world.send(world.names.recommendations, "home:olga", made | {"valid_until": NOW_MS - 1}, partition_of(b"olga", world.partitions))
    gateway.until("GET", path, lambda a: a.headers["headwater-source"] == "asked")
    world.send(world.names.recommendations, "home:olga", made, partition_of(b"olga", world.partitions))
    gateway.until("GET", path, lambda a: a.json["list_id"] == "planted")
    world.send(world.names.recommendations, "home:olga", None, partition_of(b"olga", world.partitions))
    gateway.until("GET", path, lambda a: a.headers["headwater-source"] == "asked")


def test_a_request_and_its_response(gateway: GatewayProcess) -> None:
    """Rule: POST /v1/lists gives the workers' response to this very request."""
    found = gateway.call("POST", "/v1/lists", {"user_id": "kim", "k": 3, "candidates": ["i5", "i9", "i7"]}).json
    assert sorted(ids(found)) == ["i5", "i7", "i9"]
    own = gateway.call("POST", "/v1/lists", {"user_id": "kim", "k": 2, "request_id": "mine", "timestamp": "2024-01-01T00:00:00Z"}).json
    assert (own["request_id"], len(own["items"])) == ("mine", 2)
    wrong = gateway.call("POST", "/v1/lists", {"k": 0, "surface": "Home"})
    assert wrong.status == 422
    assert {one["field"] for one in wrong.json["problems"]} >= {"k", "surface", "user_id"}
    assert gateway.call("POST", "/v1/lists?deadline_ms=5", {"user_id": "kim"}).status == 422


def test_no_worker_in_time(world: Installation, tmp_path: Path) -> None:
    """Rule: where no worker answers within the deadline the answer is 504, with the remedy."""
    with Installation(world.bootstrap, "lonely.", tmp_path) as lonely, GatewayProcess(lonely, "lonely") as gateway:
        began = time.monotonic()
        late = gateway.call("GET", "/v1/users/u1/lists/home?deadline_ms=300")
        assert 0.3 <= time.monotonic() - began < 3
        assert (late.status, late.code) == (504, "no_answer")
        assert "worker" in late.json["remedy"]
        assert gateway.call("POST", "/v1/lists?deadline_ms=300", {"user_id": "u1"}).code == "no_answer"


def test_a_stream_of_lists(gateway: GatewayProcess) -> None:
    """Rule: a stream begins with the list that stands unless the client has it, and brings each new one; it says that it lives."""
    [place] = gateway.call("POST", "/v1/events", event("sam")).json["accepted"]
    gateway.until("GET", "/v1/users/sam/lists/home", lambda a: covers(a.json, place))
    with gateway.stream("sam") as events:
        assert events.answer.headers["content-type"].startswith("text/event-stream")
        found = events.next()
        first = json.loads(found["data"])
        assert (found["event"], found["id"]) == ("list", first["list_id"])
        assert covers(first, place)
        [place] = gateway.call("POST", "/v1/events", event("sam", "i2")).json["accepted"]
        second = json.loads(events.next()["data"])
        assert covers(second, place)
        assert any(line.startswith(":") for line in events.lines())
    with gateway.stream("sam", "?surface=home", Last_Event_ID=second["list_id"]) as events:
        [place] = gateway.call("POST", "/v1/events", event("sam", "i3")).json["accepted"]
        assert covers(json.loads(events.next()["data"]), place)


def test_streams_are_limited_and_give_their_places_back(gateway: GatewayProcess) -> None:
    """Rule: one address has so many streams and no more, with Retry-After; one that ends makes room."""
    open_now = gateway.metric("headwater_gateway_streams")
    streams = [gateway.stream("sue") for _ in range(5)]
    gateway.until("GET", "/v1/status", lambda a: a.json["streams"] == 0)
    try:
        answers = [stream.__enter__().answer for stream in streams]
        assert [answer.status for answer in answers] == [200] * 4 + [429]
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert json.loads(answers[-1].read())["type"].endswith("too_many_streams")
    finally:
        for stream in streams:
            stream.__exit__(None, None, None)
    gateway.until("GET", "/v1/status", lambda a: a.json["streams"] == open_now == 0)


def test_items(world: Installation, gateway: GatewayProcess) -> None:
    """Rule: an item that is put stands on `items`, is found and listed; a deleted one is not; a wrong one is refused with all problems."""
    path = f"/v1/items/{quote('tea/1', safe='')}"
    put = gateway.call("PUT", path, {"title": "Élite Green Tea", "creator": "Marukyu", "categories": ["tea"]})
    assert put.status == 202
    assert world.tail(world.names.items).first(lambda r: r.key == b"tea/1").json["item_id"] == "tea/1"
    assert gateway.until("GET", path, lambda a: a.status == 200).json["title"] == "Élite Green Tea"
    brief = {"item_id": "tea/1", "title": "Élite Green Tea", "creator": "Marukyu", "categories": ["tea"]}
    for query in ("query=elite+TEA", "query=maruk", "id=tea%2F1&id=gone"):
        assert gateway.call("GET", f"/v1/items?{query}").json == {"items": [brief]}
    assert gateway.call("GET", "/v1/items?query=").json == {"items": []}
    assert len(gateway.call("GET", "/v1/items?query=story&limit=7").json["items"]) == 7
    wrong = gateway.call("PUT", path, {"item_id": "other", "title": ""})
    assert (wrong.status, wrong.code) == (422, "key_mismatch")
    assert {p["field"] for p in gateway.call("PUT", path, {"title": "", "price": "1"}).json["problems"]} == {"title", "price"}
    assert gateway.call("DELETE", path).status == 202
    gone = gateway.until("GET", path, lambda a: a.status == 404)
    assert gone.code == "not_found"


def test_rules(gateway: GatewayProcess) -> None:
    """Rule: a rule that is put is in force, listed and shown, until it is deleted."""
    [place] = gateway.call("POST", "/v1/events", event("rob")).json["accepted"]
    first = ids(gateway.until("GET", "/v1/users/rob/lists/home", lambda a: covers(a.json, place)).json)[0]
    assert gateway.call("PUT", "/v1/rules/r1", {"action": "block", "match": {"item_ids": [first]}}).status == 202
    shown = gateway.until("GET", "/v1/rules/r1", lambda a: a.status == 200).json
    assert (shown["rule_id"], shown["action"]) == ("r1", "block")
    assert gateway.call("GET", "/v1/rules").json == {"rules": [shown]}
    gateway.until("POST", "/v1/lists", lambda a: first not in ids(a.json), body={"user_id": "rob", "k": 40})
    assert gateway.call("PUT", "/v1/rules/r2", {"action": "explode", "match": {}}).status == 422
    assert gateway.call("DELETE", "/v1/rules/r1").status == 202
    gateway.until("GET", "/v1/rules", lambda a: a.json == {"rules": []})


def test_history_and_who_was_active(world: Installation, gateway: GatewayProcess) -> None:
    """Rule: a user's last events are shown newest first, with titles; an erased user's are not."""
    for n in range(3):
        gateway.call("POST", "/v1/events", event("hal", f"i{n}", timestamp=NOW_MS + n))
    shown = gateway.until("GET", "/v1/users/hal/history", lambda a: len(a.json["events"]) == 3).json
    assert [(one["item_id"], one["title"]) for one in shown["events"]] == [(f"i{n}", f"Story number {n}") for n in (2, 1, 0)]
    assert gateway.call("GET", "/v1/users").json["users"][0]["user_id"] == "hal"
    world.send(world.names.users, "hal", {"user_id": "hal", "erase": True})
    gateway.until("GET", "/v1/users/hal/history", lambda a: a.json == {"user_id": "hal", "events": []})
    assert "hal" not in gateway.call("GET", "/v1/users").body.decode()


def test_what_is_live(world: Installation, gateway: GatewayProcess) -> None:
    """Rule: the status counts what happened: events, lists, their freshness, lag, the generation that was decided on, dead letters."""
    place = world.send(world.names.events, "liz", {"event_id": "bad"})
    letter = world.dead_letter(world.names.events, place)
    world.send(world.names.generations, "g-000007", {"id": "g-000007", "verdict": "fine", "metrics": {"gate": {"gain": 0.5}}, "odd": 1})
    world.send(world.names.generations, "active", {"id": "g-000007", "by": "test"})
    found = gateway.until("GET", "/v1/status", lambda a: a.json["dead_letters"]["by_reason"] and a.json["generation"]["report"]).json
    assert found["kafka"] == {"ok": True, "error": ""}
    assert letter["message"] in [one["message"] for one in found["dead_letters"]["last"]]
    assert found["dead_letters"]["by_reason"][letter["reason"]] == 1
    assert (found["generation"]["active"]["id"], found["generation"]["report"]["metrics"]) == ("g-000007", {"gate": {"gain": 0.5}})
    assert found["lists"]["held"] > 3
    assert found["freshness"]["lists"] == sum(bucket["lists"] for bucket in found["freshness"]["buckets"])
    world.settled()
    [place] = gateway.call("POST", "/v1/events", event("liz")).json["accepted"]
    gateway.until("GET", "/v1/users/liz/lists/home", lambda a: covers(a.json, place))
    found = gateway.until("GET", "/v1/status", lambda a: sum(a.json["events"]["series"]) > 0 and a.json["freshness"]["lists"] > 0).json
    assert 0 <= found["freshness"]["p50_ms"] < 20_000
    assert {one["topic"]: one["records"] for one in found["lag"]}[world.names.users] == 0
    sent = len(world.tail(world.names.events).to_end())
    gateway.until("GET", "/v1/status", lambda a: a.json["events"]["records"] == sent)
    text = gateway.call("GET", "/metrics").body.decode()
    assert 'route="/v1/users/{user_id}/lists/{surface}"' in text
    assert "liz" not in text


@pytest.mark.parametrize(
    "body, headers, status, code",
    [
        (b"", JSON, 400, "empty_value"),
        (b"{", JSON, 400, "malformed_json"),
        (b"[{]", JSON, 400, "malformed_json"),
        (b"7", JSON, 400, "not_an_object"),
        (b'{"user_id": "\xff"}', JSON, 400, "not_utf8"),
        (b"[" * 100_000, JSON, 400, "malformed_json"),
        (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, JSON, 400, "too_deep"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "not_json"),
        (b" " * 250_000, JSON, 413, "too_large"),
        (b"[" + b"{}," * 60 + b"{}]", JSON, 413, "too_many_events"),
        (json.dumps(event("u", context={"a": "x" * 70_000})).encode(), JSON, 413, "too_large"),
        (json.dumps(event("u" * 300)).encode(), JSON, 422, "too_long"),
        (b"{}", {**JSON, "Host": "evil.example"}, 403, "foreign_host"),
        (b"{}", {**JSON, "Origin": "http://evil.example"}, 403, "foreign_origin"),
        (b"{}", {**JSON, "Origin": "null"}, 403, "foreign_origin"),
    ],
)
def test_bad_input(gateway: GatewayProcess, body: bytes, headers: dict[str, str], status: int, code: str) -> None:
    """Rule: what can't be used is refused with a stable code, what was expected, and what to do; never with a 5xx."""
    refused = gateway.call("POST", "/v1/events", body, headers)
    assert (refused.status, refused.code) == (status, code), refused.body
    assert {"type", "title", "status", "detail", "remedy"} <= refused.json.keys()
    assert refused.json["remedy"]


def test_a_body_without_a_length(gateway: GatewayProcess) -> None:
    """Rule: a chunked body is counted as it comes, and refused when it is too large."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    try:
        connection.request("POST", "/v1/events", iter([b" " * 65_536] * 5), JSON, encode_chunked=True)
        assert connection.getresponse().status == 413
    finally:
        connection.close()


def test_paths_that_are_not_there(gateway: GatewayProcess) -> None:
    """Rule: also an unknown path and a wrong method are problems."""
    assert gateway.call("GET", "/nothing").code == "not_found"
    wrong = gateway.call("PATCH", "/v1/rules")
    assert (wrong.status, wrong.code) == (405, "method_not_allowed")
    assert gateway.call("GET", f"/v1/users/{'u' * 257}/history").status == 422


def test_the_page_and_its_files(gateway: GatewayProcess) -> None:
    """Rule: the page comes with a policy that lets nothing from elsewhere in, and names only files that are there."""
    page = gateway.call("GET", "/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert b"http" not in page.body.replace(b"http-equiv", b"")
    for name in ("app.js", "client.js", "list.js", "panel.js", "words.js", "style.css", "icon.svg"):
        answer = gateway.call("GET", f"/{name}")
        assert answer.status == 200
        assert gateway.call("GET", f"/{name}", headers={"If-None-Match": answer.headers["etag"]}).status == 304


def test_token_and_rate(world: Installation) -> None:
    """Rule: with a token nothing under /v1 answers without it; an address that asks too often is told when to come again."""
    with GatewayProcess(world, "guarded", gateway_token=TOKEN, gateway_rate_per_s=4) as gateway:
        assert gateway.call("GET", "/").status == 200
        missing = gateway.call("GET", "/v1/status")
        assert (missing.status, missing.code) == (401, "no_token")
        assert missing.headers["www-authenticate"].startswith("Bearer")
        assert gateway.call("GET", "/v1/status", headers={"Authorization": "Bearer wrong"}).code == "wrong_token"
        with_token = {"Authorization": f"Bearer {TOKEN}"}
        assert gateway.call("GET", "/v1/status", headers=with_token).status == 200
        with gateway.stream("tom") as events:
            assert events.answer.status == 401
        with gateway.stream("tom", Authorization=f"Bearer {TOKEN}") as events:
            assert events.answer.status == 200
        answers = [gateway.call("GET", "/openapi.json") for _ in range(12)]
        assert answers[-1].status == 429
        assert answers[-1].code == "too_many_requests"
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert gateway.call("GET", "/healthz").status == 200
        assert TOKEN not in gateway.log()


def test_without_a_token_only_on_this_machine(world: Installation) -> None:
    """Rule: a gateway that others can reach does not start without a token, and says what to set."""
    with GatewayProcess(world, "open", ready=False, gateway_host="0.0.0.0") as gateway:  # noqa: S104 - refused
        assert gateway.process.wait(30) == 2
        assert "HEADWATER_GATEWAY_TOKEN" in gateway.log()


def test_a_port_that_is_taken(world: Installation, gateway: GatewayProcess) -> None:
    """Rule: where somebody listens already nothing is started, and the gateway says so in words."""
    with GatewayProcess(world, "second", ready=False, gateway_port=gateway.port) as second:
        assert second.process.wait(30) == 1
        assert re.fullmatch(rf"address_taken: .*'127.0.0.1', {gateway.port}.*\n", second.log())


def test_it_stops_with_open_streams(world: Installation) -> None:
    """Rule: SIGTERM ends the streams and the process, in order and soon."""
    with GatewayProcess(world, "stopping") as gateway, gateway.stream("tim") as events, gateway.stream("tina"):
        assert events.answer.status == 200
        assert gateway.stop() < 4
        assert list(events.lines())[-1:] in ([], [""])
        assert "gateway_stopped" in gateway.log()
        assert "Traceback" not in gateway.log()


def test_kafka_goes_away(tmp_path: Path) -> None:
    """Rule: without Kafka what is held is still served, and what needs Kafka is a 503 with the remedy, never a 500."""
    with EmbeddedBroker() as broker, Installation(broker.bootstrap, "away.", tmp_path) as world:
        made = {"list_id": "l1", "valid_until": NOW_MS + 10**8, "trigger": {"kind": "event"}, "items": []}
        world.send(world.names.recommendations, "home:u1", made, partition_of(b"u1", world.partitions))
        with GatewayProcess(world) as gateway:
            gateway.until("GET", "/v1/users/u1/lists/home", lambda a: a.headers.get("headwater-source") == "standing")
            assert gateway.call("POST", "/v1/events", event("u1")).status == 202
            broker.stop()
            away = gateway.call("POST", "/v1/events", event("u1"))
            assert (away.status, away.code) == (503, "not_acknowledged")
            assert int(away.headers["retry-after"]) >= 1
            assert gateway.call("GET", "/v1/users/u1/lists/home").status == 200
            assert gateway.call("GET", "/v1/users/u2/lists/home?deadline_ms=500").status == 503
            assert gateway.call("PUT", "/v1/items/i1", {"title": "x"}).status == 503
            status = gateway.until("GET", "/v1/status", lambda a: not a.json["kafka"]["ok"])
            assert status.json["kafka"]["error"]
            assert gateway.call("GET", "/healthz").status == 200
            assert gateway.stop() < 15


def test_a_gateway_that_starts_before_kafka(tmp_path: Path, embedded: str) -> None:
    """Rule: a gateway started too early waits, says for what, and is ready once the topics are there."""
    with Installation(embedded, "early.", tmp_path) as world:
        world.environ["HEADWATER_BROKER"] = "kafka://127.0.0.1:1"
        with GatewayProcess(world, "early", ready=False) as gateway:
            waiting = gateway.until_listening()
            assert waiting.status == 503
            assert gateway.stop() < 30


def test_fuzzed(gateway: GatewayProcess) -> None:
    """Rule: whatever its description lets one send, and whatever it does not, no answer is a 5xx; deadlines that are too short aside."""
    schema = schemathesis.openapi.from_dict(gateway.call("GET", "/openapi.json").json)
    for result in schema.get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()
        if operation.path.endswith("/stream"):
            continue

        fuzz(gateway, operation)
    assert gateway.process.poll() is None
    assert "gateway_failed" not in gateway.log()


def fuzz(gateway: GatewayProcess, operation: Any) -> None:
    """Send some requests that an operation allows or not."""

    @given(st.data())
    @settings(
        max_examples=25, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck), derandomize=True
    )
    def holds(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy(generation_mode=data.draw(st.sampled_from(list(schemathesis.GenerationMode)))))
        answer = case.call(base_url=f"http://127.0.0.1:{gateway.port}")
        hurried = answer.status_code == 504 and "deadline_ms" in (case.query or {})
        assert answer.status_code < 500 or hurried, (case.as_curl_command(), answer.content)

    holds()
