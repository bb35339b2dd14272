"""A model over a handful of items with a history, for tests of ranking. No test itself, and no real data."""

from __future__ import annotations

import numpy as np

from engine.features import Taste, taste_of
from engine.item import Changes, ItemState
from engine.model import Model
from engine.pairs import Delta, packed, rank_weights, written
from engine.partition import item_key
from engine.records import Event, Item
from engine.stats import counts_of
from engine.user import Limits, Position, UserState

START = 1_700_000_000_000
DAY = 86_400_000
DIMS = 6
CREATORS = ("", "Ann", "Bob")
TAGS = (("cave",), ("cave", "lamp"), ("sea",), ())


class Shop:
    """Items i0, i1 ..., users' rows, and a model that is fed as a worker feeds it."""

    def __init__(self, items: int = 30, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.model, self.limits = Model(DIMS), Limits()
        self.users: dict[str, UserState] = {}
        self.rows: dict[int, ItemState] = {}
        self.offset = 0
        vectors = rng.normal(size=(items, DIMS))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        for n in range(items):
            released = None if n % 3 else START - (n - 5) * DAY
            tags, creator = TAGS[n % len(TAGS)], CREATORS[n % len(CREATORS)]
            item = Item(f"i{n}", f"Item {n}", tags=tags, creator=creator, available_from=released, available=n != 7)
            self.model.catalogue.put(item)
            if n % 5:
                self.model.catalogue.put_vector(item_key(f"i{n}"), vectors[n].astype(np.float32))

    def event(self, user: str, item: str, time: int, kind: str = "click", session: str | None = None) -> None:
        """One event, through the user's row to the items' and what all workers read."""
        row = self.users.setdefault(user, UserState())
        place = Position("events", 1, 0, self.offset)
        self.offset += 1
        event = Event(f"e{self.offset}", kind, user, time, item, session)
        change = row.apply(event, place, self.limits, START * 2)
        others = tuple(item_key(other.item_id) for other in change.others)
        delta = Delta(place.offset, time, item_key(item), others, change.together)
        decay, stats = self.model.stats.decay, self.model.stats
        steps = rank_weights(decay, self.limits.pair_window)
        changes = Changes([written("events", 1, 0, packed([delta]))], steps, decay, owner=0, owners=1)
        touched = {key: changes.apply(key, self.rows.setdefault(key, ItemState())) for key in changes.items}
        for key, (used, _) in touched.items():
            if used:
                stats.put(counts_of(key, self.rows[key]))
        for key, (_, paired) in touched.items():
            if paired:
                stats.put_neighbours(stats.publishable(key, stats.choose(self.rows[key].pairs, self.rows[key].last_time or time)))

    def live(self, events: int = 200, seed: int = 1) -> Shop:
        """A past of so many events of ten users, who also take items that the catalogue does not know."""
        rng = np.random.default_rng(seed)
        for n in range(events):
            item = f"i{int(abs(rng.normal(0, 12)))}"
            self.event(f"u{rng.integers(10)}", item, START + n * DAY // 20, session=None if n % 2 else f"s{n // 10}")
        return self

    def taste(self, user: str, later: int = DAY) -> Taste:
        """What the ranker reads of a user, some time after the last event."""
        row = self.users.get(user)
        return taste_of(row, (row.last_time if row else START) + later)
