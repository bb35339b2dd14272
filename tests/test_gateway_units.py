"""The gateway's parts by themselves: what it holds and for how long, what it refuses, what it tells. No broker, no socket."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
import pytest
from confluent_kafka import KafkaError, KafkaException

from engine.errors import BadRecord, BadSettings, BrokerError, HeadwaterError, Problem
from engine.policy import DIVERSITY, RULE
from engine.reasons import KINDS
from engine.records import Event, Item, User
from streams.gateway import events, problems, site
from streams.gateway.asking import Asking
from streams.gateway.bounded import Bounded
from streams.gateway.catalogue import CATEGORIES, Items
from streams.gateway.flow import EVENTS, Flow, Rate
from streams.gateway.generations import Generations
from streams.gateway.guard import Guard
from streams.gateway.history import EVENTS as LAST_EVENTS
from streams.gateway.history import History
from streams.gateway.lag import Lag
from streams.gateway.letters import LAST, Letters
from streams.gateway.limits import Places
from streams.gateway.metrics import Metrics
from streams.gateway.problems import Refused
from streams.gateway.sender import Record, Sender
from streams.gateway.server import check
from streams.gateway.standing import Listed, Standing
from streams.gateway.state import of_body, with_id
from streams.settings import Settings, load

NOW = 1_732_200_000_000
TOKEN = "a token of sixteen or more"


def test_what_is_held_stays_within_its_bytes() -> None:
    """Rule: neither number nor bytes are exceeded; what was used last stays, and a value that is put again counts once."""
    held = Bounded[str](most=3, most_bytes=100)
    held.put("a", "1", 40)
    held.put("b", "2", 40)
    held.put("b", "3", 50)
    assert (held.bytes, held.get("a")) == (90, "1")
    held.put("c", "4", 20)
    assert (list(held), held.bytes, held.evicted) == (["a", "c"], 60, 1)
    held.put("huge", "5", 101)
    assert (list(held), held.bytes) == ([], 0)


def test_a_slow_stream_gets_the_newest_list() -> None:
    """Rule: lists that come faster than a stream is read take each other's place; those of another surface or user do not."""

    async def read() -> list[Any]:
        standing = Standing(10, 10_000)
        stream, cart = standing.open("u", None, NOW), standing.open("u", "cart", NOW)
        for number in range(5):
            standing.take("home:u", Listed(f"l{number}", NOW + 1, b"{}"))
        standing.take("cart:u", Listed("c", NOW + 1, b"{}"))
        standing.take("home:other", Listed("o", NOW + 1, b"{}"))
        found = [await stream.next(1), await cart.next(1), await cart.next(0.01)]
        standing.leave("u", stream)
        standing.take("home:u", None)
        return [*found, await stream.next(0.01), standing.get("u", "home", NOW), standing.get("u", "cart", NOW + 2)]

    first, cart, *nothing = asyncio.run(read())
    assert [(surface, one.list_id) for surface, one in first] == [("home", "l4"), ("cart", "c")]
    assert [(surface, one.list_id) for surface, one in cart] == [("cart", "c")]
    assert nothing == [[], [], None, None]


def test_history_is_bounded_and_forgets_the_erased() -> None:
    """Rule: so many users, so many events each, each event once; events before an erasure are not shown, whichever is read first."""

    def event(number: int, user: str, time: int = NOW) -> Event:
        return Event(f"e{number}", "click", user, time + number, f"i{number}")

    history = History(2)
    for number in range(LAST_EVENTS + 5):
        history.took(event(number, "a"))
    history.took(event(LAST_EVENTS + 4, "a"))
    assert [one.item_id for one in history.of("a")] == [f"i{n}" for n in range(LAST_EVENTS + 4, 4, -1)]
    history.took(event(1, "b"))
    history.took(event(1, "c"))
    assert ([one.user_id for one in history.lately(9)], history.of("a")) == (["c", "b"], [])
    history.told(User("b", erase=True), NOW + 5)
    history.took(event(2, "b"))
    assert history.of("b") == []
    history.took(event(9, "b"))
    assert [one.event_id for one in history.of("b")] == ["e9"]
    assert history.time == NOW + LAST_EVENTS + 4
    history.took(Event("s", "search", "b", NOW + 9, query="tea " * 250_000))
    assert [one.query for one in history.of("b")] == ["tea " * 50, None]


