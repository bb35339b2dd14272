"""Which generation serves, as the record `active` of the topic `generations` says it (contract). Not what a generation is."""

from __future__ import annotations

import msgspec

from engine.errors import FOUND_CHARS, ArtefactError, BadRecord, Problem

ACTIVE = b"active"
"""The record's key; the topic's other keys are ids, with manifests."""


class Active(msgspec.Struct, frozen=True):
    """The record `active` of `generations`. `at` in ms; `forced`: serve it although its gate refused it; `hold`: no trainer may put another
    in its place, as after a rollback, until somebody activates one by hand; `files`: `engine.registry.fingerprint` of its manifest, "" from
    releases that did not tell: another registry may have another generation of this id.
    """

    id: str
    share: float = 1.0
    by: str = ""
    at: int = 0
    reason: str = ""
    forced: bool = False
    hold: bool = False
    files: str = ""

    def check(self, files: str, where: str) -> None:
        """See that a generation of this id, with the fingerprint `files`, is the one that is meant.

        Raises:
            ArtefactError: it is another one.
        """
        if self.files and files != self.files:
            remedy = "let HEADWATER_REGISTRY be the same place for workers, trainer and whoever activates"
            raise ArtefactError("other_registry", f"another {self.id} in {where}", "the one that was activated", remedy)


def read_active(value: bytes) -> Active:
    """The record `active`.

    Raises:
        BadRecord: it can't be read.
    """
    try:
        return msgspec.json.decode(value, type=Active)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        expected = '{"id", "share", "by", "at", "reason"}'
        raise BadRecord([Problem("value", "malformed_json", str(error)[:FOUND_CHARS], expected, "send a valid record")]) from error
