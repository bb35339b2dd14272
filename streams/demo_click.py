"""The demo's click: which user is shown, on what the user clicks, and the lists before and after. Not how they are told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.dataset import Row
from engine.errors import HeadwaterError
from streams import demo_words as words
from streams.outside import Outside

SITTING_MS = 60_000
CLICK_S = 30.0
LATELY = 300
"""Events among which a user to show is sought, a month: an older list would change by its age as well as by the click."""
PLAYS = (5, 40)
"""How many plays a user has whose list is shown: enough for a taste, few enough to be shaped by one more."""


@dataclass(frozen=True, slots=True)
class Click:
    """A user's list before and after a click on one of its items; `seconds` from before send() to the list."""

    user: str
    clicked: words.Listed
    before: words.Made
    after: words.Made
    seconds: float


def click_of(watch: Callable[[], None], outside: Outside, rows: Sequence[Row]) -> Click:
    """Let a user with a taste click on an item of the standing list, a minute after the recorded events end."""
    user = _with_taste(outside, rows)
    before = words.read_list(outside.standing[user].value)
    clicked = max(before.items, key=_personal)
    event = {
        "event_id": f"click:{user}",
        "type": "click",
        "user_id": user,
        "item_id": clicked.item_id,
        "timestamp": round(rows[-1].time * 1000) + SITTING_MS,  # on the recorded clock: the wall clock is years ahead, and all would age
        "list_id": before.list_id,
        "position": clicked.rank,
    }
    at = time.perf_counter()
    outside.send(user, json.dumps(event).encode())
    while outside.busy(user) and time.perf_counter() < at + CLICK_S:
        watch()
        outside.read(0.05)
    standing = outside.standing[user]
    if outside.busy(user):
        raise HeadwaterError("no_list", f"none {CLICK_S:g} s after a click", "a list", "read the worker's log", retryable=True)
    return Click(user, clicked, before, words.read_list(standing.value), standing.read_at - at)


def _with_taste(outside: Outside, rows: Sequence[Row]) -> str:
    """The user whose list speaks most of the user's own items, of those who played lately."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.user] = counts.get(row.user, 0) + 1
    lately = dict.fromkeys(row.user for row in rows[-LATELY:])
    fitting = [u for u in lately if PLAYS[0] <= counts[u] <= PLAYS[1] and u in outside.standing] or [*outside.standing]
    return max(fitting, key=lambda u: sum(map(_personal, words.read_list(outside.standing[u].value).items)))


def _personal(one: words.Listed) -> float:
    """The part of a score that comes from items which the user played, 0..1."""
    parts = [(r.weight, r.item_id is not None) for r in one.reasons if r.weight > 0]
    return sum(w for w, own in parts if own) / max(1e-9, sum(w for w, _ in parts))