def test_search_by_words() -> None:
    """Rule: all words must be there, in title, author or category, without regard to case and accents; titles that begin so come first."""
    items = Items(10**6)
    for number, (title, creator) in enumerate(
        (("The Lost Café", "Ann"), ("Café Noir", "Bob"), ("Anna's Boat", "Café Press"), ("Sea", "Eve"))
    ):
        items.took(f"i{number}", Item(f"i{number}", title, creator=creator, categories=("cave",)), b"{}")

    def titles(query: str, count: int = 9) -> list[str]:
        return [one.title for one in asyncio.run(items.search(query, count))]

    assert titles("CAFE") == ["Café Noir", "The Lost Café", "Anna's Boat"]
    assert titles("cafe ann") == ["Anna's Boat", "The Lost Café"]
    assert titles("cave", 2) == ["Sea", "Café Noir"]
    assert titles("  ") == []
    assert titles("boat x") == []
    assert titles("x boat boat cafe press pres anna's anna caf cave") == ["Anna's Boat"], "the longest eight decide, each once"
    items.took("i3", None, None)
    assert items.briefs(["i3", "i0"])[0].item_id == "i0"


def test_a_search_holds_nobody_up() -> None:
    """Rule: while all items are looked at, for a query as long as it may be, others are served; two searches don't run at once."""

    async def turns() -> int:
        items, turns = Items(10**8), 0
        for number in range(20_000):
            items.took(f"i{number}", Item(f"i{number}", " ".join("abcdefghijklmnopqrstuvwxyz")), b"{}")
        searches = [asyncio.create_task(items.search(" ".join("abcdefghijklmnopqrstuvwxyz" * 4)[:200], 20)) for _ in range(2)]
        while not all(one.done() for one in searches):
            await asyncio.sleep(0)
            items.took(f"new{turns}", Item(f"new{turns}", "new"), b"{}")
            turns += 1
        assert len(searches[0].result()) == len(searches[1].result()) == 20
        return turns

    assert asyncio.run(turns()) > 4


def test_an_item_of_many_words_counts_as_what_it_takes() -> None:
    """Rule: what is held of items takes no more memory than the setting says, however much there is to search in one."""
    most = 4 * 2**20
    items = Items(most)
    tracemalloc.start()
    try:
        for number in range(8):
            categories = tuple(f"{number}-{n:x}" for n in range(40_000))
            items.took(f"i{number}", Item(f"i{number}", "x", categories=categories), json.dumps({"categories": categories}).encode())
            del categories
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(items.held) > 2
    assert taken < 1.1 * most
    assert len(asyncio.run(items.search("7-1", 1))[0].categories) == CATEGORIES


def test_a_catalogue_that_is_too_large_is_counted() -> None:
    """Rule: items beyond the memory are not held, and how many these are is known."""
    items = Items(20_000)
    for number in range(50):
        items.took(f"i{number}", Item(f"i{number}", "x"), b"x" * 1_000)
    assert 0 < len(items.held) < 20
    assert items.held.evicted == 50 - len(items.held)


def test_freshness_joins_in_either_order() -> None:
    """Rule: a list counts once for the event that it covers last, whichever of the two was read first; memory is bounded."""
    flow = Flow()
    flow.event((0, 1), NOW - 100)
    flow.listed((0, 1), NOW - 90)
    flow.listed((0, 1), NOW - 50)
    flow.listed((0, 2), NOW - 80)
    flow.event((0, 2), NOW - 110)
    flow.listed(None, NOW)
    found = flow.freshness(NOW)
    assert (found.lists, found.p50_ms, found.p99_ms) == (2, 30, 30)
    assert {bucket.le_ms: bucket.lists for bucket in found.buckets if bucket.lists} == {10: 1, 50: 1}
    assert flow.freshness(NOW + 60_000).lists == 0
    for number in range(EVENTS + 10):
        flow.event((1, number), NOW)
    flow.listed((1, 5), NOW)
    assert flow.freshness(NOW).lists == 2


def test_a_rate_forgets_old_seconds() -> None:
    """Rule: a rate over hours of records holds some minutes of counts, and is the mean of the last ten whole seconds."""
    rate = Rate()
    for second in range(5_000):
        rate.add(second * 1000)
    found = rate.figures(5_000_000)
    assert (found.per_s, found.series) == (1.0, [1] * 60)
    assert rate.figures(5_100_000).per_s == 0


