"""What a cycle learns from: which events count, in what order, and how they are cut. Not how they are read."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.partition import hash64
from engine.protocol import stream
from engine.records import Event, Item
from export.slice import Collector, Dropped, People, Slice, cut, dataset_of, windows

HOUR = 3_600_000
START = 1_700_000_000_000
WEIGHTS = {"view": 0.3, "click": 1.0, "dislike": -2.0, "rating": 1.0}
ITEMS = [Item(f"i{n}", f"Item {n}", available_from=START if n == 3 else None) for n in range(20)]
INDEX = {item.item_id: n for n, item in enumerate(ITEMS)}


def click(number: int, user: str = "u", item: str | None = None, time: int | None = None, **fields: object) -> Event:
    """A click of a user on the item with that number, an hour after the one before."""
    at = START + number * HOUR if time is None else time
    return Event(f"e{number}", str(fields.pop("type", "click")), user, at, item or f"i{number % 20}", **fields)  # type: ignore[arg-type]


def collected(*events: Event, people: People | None = None, most_per_day: int = 1_000) -> tuple[Slice, Dropped]:
    """The slice of these events."""
    into = Collector(WEIGHTS, INDEX, people or People())
    for event in events:
        into.add(event)
    return into.finish(most_per_day)


def test_what_says_nothing_for_an_item_is_left_out_and_counted() -> None:
    """Rule: only events with a positive weight on known items count; each other is counted by why it does not."""
    low, high, none = (click(3 + n, type="rating", value=value) for n, value in enumerate((2.0, 4.0, float("nan"))))
    events, dropped = collected(click(1), click(2, type="dislike"), low, high, none, click(6, item="nobody-knows"))
    assert events.items.tolist() == [1, 4]
    assert dropped == Dropped(without_interest=3, unknown_item=1)


def test_nothing_is_learned_of_those_who_do_not_want_it() -> None:
    """Rule: events of users who are not to be personalised, and of aliases of them, are left out; of an erased one those until the erasure.
    An alias's events are those of the user it is.
    """
    alias = {hash64("anon"): hash64("quiet"), hash64("phone"): hash64("anna")}
    people = People(frozenset({hash64("quiet")}), alias, {hash64("anna"): START + 4 * HOUR})
    events, dropped = collected(click(1, "quiet"), click(2, "anon"), click(3, "phone"), click(4, "anna"), click(5, "phone"), people=people)
    assert events.users.tolist() == [hash64("anna")]
    assert events.items.tolist() == [5]
    assert dropped.silent_user == 4


def test_aliases_in_a_circle_end() -> None:
    """Rule: whatever aliases say of each other, each event belongs to somebody."""
    assert People(alias={1: 2, 2: 1}).of(1) in (1, 2)


def test_duplicates() -> None:
    """Rule: an event id counts once a user, and an item once a session, or once a minute without one."""
    events, dropped = collected(
        click(1),
        click(1),  # the same event
        click(1, "other"),  # another user's of the same id
        click(2, item="i7", time=START, session_id="s"),
        click(3, item="i7", time=START + 10 * HOUR, session_id="s"),
        click(4, item="i8", time=START + 1),
        click(5, item="i8", time=START + 2),
        click(6, item="i8", time=START + HOUR),
    )
    assert dropped.duplicate == 3
    assert len(events) == 5


def test_robots() -> None:
    """Rule: a user with more events on one day than a person makes is left out with all of them, whoever else was busy."""
    robot = [click(n, "robot", time=START + n * 60_000) for n in range(50)]
    person = [click(100 + n, "person", time=START + n * HOUR) for n in range(50)]
    events, dropped = collected(*robot, *person, most_per_day=30)
    assert set(events.users.tolist()) == {hash64("person")}
    assert dropped.robot == 50


def test_the_newest_are_held_out() -> None:
    """Rule: events from the cut on are the newest share, and nothing trained on is as new."""
    events, _ = collected(*(click(n) for n in range(100)))
    time = cut(events, 0.1)
    assert len(events.before(time)) == 90
    assert events.before(time).times.max() < time


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 19)), max_size=120), st.integers(2, 9))
def test_windows_hold_each_step_once(taken: list[tuple[int, int]], length: int) -> None:
    """Property: pieces are at most `length` long; together they hold each step from one different item of a user to the next, once."""
    events, _ = collected(*(click(n, f"u{user}", f"i{item}") for n, (user, item) in enumerate(taken)))
    steps = []
    for user in range(5):
        own = list(dict.fromkeys(item for one, item in taken if one == user))
        steps += list(itertools.pairwise(own))
    found = windows(events, length, 1_000, seed=1)
    assert all(2 <= len(piece) <= length for piece in found)
    assert sorted((int(a), int(b)) for piece in found for a, b in itertools.pairwise(piece)) == sorted(steps)


def test_of_a_busy_user_the_newest_count() -> None:
    """Rule: no user gives more than so many items to a cycle."""
    events, _ = collected(*(click(n) for n in range(20)))
    assert sorted(int(one) for piece in windows(events, 8, 5, 0) for one in piece) == [15, 16, 17, 18, 19]


def test_as_a_data_set() -> None:
    """Rule: evaluation sees the same events, in order of time, with nobody's id in them."""
    events, _ = collected(*(click(n, f"user-{n % 3}") for n in range(30)))
    data = dataset_of(events, ITEMS, "cycle")
    rows = stream(data)
    assert [row.item for row in rows] == events.items.tolist()
    assert [round(row.time * 1000) for row in rows] == events.times.tolist()
    assert not any("user" in row.user for row in rows)
    assert data.available_from[3] == START / 1000


def test_memory_is_as_documented() -> None:
    """Rule: 37 bytes an event."""
    events, _ = collected(*(click(n) for n in range(50)))
    arrays = (events.users, events.items, events.times, events.sessions, events.ids, events.kinds)
    assert sum(one.nbytes for one in arrays) == 37 * len(events)
    assert np.all(np.diff(events.times) >= 0)
