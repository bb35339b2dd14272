"""How good the lists were that stood on the topic when the next event came: NDCG@10 of what was live, not of lists made afterwards.

The rule is the protocol's table `next`: a case is an event of a user with earlier events, on an item that is new to the user.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from engine.catalogue import DAY_MS
from engine.dataset import Dataset, Row
from engine.figures import Figures, figures
from engine.pairs import Decay

POPULARITY_DAYS = Decay().popularity_days
"""Half-lives of the popularity that lists are compared with: those of the engine's own channels."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A case: `step` is its place among the sent rows, `listed` the item ids that stood on the topic."""

    step: int
    listed: tuple[str, ...]


@dataclass(slots=True)
class Quality:
    """Collects cases in the order in which rows are sent."""

    rows: list[Row] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    known: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    def before(self, row: Row, listed: tuple[str, ...] | None) -> None:
        """Note a row that is about to be sent; `listed`: the user's standing list, None where it is not to be judged."""
        own = self.known[row.user]
        if listed is not None and own and row.item >= 0 and row.item not in own:
            self.asked.append(Asked(len(self.rows), listed))
        own.add(row.item)
        self.rows.append(row)

    def live(self) -> Figures:
        """Figures of the lists that were live."""
        return figures((self.rows[a.step].user, _place(a.listed, self.rows[a.step].item_id)) for a in self.asked)

    def popularity(self, dataset: Dataset) -> Mapping[float, Figures]:
        """Half-life in days -> figures, on the same cases, of a list of the most used items that are new to the user."""
        return {days: figures(_popular(self.rows, self.asked, len(dataset.items), days)) for days in POPULARITY_DAYS}


def _place(listed: Sequence[str], item_id: str) -> int | None:
    return listed.index(item_id) if item_id in listed else None


def _popular(rows: Sequence[Row], asked: Sequence[Asked], items: int, days: float) -> list[tuple[str, int | None]]:
    """(user, rank of the item taken) for each case; scores grow with time instead of fading, which orders them the same way."""
    scores, reference = np.zeros(items), rows[0].time if rows else 0.0
    known: defaultdict[str, list[int]] = defaultdict(list)
    cases = {a.step for a in asked}
    out: list[tuple[str, int | None]] = []
    for step, row in enumerate(rows):
        if row.item < 0:
            continue
        if step in cases:
            better = scores > scores[row.item]
            better[known[row.user]] = False
            out.append((row.user, int(better.sum()) if scores[row.item] > 0 else None))
        known[row.user].append(row.item)
        scores[row.item] += 2.0 ** ((row.time - reference) * 1000 / (days * DAY_MS))
    return out