def test_letters_and_generations() -> None:
    """Rule: the last letters and reasons are told; the active generation comes with its manifest, whatever else that says."""
    letters = Letters()
    for number in range(LAST + 5):
        source = {"topic": "events", "partition": 0, "offset": number, "timestamp": 1}
        letters.took(json.dumps({"reason": f"r{number % 2}", "message": "m", "source": source, "at": NOW, "value": "aGk="}).encode())
    told = letters.told()
    assert (told.by_reason, told.last[0].source.offset, len(told.last)) == ({"r0": 13, "r1": 12}, LAST + 4, LAST)
    generations = Generations()
    generations.took(b"g-000001", b'{"id": "g-000001", "metrics": {"gate": {"ndcg": 0.1}}, "new_field": []}')
    generations.took(b"active", b'{"id": "g-000001"}')
    report = generations.told().report
    assert report is not None
    assert report.metrics == {"gate": {"ndcg": 0.1}}
    generations.took(b"g-000001", None)
    assert (generations.told().report, generations.told().newest) == (None, [])
    with pytest.raises(BadRecord):
        generations.took(b"active", b"{")


class Message:
    """What librdkafka tells of a delivered record."""

    def partition(self) -> int:
        return 1

    def offset(self) -> int:
        return 7


class Producer:
    """Keeps what it is given; `answers` give the error of each record in turn, or raise it."""

    def __init__(self, *answers: KafkaError | Exception | None) -> None:
        self.answers, self.waiting = list(answers), list[Callable[[], None]]()

    def produce(self, topic: str, value: bytes | None, key: bytes, on_delivery: Any) -> None:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        self.waiting.append(lambda: on_delivery(answer, Message()))

    def poll(self, seconds: float) -> None:
        while self.waiting:
            self.waiting.pop(0)()

    def flush(self, seconds: float) -> int:
        return 0


@pytest.mark.parametrize(
    "answers, status",
    [
        ((None, None), 0),
        ((None, KafkaError(KafkaError._MSG_TIMED_OUT)), 503),  # noqa: SLF001 - confluent-kafka's name
        ((BufferError("full"), None), 429),
        ((None, KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))), 413),
    ],
)
def test_sending(answers: Any, status: int) -> None:
    """Rule: sending gives the places of all records, or the reason why one is not there, and never waits for ever."""
    metrics = Metrics()

    async def send() -> Any:
        sender = Sender({}, metrics, max_bytes=100, producer=Producer(*answers))
        try:
            return await asyncio.wait_for(sender.send([Record("t", b"k", b"v"), Record("t", b"k", None)]), 10)
        finally:
            await sender.stop()

    if status:
        with pytest.raises(HeadwaterError) as caught:
            asyncio.run(send())
        assert problems.status_of(caught.value) == status
        assert metrics.registry.get_sample_value("headwater_gateway_refused_records_total", {"topic": "t"}) == 1
    else:
        assert asyncio.run(send()) == [(1, 7), (1, 7)]


class Acknowledging(Sender):
    """Takes everything at once; with `never` nothing is acknowledged."""

    def __init__(self, *, never: bool = False) -> None:
        self.never, self.sent = never, list[Record]()

    async def send(self, records: Any) -> Any:
        self.sent += records
        if self.never:
            await asyncio.sleep(60)


def test_asking() -> None:
    """Rule: an answer goes to who asked with this id, once; an id that waits and one too many are refused; what is late is 503 or 504."""

    async def ask() -> list[Any]:
        sender = Acknowledging()
        asking = Asking(sender, "requests", 2, Metrics())
        asking.answered(b"u", b"no JSON, and nobody asked")
        one, two = (asyncio.create_task(asking.ask("u", name, b"{}", 5)) for name in ("q1", "q2"))
        await asyncio.sleep(0)
        refused = []
        for name in ("q1", "q3"):
            with pytest.raises(Refused) as caught:
                await asking.ask("u", name, b"{}", 5)
            refused.append(caught.value.code)
        asking.answered(b"other", b'{"request_id": "q1"}')
        asking.answered(b"u", b'{"request_id": "q2"}')
        asking.answered(b"u", b'{"request_id": "q2", "again": 1}')
        asking.answered(b"u", b'{"request_id": "q1"}')
        statuses = []
        for never in (True, False):
            with pytest.raises(Refused) as caught:
                await Asking(Acknowledging(never=never), "requests", 2, Metrics()).ask("u", "q", b"{}", 0.05)
            statuses.append(caught.value.status)
        return [await one, await two, refused, statuses, len(sender.sent)]

    assert asyncio.run(ask()) == [b'{"request_id": "q1"}', b'{"request_id": "q2"}', ["request_waits", "busy"], [503, 504], 2]


