"""The list maker: what is owed is paid on every path, and what can't be made, or may not be published any more, harms nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.lists import Trigger
from engine.model import Ask, Ranked, Ranking
from engine.reasons import Reason
from engine.records import Request
from engine.user import Position, UserState, user_key
from streams.listmaker import AT_ONCE, HEADERS_BYTES, Answer, Lesson, ListMaker, Owed, Query, Standing, Targets
from streams.metrics import Metrics

PLACE = Position("events", 1, 0, 7)
TASTE: Any = None


class World:
    """A model that ranks, an outbox that writes down, and rows of one partition; `meanwhile` runs while lists are under way."""

    def __init__(self, max_bytes: int = 100_000) -> None:
        self.published: list[tuple[str, bytes | None, bytes | None]] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.generation = "g1"
        self.lock = asyncio.Lock()
        self.lessons: list[Lesson] = []
        self.found: dict[bytes, UserState] = {user_key(name.encode()): UserState(events=1) for name in ("ann", "bob", "poison")}
        self.notes: dict[bytes, bytes | None] = {}
        self.part: Any = SimpleNamespace(get=self.found.get, closed=False, note=self.notes.get, set_note=self.notes.__setitem__)
        anything: Any = self
        self.maker = ListMaker(
            anything,
            anything,
            anything,
            anything,
            Metrics(),
            Targets("lists", "responses", "examples", 3, 1_000, max_bytes),
            size=64,
            encode_example=lambda example: b"example",
            lessons_s=0.0,
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

    def example(self, taste: Any, item: int, position: Position) -> Any:
        if item == 13:
            raise ValueError("poison")
        return item

    def publish(self, topic: str, key: bytes | None, value: bytes | None, partition: int = -1, headers: Any = None) -> None:
        self.published.append((topic, key, value))

    def publish_many(self, topic: str, records: Any, partition: int = -1, headers: Any = None) -> None:
        self.published += [(topic, key, value) for key, value in records]

    # what is asked for

    def standing(self, user: str, surface: str = "home") -> None:
        self.maker.want(Standing(0, user, Trigger("event", "e1", 5, PLACE), (surface,), 0.0), self.owed)

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
            assert not task.done(), task.exception()
            task.cancel()

        asyncio.run(work())
        return self.published


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
