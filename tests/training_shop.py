"""A small shop with families of items that users stay in, as a recorded data set. Simulated, for tests of training; not a test."""

from __future__ import annotations

import numpy as np

from engine.dataset import Dataset, Row, tie_of
from engine.records import Item
from tests.tiny_bert import WORDS

FAMILIES, SIZE, USERS = 12, 8, 150
DAY_S = 86_400.0


def shop(events: int = 3_000, seed: int = 0) -> Dataset:
    """Families share no word: only users tell that items belong together. A user takes from two families, now and then from any."""
    draw = np.random.default_rng(seed)
    families = np.repeat(np.arange(FAMILIES), SIZE)
    words = draw.permutation(len(families)) % len(WORDS)
    items = tuple(
        Item(f"i{n}", f"{WORDS[words[n]]} {WORDS[int(draw.integers(len(WORDS)))]} {n}", categories=("any",)) for n in range(len(families))
    )
    own = draw.integers(0, FAMILIES, (USERS, 2))
    rows = []
    for n in range(events):
        user = int(draw.integers(USERS))
        family = int(own[user, draw.integers(2)]) if draw.random() < 0.95 else int(draw.integers(FAMILIES))
        item = int(draw.choice(np.flatnonzero(families == family)))
        time = 1_600_000_000.0 + n * 90.0
        rows.append(Row(n, time, f"u{user}", item, "", tie_of(str(time), f"u{user}", f"i{item}"), "click", f"i{item}"))
    return Dataset("training-shop", {}, items, (None,) * len(items), {item.item_id: n for n, item in enumerate(items)}, tuple(rows))
