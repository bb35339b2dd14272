"""Tells a source log from another one under the same name, so that old offsets are never compared with new ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.errors import StateError
from engine.partition import hash64


class Epochs:
    """The epochs of the source topics as the cluster has them; `accept`: take over a changed one instead of refusing it.

    An epoch is 32 bits of the hash of the topic's id. It stands in every position, and once per partition in the table's internal rows.
    """

    def __init__(self, ids: Mapping[str, str], *, accept: bool = False) -> None:
        self._epochs = {source: hash64(text) & 0xFFFFFFFF for source, text in ids.items()}
        self._accept = accept

    def of(self, source: str) -> int:
        """The epoch of a source."""
        return self._epochs[source]

    def check(self, rows: Any, source: str) -> int:
        """The epoch of a source, noted in the partition's rows.

        Raises:
            StateError: the state was made from another log.
        """
        epoch = self._epochs[source]
        name, now = b"epoch/" + source.encode(), b"%d" % epoch
        known = rows.meta(name)
        if known == now:
            return epoch
        if known is not None and not self._accept:
            raise StateError(
                "log_epoch_changed",
                found=f"{source}[{rows.partition}] is log {epoch:08x}",
                expected=f"log {int(known):08x}, from which the state was made",
                remedy="if the topic was made anew on purpose, start once with `headwater worker --accept-new-logs`; else check the broker",
            )
        rows.set_meta(name, now)
        return epoch