class Consumer:
    """Two partitions of every topic, with watermarks 3 to 10; one of them is committed up to 8."""

    def __init__(self) -> None:
        self.asked, self.away = 0, False

    def list_topics(self, topic: str, timeout: float) -> Any:
        self.asked += 1
        if self.away:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))  # noqa: SLF001 - confluent-kafka's name
        return type("Found", (), {"topics": {topic: type("Topic", (), {"partitions": [0, 1]})}})

    def get_watermark_offsets(self, part: Any, timeout: float) -> tuple[int, int]:
        return 3, 10

    def committed(self, parts: Any, timeout: float) -> Any:
        parts[0].offset, parts[1].offset = 8, -1001
        return parts


def test_lag() -> None:
    """Rule: lag is the ends less what is committed, from the first record there is; it is kept for two seconds, and while Kafka is away."""
    consumer, clock = Consumer(), [0.0]

    async def told() -> list[Any]:
        lag = Lag({}, "g", ("events",), ("dead-letters",), lambda: clock[0], consumer=consumer)
        found = [await lag.told(), await lag.told()]
        assert consumer.asked == 2
        clock[0], consumer.away = 3.0, True
        return [*found, await lag.told()]

    first, second, away = asyncio.run(told())
    assert first == second
    assert ([(one.topic, one.records) for one in first.lag], first.records) == ([("events", 9)], {"events": 14, "dead-letters": 14})
    assert away.error
    assert (away.lag, away.records) == (first.lag, first.records)


def guarded(settings: Settings, headers: dict[str, str], *, local: bool = True, path: str = "/v1/status") -> int:
    """The status of a request through the guard; 200 when it is let through."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def call() -> None:
        guard = Guard(app, settings, local=local, metrics=Metrics(), clock=lambda: 0.0)
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        asked = {"method": "GET", "path": unquote(path), "raw_path": path.encode()}
        scope = {"type": "http", **asked, "headers": raw, "client": ("10.0.0.1", 1)}

        async def send(message: Any) -> None:
            seen.append(message)

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        await guard(scope, receive, send)

    asyncio.run(call())
    return int(seen[0]["status"])


@pytest.mark.parametrize(
    "headers, local, status",
    [
        ({"host": "127.0.0.1:8080"}, True, 200),
        ({"host": "localhost"}, True, 200),
        ({"host": "[::1]:8080"}, True, 200),
        ({"host": "Shop.example"}, True, 200),  # configured
        ({"host": "evil.example"}, True, 403),
        ({"host": "127.0.0.1.evil.example"}, True, 403),
        ({"host": ""}, True, 403),
        ({}, True, 403),
        ({"host": "[::1"}, True, 403),
        ({"host": "shop.example"}, False, 200),
        ({"host": "evil.example", "origin": "http://evil.example"}, False, 403),  # that name leads here: DNS rebinding
        ({"host": "localhost:8080", "origin": "http://localhost:8080"}, True, 200),
        ({"host": "localhost:8080", "origin": "http://localhost:9090"}, True, 403),
        ({"host": "localhost:8080", "origin": "null"}, True, 403),
        ({"host": "localhost", "content-length": "99999999"}, True, 413),
    ],
)
def test_hosts_and_origins(headers: dict[str, str], local: bool, status: int) -> None:
    """Rule: once names are set, and always on this machine, only these and its own are a Host; an Origin must be the gateway's own."""
    assert guarded(Settings(gateway_hosts=("shop.example",)), headers, local=local) == status
    if headers.get("host") == "Shop.example":
        assert guarded(Settings(), headers, local=local) == 403
        assert guarded(Settings(), headers, local=False) == 200


@pytest.mark.parametrize("given, status", [(TOKEN, 200), (TOKEN + "x", 401), (TOKEN[:-1], 401), ("", 401), ("ü", 401)])
def test_tokens(given: str, status: int) -> None:
    """Rule: only the whole token opens /v1; the page and what machines ask need none."""
    settings = load({"HEADWATER_GATEWAY_TOKEN": TOKEN})
    assert guarded(settings, {"host": "localhost", "authorization": f"Bearer {given}"}) == status
    assert guarded(settings, {"host": "localhost", "authorization": f"bearer {given}"}) == status
    assert guarded(settings, {"host": "localhost"}, path="/") == 200
    assert guarded(settings, {}, path="/healthz") == 200
    for path in ("/v1/status", "/%761/status", "/v1/..%2fhealthz"):
        assert guarded(settings, {"host": "localhost"}, path=path) == 401
    assert guarded(settings, {"host": "localhost"}, path="/v1/users/%ff/history") == 400


