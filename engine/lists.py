"""A list as it goes over the wire (contract: recommendations and responses). Not how it is made (`engine.model`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import msgspec

from engine.model import Ranking
from engine.reasons import DIGITS, Reason
from engine.user import Position

RECOMMENDATION = b"headwater.recommendation.v1"
RESPONSE = b"headwater.response.v1"

_ID_FIELDS = {"item_removed": "item_id", "item_unavailable": "item_id"}
"""Kind of trigger -> the field that names what it is about, where that is not `<kind>_id`."""
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Trigger:
    """What a list was made for: an event, a request, a change of the user, what had to be taken out of it, or what was learned since.

    `timestamp` in ms; `position` of the record; `id` of what it is about, "" where there is none.
    """

    kind: str
    id: str
    timestamp: int
    position: Position


def list_id(position: Position, surface: str, generation: str) -> str:
    """A list made again from the same record, for the same surface and generation, has the same id.

    >>> list_id(Position("events", 1, 3, 90211), "home", "g-000042")
    'f881dfa4b543b4ebc9a25c91b7a4603b'
    """
    text = f"{position.source}/{position.epoch}/{position.partition}/{position.offset}/{surface}/{generation}"
    return blake2b(text.encode(), digest_size=16).hexdigest()


def encode_list(
    ranking: Ranking,
    *,
    user_id: str,
    surface: str,
    trigger: Trigger,
    applied: Mapping[str, tuple[int, int]],
    generated_at: int,
    valid_until: int,
    extra: Mapping[str, Any] | None = None,
) -> bytes:
    """The JSON of a list. `applied`: source topic -> (partition, offset); times in ms; `extra`: further fields, `request_id` say."""
    body: dict[str, Any] = {
        "list_id": list_id(trigger.position, surface, ranking.generation),
        "user_id": user_id,
        "surface": surface,
        "generated_at": generated_at,
        "valid_until": valid_until,
        "trigger": _told(trigger),
        "applied": applied,
        "generation": ranking.generation,
        "items": [_Item(one.item_id, rank, round(one.score, DIGITS), 1.0, one.reasons) for rank, one in enumerate(ranking.items)],
    }
    if ranking.note:
        body["note"] = ranking.note
    if extra:
        body.update(extra)
    return _encoder.encode(body)


def _told(trigger: Trigger) -> dict[str, Any]:
    """A trigger as it is sent.

    >>> _told(Trigger("item_removed", "i9", 5, Position("items", 1, 0, 7)))
    {'kind': 'item_removed', 'item_id': 'i9', 'timestamp': 5}
    """
    about = {_ID_FIELDS.get(trigger.kind, f"{trigger.kind}_id"): trigger.id} if trigger.id else {}
    return {"kind": trigger.kind, **about, "timestamp": trigger.timestamp}


class _Item(msgspec.Struct, gc=False):
    item_id: str
    rank: int
    score: float
    propensity: float
    reasons: tuple[Reason, ...]
