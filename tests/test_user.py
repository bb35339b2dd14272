"""A user's row: idempotent, bounded, in order of time, and the same after a round trip. Not where it is kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import StateError
from engine.records import Event
from engine.user import EVENT_IDS_MOST, Limits, Position, UserState, Verdict, decode_user, encode_user, liked

LIMITS = Limits(history=10, seen=12, event_ids=15, pair_window=4)
START = 1_700_000_000_000
LATEST = START * 2

events = st.lists(
    st.builds(
        Event,
        event_id=st.integers(0, 40).map(lambda n: f"e{n}"),
        type=st.sampled_from(["click", "purchase", "dislike", "skip", "search", "unheard-of"]),
        user_id=st.just("u"),
        timestamp=st.integers(START, START + 10_000_000),
        item_id=st.one_of(st.none(), st.integers(0, 9).map(lambda n: f"i{n}")),
        session_id=st.sampled_from([None, "s1", "s2"]),
        value=st.one_of(st.none(), st.floats(0, 5)),
    ),
    max_size=40,
)


def fed(found: list[Event], *, state: UserState | None = None, first: int = 0) -> UserState:
    """The row after these events, from place `first` of the log on."""
    row = state or UserState()
    for n, event in enumerate(found[first:], first):
        row.apply(event, Position("events", 1, 0, n), LIMITS, LATEST)
    return row


@given(events)
def test_replay_gives_the_same_bytes(found: list[Event]) -> None:
    """Rule: a row is a pure function of the log."""
    assert encode_user(fed(found)) == encode_user(fed(found))


@given(events, st.integers(0, 40))
def test_the_same_records_again_change_no_row(found: list[Event], back: int) -> None:
    """Rule: records that a row covers are passed over, from wherever the log is read again."""
    row = fed(found)
    before = encode_user(row)
    assert encode_user(fed(found, state=row, first=min(back, len(found)))) == before


@given(events, st.integers(0, 40))
def test_a_row_read_back_goes_on_as_if_nothing_happened(found: list[Event], cut: int) -> None:
    """Rule: the codec loses nothing: a restart in the middle leaves no trace."""
    cut = min(cut, len(found))
    half = decode_user(encode_user(fed(found[:cut])))
    assert encode_user(fed(found, state=half, first=cut)) == encode_user(fed(found))


@given(events)
def test_rows_are_bounded_and_in_order(found: list[Event]) -> None:
    """Rule: no history makes a row larger than its limits, and interactions stand in order of event time."""
    row = fed(found)
    times = [one.time for one in row.history]
    assert times == sorted(times)
    assert len(row.history) <= LIMITS.history
    assert len(row.seen) <= LIMITS.seen
    assert len(row.event_ids) <= EVENT_IDS_MOST * LIMITS.event_ids


@given(events)
def test_an_event_id_counts_once(found: list[Event]) -> None:
    """Rule: another record with an event id that came lately is a duplicate, wherever it stands in the log."""
    row = UserState()
    ids: set[str] = set()
    for n, event in enumerate(found[:15]):
        verdict = row.apply(event, Position("events", 1, n % 3, n), LIMITS, LATEST).verdict
        assert verdict is (Verdict.DUPLICATE if event.event_id in ids else Verdict.APPLIED)
        ids.add(event.event_id)


@given(events)
def test_pairs_are_with_liked_items_used_before(found: list[Event]) -> None:
    """Rule: an event pairs with at most a window of other liked items, each once, those of its own session first."""
    row = UserState()
    for n, event in enumerate(found):
        change = row.apply(event, Position("events", 1, 0, n), LIMITS, LATEST)
        names = [other.item_id for other in change.others]
        assert len(set(names)) == len(names) <= LIMITS.pair_window
        assert event.item_id not in names
        assert all(other.weight > 0 and other.time <= event.timestamp for other in change.others)
        assert 0 <= change.together <= len(names)
        assert not (change.others and change.weight <= 0)


def test_a_later_dislike_takes_an_item_out_of_the_taste() -> None:
    """Rule: only the newest word on an item counts."""
    log = [Event(f"e{n}", kind, "u", START + n, item) for n, (kind, item) in enumerate([("click", "a"), ("click", "b"), ("dislike", "a")])]
    assert [one.item_id for one in liked(fed(log).history, 5)] == ["b"]


def test_an_erased_user_keeps_positions_only() -> None:
    """Rule: after an erasure nothing older comes back, and nothing is left but where the log was read to."""
    log = [Event(f"e{n}", "click", "u", START + n, "a") for n in range(3)]
    row = fed(log)
    row.erase(START + 10)
    assert (row.history, row.seen, row.event_ids, row.events) == ([], {}, {}, 0)
    assert row.covers(Position("events", 1, 0, 2))
    late = Event("e9", "click", "u", START + 5, "b")
    assert row.apply(late, Position("events", 1, 0, 9), LIMITS, LATEST).verdict is Verdict.ERASED
    assert row.history == []


def test_another_log_is_not_covered() -> None:
    """Rule: a topic made anew has another epoch: its first offsets are new."""
    row = fed([Event("e1", "click", "u", START, "a")])
    assert row.covers(Position("events", 1, 0, 0))
    assert not row.covers(Position("events", 2, 0, 0))
    assert not row.covers(Position("events", 1, 1, 0))


def test_rows_of_an_unknown_format_are_refused() -> None:
    """Rule: bytes of another format or damaged ones are an error with a remedy, not a row."""
    for raw in (b"", b"\xffabc", encode_user(UserState())[:2]):
        with pytest.raises(StateError):
            decode_user(raw)
