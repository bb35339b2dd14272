"""The protocol: our cases and figures are the reference's, on the recorded data sets and on small streams made by hand."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from engine import dataset, figures, protocol
from engine.dataset import Row
from engine.protocol import Ask, Case, Learn, Table

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
REFERENCE = SHARED / "tools" / "protocol.py"
DATA_SETS = ("ifdb-played", "online-retail", "ml-latest-small-2016")


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """The reference implementation, where the checkout has it beside it."""
    if not REFERENCE.exists():
        pytest.skip(f"no reference at {REFERENCE.relative_to(ROOT.parent)}")
    spec = importlib.util.spec_from_file_location("reference_protocol", REFERENCE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def row(n: int, time: float, user: str, item: int, *, session: str = "", rating: float | None = None) -> Row:
    """A row with the tie that its values give."""
    tie = dataset.tie_of(f"{time:.0f}", user, str(item))
    return Row(n, time, user, item, session, tie, "click", str(item), rating)


def steps(events: Sequence[Row], table: Table, wanted: int = 1000) -> list[str]:
    """`L1,2` for rows 1 and 2 learned, `A3>7+2` for a case at row 3 about item 7 with two learned events."""
    out = []
    for step in protocol.operations(events, table, wanted):
        if isinstance(step, Learn):
            out.append("L" + ",".join(str(e.row) for e in step.events))
        else:
            out.append(f"A{step.case.id.partition(':')[2]}>{step.case.target}+{step.case.earlier}")
    return out


@pytest.mark.parametrize("name", DATA_SETS)
def test_cases_and_figures_equal_the_reference(reference: ModuleType, name: str) -> None:
    """Rule: same cases, order of learning, candidates' dates and figures as the reference, on both tables."""
    folder = SHARED / "data" / name
    if not folder.exists():
        pytest.skip(f"no data set {name}")
    data = dataset.read(folder)
    events = protocol.stream(data)
    their_items, their_events = reference.read(str(folder))
    assert [i["available_from"] for i in their_items] == list(data.available_from)
    assert [(e.row, e.time, e.user, e.item, e.tie) for e in their_events] == [(e.row, e.time, e.user, e.item, e.tie) for e in events]
    for table in protocol.TABLES:
        cases: list[Case] = []
        for ours, (kind, theirs) in zip(protocol.operations(events, table), reference.operations(their_events, table), strict=True):
            if isinstance(ours, Learn):
                assert kind == "learn"
                assert [e.row for e in ours.events] == [e.row for e in theirs]
            else:
                assert kind == "ask"
                assert dataclasses.astuple(ours.case) == tuple(theirs)
                cases.append(ours.case)
        rng = np.random.default_rng(7)
        ranks = {c.id: int(r) if (r := rng.integers(0, 15)) < 13 else None for c in cases}
        some = {c.id for c in cases[::3]}
        assert figures.summary(cases, ranks, some) == reference.summary(cases, ranks, some)
    if len(events) < 50_000:  # once more through everything: seconds on the largest
        assert protocol.cases_of(events, "next")[1] == reference.cases_of(their_events, "next", protocol.WANTED)[1]


def test_next_asks_before_a_new_item_of_a_known_user() -> None:
    """Rule: `next` asks only where the user has earlier events and the item is new, and learns each row after it was asked about."""
    events = [row(n, float(n), u, i) for n, (u, i) in enumerate([("a", 1), ("b", 1), ("a", 2), ("a", 1), ("c", 3), ("a", 3), ("b", 2)])]
    assert steps(events, "next") == ["L0", "L1", "A2>2+1", "L2", "L3", "L4", "A5>3+3", "L5", "A6>2+1", "L6"]


def test_session_learns_only_what_ended() -> None:
    """Rule: `session` asks at a session's start, and a session that is still open then has not been learned."""
    hour = 3600.0
    plan = [
        (0.0, "a", 1),
        (60.0, "a", 2),
        (hour, "b", 1),
        (hour + 900, "a", 3),
        (hour + 1000, "b", 4),
        (3 * hour, "b", 5),
        (3 * hour + 1, "b", 1),
    ]
    events = [row(n, *p) for n, p in enumerate(plan)]
    got = steps(events, "session")
    # rows 2 and 4 are one session of b, open while a comes back (3); it is learned before b's next session (5, 6), as is a's (3)
    assert got[:2] == ["L0,1", "A3>3+2"]
    assert got[2:] == ["L3", "L2,4", "A5>5+2"]


