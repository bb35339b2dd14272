"""Surfaces beside the configured ones that events have named, remembered per partition so that an erased user's lists are found. No lists.

They stand in an internal row of the users table. Their number is bounded: a producer that makes up names fills no topic.
"""

from __future__ import annotations

from typing import Any

ROW = b"surfaces"
MOST = 32
"""Surfaces beside the configured ones in one partition; of further ones no standing lists are made."""


def noted(rows: Any) -> tuple[str, ...]:
    """The surfaces noted in a partition's rows."""
    raw = rows.meta(ROW)
    return tuple(raw.decode().split(",")) if raw else ()


def note(rows: Any, surface: str) -> bool:
    """Note a surface; False when there are too many already."""
    known = noted(rows)
    if surface in known:
        return True
    if len(known) >= MOST:
        return False
    rows.set_meta(ROW, ",".join((*known, surface)).encode())
    return True
