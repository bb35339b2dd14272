"""All that the gateway holds in memory, in one place; what is read fills it, what is asked reads it. Nothing here speaks Kafka or HTTP."""

from __future__ import annotations

from dataclasses import dataclass

from streams.gateway.asking import Asking
from streams.gateway.catalogue import Items, Rules
from streams.gateway.flow import Flow
from streams.gateway.generations import Generations
from streams.gateway.history import History
from streams.gateway.letters import Letters
from streams.gateway.standing import Listed, Standing, read_head


@dataclass(frozen=True)
class Views:
    """One attribute for each thing that is held."""

    standing: Standing
    asking: Asking
    items: Items
    rules: Rules
    history: History
    flow: Flow
    letters: Letters
    generations: Generations

    def listed(self, key: str, value: bytes | None, at_ms: int) -> None:
        """A record of `recommendations`; None for a list that ended.

        Raises:
            msgspec.DecodeError: it is no list.
        """
        if value is None:
            self.standing.take(key, None)
            return
        head = read_head(value)
        self.flow.listed(head.applied.get("events") if head.trigger.kind == "event" else None, at_ms)
        self.standing.take(key, Listed(head.list_id, head.valid_until, value))
