"""What the topic `generations` says: which one serves, and what the newest say of themselves. Not their files, which workers read."""

from __future__ import annotations

from typing import Any

import msgspec

from engine.active import ACTIVE, Active, read_active
from streams.gateway.bounded import Bounded

MOST = 50
"""Manifests held, 10 kB each."""
SHOWN = 10


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """A manifest, as far as it is shown; its other fields may change."""

    id: str
    created_at: int = 0
    parent: str | None = None
    verdict: str = ""
    serving: str = ""
    dims: int = 0
    items: int = 0
    variants: dict[str, Any] = {}
    metrics: dict[str, Any] = {}


class Told(msgspec.Struct, frozen=True):
    """``active``: the decision; ``report``: what that generation says of itself; ``newest``: newest first."""

    active: Active | None
    report: Report | None
    newest: list[Report]


_report = msgspec.json.Decoder(Report).decode


class Generations:
    """The records of the topic."""

    def __init__(self) -> None:
        self._active: Active | None = None
        self._reports = Bounded[Report](MOST)

    def took(self, key: bytes, value: bytes | None) -> None:
        """A record of `generations`.

        Raises:
            BadRecord: `active` can't be read.
            msgspec.DecodeError: it is no manifest.
        """
        if key == ACTIVE:
            self._active = None if value is None else read_active(value)
        elif value is None:
            self._reports.drop(key.decode())
        else:
            self._reports.put(key.decode(), _report(value))

    def told(self) -> Told:
        """What there is to show."""
        active = self._active
        reports = [found for name in reversed(self._reports) if (found := self._reports.peek(name))]
        return Told(active, self._reports.peek(active.id) if active else None, reports[:SHOWN])