def test_session_ids_go_before_the_gap() -> None:
    """Rule: with session ids, neither a long gap splits a session nor a short one joins two."""
    events = [row(0, 0.0, "a", 1, session="x"), row(1, 9999.0, "a", 2, session="x"), row(2, 10000.0, "a", 3, session="y")]
    assert [[e.row for e in s] for s in protocol.sessions(events)] == [[0, 1], [2]]


def test_equal_times_are_ordered_by_hash_not_by_file() -> None:
    """Rule: rows of equal time come in the same order wherever they stand in the file."""
    rows = [row(n, 5.0, "a", item) for n, item in enumerate([11, 12, 13, 14, 15])]
    turned = [row(n, 5.0, "a", item) for n, item in enumerate([15, 14, 13, 12, 11])]
    assert [r.item for r in protocol.in_order(rows)] == [r.item for r in protocol.in_order(turned)]


def test_low_ratings_and_unknown_items_are_not_in_the_stream() -> None:
    """Rule: ratings below 3.5 (0 and "nan" too) and items outside the catalogue are dropped; no rating is a positive."""
    ratings = [None, 3.5, 3.4, 0.0, math.nan, 5.0]
    rows = [row(n, float(n), "a", n, rating=r) for n, r in enumerate(ratings)] + [row(6, 6.0, "a", -1)]
    data = dataset.Dataset("x", {}, (), (), {}, tuple(rows))
    assert [r.row for r in protocol.stream(data)] == [0, 1, 5]


def test_a_cut_stream_asks_the_same_while_all_are_asked() -> None:
    """Rule: with all cases wanted, a stream that ends earlier leads to the same steps after the start, up to its end."""
    rng = np.random.default_rng(3)
    plan = zip(range(300), np.cumsum(rng.integers(0, 400, 300)), rng.integers(0, 9, 300), rng.integers(0, 30, 300), strict=True)
    events = protocol.in_order(row(n, float(t), f"u{u}", int(i)) for n, t, u, i in plan)
    whole, cut = steps(events, "next", 300), steps(events[:200], "next", 200)
    first = events[int(300 * protocol.WARM)].row
    assert whole[whole.index(f"L{first}") : whole.index(f"L{events[199].row}")] == cut[cut.index(f"L{first}") : -1]


def test_empty_and_impossible() -> None:
    """Rule: an empty stream asks nothing; a wrong table or number of cases is refused."""
    assert list(protocol.operations([], "next")) == []
    with pytest.raises(ValueError, match="at least 1"):
        list(protocol.operations([], "next", 0))
    with pytest.raises(ValueError, match="'daily'"):
        list(protocol.operations([], "daily"))  # type: ignore[arg-type]  # what the check is for


def test_every_step_is_one_of_two_kinds() -> None:
    """Rule: each row is learned exactly once in `next`; a case never comes after its row was learned."""
    events = [row(n, float(n), "a", n) for n in range(20)]
    learned: list[int] = []
    for step in protocol.operations(events, "next"):
        if isinstance(step, Ask):
            assert int(step.case.id.partition(":")[2]) not in learned
        else:
            learned += [e.row for e in step.events]
    assert learned == list(range(20))


def test_slices_and_missing_ranks() -> None:
    """Rule: a case without a rank is a miss; users with at most 3 learned events and items nobody used form the slices."""
    cases = [Case("next:1", 0.0, "a", 1, 3), Case("next:2", 0.0, "a", 2, 4), Case("next:3", 0.0, "b", 3, 9)]
    got = figures.summary(cases, {"next:1": 0, "next:2": None}, {"next:3"})
    assert (got["cases"], got["HR@10"], got["NDCG@10"]) == (3, 0.3333, 0.3333)
    assert got["new_users"] == {"cases": 1, "HR@10": 1.0, "NDCG@10": 1.0, "se": 0.0, "MRR@10": 1.0}
    assert got["new_items"]["NDCG@10"] == 0.0
    assert figures.summary([], {}, ()) == {"cases": 0, "new_users": {"cases": 0}, "new_items": {"cases": 0}}
