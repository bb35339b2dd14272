"""What users did lately, from the end of `events`: the last events of the users active last. Not a user's state, which workers keep."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from engine.records import Event, User
from streams.gateway.bounded import Bounded

EVENTS = 50
"""Events held of one user."""
QUERY_CHARS = 200
"""Characters held of what was searched: as many as the page can ask for. On the topic a query has no bound but the record's."""
ERASED = 100_000
"""Erased users remembered, 200 bytes each: their events stay on the topic until retention ends, and must not be shown again."""


class Did(NamedTuple):
    """An event, as far as it is shown: some 600 bytes, 3 kB at most. `at` is event time in ms."""

    event_id: str
    type: str
    item_id: str | None
    at: int
    query: str | None


class Active(NamedTuple):
    """A user who was active lately; `last` is the newest event held."""

    user_id: str
    events: int
    last: Did


class History:
    """Users and their last events, newest first. ``time``: the largest event time seen, in ms."""

    def __init__(self, most: int) -> None:
        self._users = Bounded[deque[Did]](most)
        self._erased = Bounded[int](ERASED)
        self.time = 0

    def took(self, event: Event) -> None:
        """A record of `events`."""
        self.time = max(self.time, event.timestamp)
        if event.timestamp <= (self._erased.peek(event.user_id) or -1):
            return
        events = self._users.peek(event.user_id) or deque(maxlen=EVENTS)
        if any(known.event_id == event.event_id for known in events):
            return
        events.appendleft(Did(event.event_id, event.type, event.item_id, event.timestamp, event.query and event.query[:QUERY_CHARS]))
        self._users.put(event.user_id, events)

    def told(self, user: User, at_ms: int) -> None:
        """A record of `users`: one that erases the user, says when, is followed."""
        if user.erase:
            self._erased.put(user.user_id, max(user.timestamp or at_ms, self._erased.peek(user.user_id) or 0))
            self._users.drop(user.user_id)

    def of(self, user_id: str) -> list[Did]:
        """A user's last events, newest first."""
        return list(self._users.peek(user_id) or ())

    def lately(self, count: int) -> list[Active]:
        """Users who were active last."""
        return [
            Active(user, len(events), events[0])
            for user, _ in zip(reversed(self._users), range(count), strict=False)
            if (events := self._users.peek(user))
        ]
