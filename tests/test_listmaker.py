"""The list maker: what is owed is paid on every path, and what can't be made, or may not be published any more, harms nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from time import sleep
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.listed import name_of, read_page
from engine.lists import Trigger
from engine.model import Ask, Ranked, Ranking
from engine.partition import item_key
from engine.ranker import Example
from engine.reasons import Reason
from engine.records import Request, Rule
from engine.rules import compile_rules
from engine.user import Position, UserState, user_key
from streams.jobs import Again, Answer, Lesson, Owed, Query, Standing
from streams.listmaker import AT_ONCE, HEADERS_BYTES, LATE_S, LESSONS, ListMaker, Targets
from streams.metrics import Metrics

PLACE = Position("events", 1, 0, 7)
TASTE: Any = None
WEIGHED = 15


class World:
    """A model that ranks, an outbox that writes down, and rows of one partition; `meanwhile` runs while lists are under way."""

    def __init__(self, max_bytes: int = 100_000, lessons_s: float = 0.0) -> None:
        self.published: list[tuple[str, bytes | None, bytes | None]] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.generation = "g1"
        self.lock = asyncio.Lock()
        self.lessons: list[Lesson] = []
        self.found: dict[bytes, UserState] = {user_key(name.encode()): UserState(events=1) for name in ("ann", "bob", "poison")}
        self.notes: dict[bytes, bytes | None] = {}
        self.part: Any = SimpleNamespace(get=self.found.get, closed=False, note=self.notes.get, set_note=self.notes.__setitem__)
        anything: Any = self
        self.metrics = Metrics()
        self.maker = ListMaker(
            anything,
            anything,
            anything,
            anything,
            self.metrics,
            Targets("lists", "responses", "examples", 3, 1_000, max_bytes),
            size=64,
            encode_example=lambda example: str(getattr(example, "weight", "example")).encode(),
            lessons_s=lessons_s,
            known=lambda: 7,
            clock=lambda: 1_700_000_000.0,
        )
        self.batch: Any = SimpleNamespace(ended=0)
        self.batch.done = lambda: setattr(self.batch, "ended", self.batch.ended + 1)
        batch: Any = self.batch
        self.owed = Owed(batch)

    # rows, engine, model, outbox

    def rows(self, partition: int) -> Any:
        return self.part

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        made = function(*arguments)
        await asyncio.sleep(0)
        self.meanwhile()
        return made

    def drafts(self, asks: Sequence[Ask]) -> Any:
        return [SimpleNamespace(asks=asks, fill=lambda: None)]

    def __len__(self) -> int:
        return AT_ONCE + 1  # always in the thread

    @property
    def catalogue(self) -> World:
        return self

    def rankings(self, draft: Any) -> list[Ranking]:
        asks: Sequence[Ask] = draft.asks
        if any("poison" in ask.exclude or ask.surface == "poison" for ask in asks):
            raise ValueError("poison")
        return [Ranking((Ranked("i1", 1.0, (Reason("new", None, 1.0),)),) * ask.k, self.generation) for ask in asks]

    def examples_of(self, lessons: Sequence[tuple[Any, Sequence[int], Sequence[Position]]]) -> list[list[Any]]:
        if any(13 in items for _, items, _ in lessons):
            raise ValueError("poison")
        return [
            [Example(*one, 0, b"", self.generation, ()) if item == WEIGHED else item for item, one in zip(items, places, strict=True)]
            for _, items, places in lessons
        ]

    def publish(self, topic: str, key: bytes | None, value: bytes | None, partition: int = -1, headers: Any = None) -> None:
        self.published.append((topic, key, value))

    def publish_many(self, topic: str, records: Any, partition: int = -1, headers: Any = None) -> None:
        self.published += [(topic, key, value) for key, value in records]

    # what is asked for

    def standing(self, user: str, surface: str = "home") -> None:
        self.maker.want(Standing(0, user, Trigger("event", "e1", 5, PLACE), (surface,), 0.0), self.owed)

    def again(self, user: str, note: bytes = b"n", *, since: float = 1_700_000_000.0, reason: str = "item_removed") -> None:
        trigger = Trigger(reason, "i9", 5, PLACE._replace(source=f"items@{user}"))
        self.notes.setdefault(name_of("home", user), b"n")
        self.maker.again(Again(0, user, "home", trigger, reason, since, 99, note))

    def answer(self, user: str, again: Callable[[Answer], None] = lambda _: None, query: Query | None = None, **fields: Any) -> None:
        request = Request("q1", user, 5, **fields)
        self.maker.answer(Answer(0, request, Trigger("request", "q1", 5, PLACE), self.owed, again, query=query))

    def run(self, turns: int = 20) -> list[tuple[str, bytes | None, bytes | None]]:
        """Pay the handler's own part and let the maker work."""

        async def work() -> None:
            for lesson in self.lessons:
                self.maker.learn(lesson)
            self.owed.paid()
            task = asyncio.create_task(self.maker.run())
            for _ in range(turns):
                await asyncio.sleep(0)
            async with asyncio.timeout(10):
                while self.maker.waiting or self.maker.waiting_again:  # noqa: ASYNC110 - the maker does not tell
                    await asyncio.sleep(0.001)
            assert not task.done(), task.exception()
            task.cancel()

        asyncio.run(work())
        return self.published


