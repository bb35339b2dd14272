"""What the list maker is asked for: a user's standing lists, one made again, an answer, an example; and the batch that waits for it.

Asked by `streams.intake`, `streams.people`, `streams.asking`, `streams.republisher` and `streams.backfill`; how it is done stands in
`streams.listmaker`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.features import Taste
from engine.lists import Trigger
from engine.records import Request
from engine.user import Position
from streams.lane import Batch

RENEWAL = "renewal"
"""Why a list is made again from which nothing had to be taken: much was learned since."""


@dataclass(slots=True)
class Owed:
    """A batch that is acknowledged once nothing is owed for it any more."""

    batch: Batch
    jobs: int = 1  # one for the handler itself, which is at work on it

    def paid(self) -> None:
        """One job less."""
        self.jobs -= 1
        if not self.jobs:
            self.batch.done()


@dataclass(slots=True)
class Standing:
    """A user whose standing lists are to be made. `read_at`: record time of the oldest event waiting, seconds."""

    partition: int
    user_id: str
    trigger: Trigger
    surfaces: tuple[str, ...]
    read_at: float
    owed: list[Owed] = field(default_factory=list)


@dataclass(slots=True)
class Again:
    """A standing list to be made again as it stands, but for what may not be in it, or what is known by now.

    `note`: what was noted of it when this was decided: a newer one stays. `since`: the time of what it is made for, in seconds.
    """

    partition: int
    user_id: str
    surface: str
    trigger: Trigger
    reason: str
    since: float
    valid_until: int
    note: bytes


class Query(NamedTuple):
    """A search in the space of one generation: `vector` (D,) float32, centred and of unit length."""

    generation: str
    vector: NDArray[np.float32]


@dataclass(slots=True)
class Answer:
    """A request to be answered; `stale`: the event it wanted to be included did not come in time; `note`: what else it could not have.

    `again` is called with it when the query is of another generation than the one in use meanwhile.
    """

    partition: int
    request: Request
    trigger: Trigger
    owed: Owed
    again: Callable[[Answer], None]
    stale: bool = False
    query: Query | None = None
    note: str = ""


@dataclass(slots=True)
class Lesson:
    """An example to be made: this taste, and the item taken; `weight`: how much it counts (`engine.objective`)."""

    taste: Taste
    item: int
    position: Position
    owed: Owed
    weight: float = 1.0