def test_places() -> None:
    """Rule: neither one address nor all together have more streams than there are places."""
    places = Places(3, 2)
    for address in ("a", "a", "b"):
        places.take(address)
    for address in ("a", "b", "c"):
        with pytest.raises(Refused):
            places.take(address)
    places.leave("b")
    places.take("c")
    assert places.taken == 3


def test_where_it_may_listen() -> None:
    """Rule: an address that others reach wants a token; one that is too short is refused, and none is ever shown."""
    assert check(Settings(gateway_host="localhost"))
    assert not check(load({"HEADWATER_GATEWAY_HOST": "0.0.0.0", "HEADWATER_GATEWAY_TOKEN": TOKEN}))  # noqa: S104 - refused below
    for host in ("0.0.0.0", "::", "192.0.2.1", "shop.example"):  # noqa: S104 - refused
        with pytest.raises(BadSettings) as caught:
            check(Settings(gateway_host=host))
        assert "HEADWATER_GATEWAY_TOKEN" in caught.value.remedy
    with pytest.raises(BadSettings) as caught:
        load({"HEADWATER_GATEWAY_TOKEN": "secret"})
    assert "secret" not in str(caught.value)


def test_problems_as_http() -> None:
    """Rule: an error becomes the status that it stands for, with code, remedy and problems; a record's key is the field it is made of."""
    answer = problems.answer(BadRecord([Problem("a", "missing", "nothing", "a value", "send it")] * 200))
    body = json.loads(bytes(answer.body))
    assert (answer.status_code, body["type"], len(body["problems"])) == (422, "urn:headwater:problem:missing", 100)
    assert problems.status_of(BrokerError("a", "b", "c", "d")) == 503
    key = Problem("key", "empty", "", "a key", "send one")
    assert of_body([key], "user_id") == [msgspec.structs.replace(key, field="user_id")]
    assert len(of_body([Problem("user_id", "missing", "", "", ""), key], "user_id")) == 1


def test_bodies() -> None:
    """Rule: a body that names the path's id stays as it is, one that names another is refused; events keep their bytes."""
    assert with_id(b'{ "rule_id" : "r" }', "rule_id", "r") == b'{ "rule_id" : "r" }'
    for body in (b'{"rule_id": "s"}', b'{"rule_id": 7}', b"[]", b"{", b"\xff"):
        with pytest.raises(BadRecord):
            with_id(body, "rule_id", "r")
    raw = b'{"event_id":"e","type":"view","user_id":"\\u00fc", "item_id":"i","timestamp":1732200000000}'
    assert events.checked(([raw], False), types=(), max_bytes=1000) == [("e", "ü", raw)]


def test_it_loads_no_engine() -> None:
    """Rule: the gateway is small and starts soon: it loads neither compiled loops nor models, nor Faust."""
    code = "import sys, streams.gateway.server; print(sorted({m.partition('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"numba", "onnxruntime", "torch", "faust", "rocksdict"} & set(ast.literal_eval(done.stdout))


def test_the_page_has_words_for_every_reason() -> None:
    """Rule: each kind of reason that the engine gives is told in words, but for what all items of a list have alike, and the page names
    only files that come with it.
    """
    folder = files("streams.gateway") / "page"
    words = (folder / "words.js").read_text(encoding="utf-8")
    table = words[words.index("WORDS = {") : words.index("};")]
    told = {*KINDS, RULE, DIVERSITY, "unknown_item"} - {"bias"}
    assert 'SHARED = "bias"' in words
    assert set(re.findall(r"^  (\w+): \[", table, re.MULTILINE)) == told
    against = words[words.index("AGAINST = {") :]
    assert set(re.findall(r"^  (\w+): \"", against[: against.index("};")], re.MULTILINE)) == told
    names = {file.name for file in folder.iterdir()}
    text = "".join((folder / name).read_text(encoding="utf-8") for name in names)
    assert set(re.findall(r'"[./]*/(\w+\.(?:js|css|svg))"', text)) <= names
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert {Path(name).suffix for name in names} == set(site.MEDIA_TYPES)