def lists(out: list[tuple[str, bytes | None, bytes | None]]) -> dict[bytes | None, Any]:
    """The lists that were published, by key."""
    return {key: json.loads(value or b"null") for topic, key, value in out if topic == "lists"}


def test_what_stands_is_noted() -> None:
    """When a list is published a note says until when it holds, how much was known, and what is in it; forgotten, it goes."""
    world = World()
    world.standing("ann")
    world.standing("bob", "cart")
    world.run()
    page = read_page([world.notes[name_of("home", "ann")] or b"", world.notes[name_of("cart", "bob")] or b""])
    assert page.valid_until.tolist() == [1_700_000_001_000] * 2
    assert page.known.tolist() == [7, 7]
    assert page.of(0) == [item_key("i1")] * 3
    world.maker.forget(0, "ann", ("home",))
    assert world.notes[name_of("home", "ann")] is None


def test_made_again() -> None:
    """A list made again has a new content and the end that it had; where a newer one stands, or the user is gone, nothing is published."""
    world = World()
    world.again("ann")
    world.again("bob", b"older")
    world.again("nobody")
    out = lists(world.run())
    assert list(out) == [b"home:ann"]
    assert (out[b"home:ann"]["valid_until"], out[b"home:ann"]["generated_at"]) == (99, 1_700_000_000_000)
    assert out[b"home:ann"]["trigger"] == {"kind": "item_removed", "item_id": "i9", "timestamp": 5}
    assert read_page([world.notes[name_of("home", "ann")] or b""]).valid_until.tolist() == [99]
    value = world.metrics.registry.get_sample_value
    assert value("headwater_republished_lists_total", {"reason": "item_removed"}) == 1
    assert value("headwater_republish_delay_seconds_count") == 1


def test_made_again_after_others() -> None:
    """Lists that are made again wait while others do; a user who waits anyway gets one list; those that are late go along."""
    world = World()
    world.again("bob")
    world.standing("ann")
    assert list(lists(world.run())) == [b"home:ann", b"home:bob"]
    both = World()
    both.again("ann")
    both.standing("ann")
    out = both.run()
    assert [json.loads(value or b"")["trigger"]["kind"] for topic, _, value in out if topic == "lists"] == ["event"]
    late = World()
    late.standing("ann")
    late.again("bob", since=1_700_000_000.0 - LATE_S - 1)
    turns: list[int] = []
    late.meanwhile = lambda: turns.append(late.maker.waiting_again)
    assert len(lists(late.run())) == 2
    assert turns == [0], "in one turn"


def test_an_erased_user_gets_no_list_again() -> None:
    """Neither one that waits to be made again, nor one that is under way."""
    for under_way in (False, True):
        world = World()
        world.again("ann")
        if under_way:
            world.meanwhile = lambda world=world: world.maker.forget(0, "ann", ("home",))  # type: ignore[misc]
        else:
            world.maker.forget(0, "ann", ("home",))
        assert lists(world.run()) == {b"home:ann": None}
        assert world.notes[name_of("home", "ann")] is None


def test_taken_meanwhile() -> None:
    """What a user takes between a list's making and its publishing is not in it: a standing list, one made again, an answer."""
    for ask in ("standing", "again", "answer"):
        world = World()
        getattr(world, ask)("ann")
        row = world.found[user_key(b"ann")]
        world.meanwhile = lambda row=row: row.seen.update({item_key("i1"): 5})  # type: ignore[misc]
        ((_, _, value),) = world.run()
        assert json.loads(value or b"")["items"] == []
    world = World()
    world.answer("ann", candidates=("i1",), k=1)
    world.meanwhile = lambda: world.found[user_key(b"ann")].seen.update({item_key("i1"): 5})
    ((_, _, value),) = world.run()
    assert len(json.loads(value or b"")["items"]) == 1, "given candidates are ranked, all of them"


def test_taken_meanwhile_among_poison() -> None:
    """The same where lists had to be made one by one."""
    world = World()
    world.standing("ann")
    world.standing("poison", "poison")
    count: list[int] = []

    def meanwhile() -> None:
        count.append(1)
        if len(count) == 3:  # both together, ann's, the other one
            world.found[user_key(b"ann")].seen[item_key("i1")] = 5

    world.meanwhile = meanwhile
    assert lists(world.run()) == {}
    assert world.batch.ended == 1


def test_time_is_kept() -> None:
    """Where no event comes, the clock takes time on to the last start or end of a rule; before any event there is nothing to keep."""
    world, at = World(), 1_700_000_000_000
    rules = compile_rules([Rule("r", "block", {"tags": "x"}, starts_at=at - 5_000, ends_at=at + 5_000)])
    world.maker.keep_time(rules)
    assert world.maker.now == 0
    world.maker.now = at - 60_000
    world.maker.keep_time(rules)
    assert world.maker.now == at - 5_000
    world.maker.now = at - 2 * 86_400_000
    world.maker.keep_time(rules)
    assert world.maker.now == at - 2 * 86_400_000, "history is being replayed"


def test_all_is_paid_once_all_is_published() -> None:
    """A batch is done when its lists, answers and examples are out, and not before."""
    world = World()
    world.standing("ann")
    world.standing("ann")  # coalesced
    world.standing("bob")
    world.answer("ann")
    world.lessons.append(Lesson(TASTE, 1, PLACE, world.owed))
    seen: list[int] = []
    world.meanwhile = lambda: seen.append(world.batch.ended)
    topics = [topic for topic, _, _ in world.run()]
    assert sorted(topics) == ["examples", "lists", "lists", "responses"]
    assert (seen, world.batch.ended) == ([0], 1)


def test_taught_returns_once_the_examples_are_made() -> None:
    """Who waits for examples waits for those asked for so far, which wait for no others then; without any, for nothing."""
    world = World(lessons_s=60.0)

    async def story() -> None:
        task = asyncio.create_task(world.maker.run())
        await asyncio.wait_for(world.maker.taught(), 1)
        for _ in range(LESSONS + 3):
            world.maker.learn(Lesson(TASTE, 1, PLACE, world.owed))
        await asyncio.wait_for(world.maker.taught(), 5)
        assert len(world.published) == LESSONS + 3
        task.cancel()

    asyncio.run(story())


@pytest.mark.parametrize("late", [False, True])
def test_an_erased_user_gets_no_list(late: bool) -> None:
    """A list waiting or under way when its user is erased is not published; the tombstone is the last word, and the batch is done."""
    world = World()
    world.standing("ann")
    world.standing("bob")
    if late:
        world.meanwhile = lambda: world.maker.forget(0, "ann", ("home",))
    else:
        world.maker.forget(0, "ann", ("home",))
    out = world.run()
    assert [(key, value is None) for _, key, value in out if key == b"home:ann"] == [(b"home:ann", True)]
    assert [value is None for _, key, value in out if key == b"home:bob"] == [False]
    assert world.batch.ended == 1


def test_a_lost_partition() -> None:
    """A list whose partition went away while it was made is the next owner's to publish."""
    world = World()
    world.standing("ann")
    world.meanwhile = lambda: setattr(world.part, "closed", True)
    assert world.run() == []
    assert world.batch.ended == 1


def test_poison() -> None:
    """A list that the model does not bear is left out, an answer says so, an example is dropped; all others are made."""
    world = World()
    world.standing("ann")
    world.standing("poison", "poison")
    world.answer("bob", exclude=("poison",))
    for item in (13, 14):
        world.lessons.append(Lesson(TASTE, item, PLACE, world.owed))
    out = world.run()
    assert [key for topic, key, _ in out if topic == "lists"] == [b"home:ann"]
    answers = [json.loads(value or b"") for topic, _, value in out if topic == "responses"]
    assert [(one["items"], one["note"]) for one in answers] == [([], "this list could not be made: the worker's log says why")]
    assert [topic for topic, _, _ in out].count("examples") == 1
    assert world.batch.ended == 1


def test_an_example_counts_as_its_lesson_says() -> None:
    """Rule: the weight that the objective gives an event stands in its example."""
    world = World()
    for weight in (1.0, 3.0):
        world.lessons.append(Lesson(TASTE, WEIGHED, PLACE, world.owed, weight))
    assert [value for topic, _, value in world.run() if topic == "examples"] == [b"1.0", b"3.0"]


def test_a_query_of_another_generation() -> None:
    """A search encoded before a swap is encoded again: one list has one generation; the batch is done when the answer is out."""
    world = World()

    def again(job: Answer) -> None:
        assert world.batch.ended == 0
        job.query = Query("g1", np.zeros(2, np.float32))
        world.maker.answer(job)

    world.answer("ann", again, Query("g0", np.zeros(3, np.float32)))
    assert [topic for topic, _, _ in world.run()] == ["responses"]
    assert world.batch.ended == 1


def test_a_list_that_is_too_large() -> None:
    """It goes without reasons, then cut to what a record holds, and its note says which."""
    for k, most, note in ((50, 4_500, "without reasons"), (100, 3_000, "cut to"), (3, 100, "cut to 0 of 3")):
        world = World(most + HEADERS_BYTES)
        world.answer("ann", k=k)
        (_, _, value), *_ = world.run()
        body = json.loads(value or b"")
        assert body["note"].startswith(note)
        assert len(value or b"") <= max(most, 600)
        assert (len(body["items"]) == k) == (note == "without reasons")


def test_stream_time() -> None:
    """Now is the newest event time that this worker or another has told of; before any event it is the clock's."""
    world = World()
    assert world.maker.stream_time() == 1_700_000_000_000
    world.maker.now = 5
    assert world.maker.stream_time() == 5


def test_room() -> None:
    """A handler waits while too many users do, and goes on when lists were made."""
    world = World()

    async def story(*parts: Coroutine[Any, Any, None]) -> None:
        for n in range(4_001):
            world.standing(f"u{n}")
        waiting = asyncio.create_task(world.maker.room())
        await asyncio.sleep(0)
        assert not waiting.done()
        making = asyncio.create_task(world.maker.run())
        await asyncio.wait_for(waiting, 5)
        making.cancel()

    asyncio.run(story())


def test_load() -> None:
    """The load is the share of the time in which lists are made that somebody waits for; lists made again don't count."""
    idle, busy = World(), World()
    idle.again("ann")
    busy.standing("ann")
    for world in (idle, busy):
        world.meanwhile = lambda: sleep(0.02)
        assert len(lists(world.run())) == 1
    assert idle.maker.load() == 0
    assert busy.maker.load() > 0
