"""The rows of a file as records of the contract: keyed, checked, every problem named. Not how a file is read, nor where records go."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from engine.columns import EVENTS, READ, REMEDIES, Columns, Kind, columns_of, meaning
from engine.decode import decode_event, decode_item
from engine.document import MAX_RECORD_BYTES
from engine.errors import BadRecord, Problem
from engine.records import EVENT_TYPES, Event, Item
from engine.tablefile import Line, TableFile


class FileRecord(NamedTuple):
    """A row. `line`: where it begins; `key` and `value` as they are sent; `record`: what the value says, None where `problems` say why."""

    line: int
    key: bytes
    value: bytes
    record: Item | Event | None
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """How rows become records. `own`: own column or field -> the contract's; `types`: own event type -> the contract's; `default`: the type
    of rows that name none; `known`: event types beside the contract's.
    """

    kind: Kind
    own: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    default: str = ""
    known: Collection[str] = EVENT_TYPES
    max_bytes: int = MAX_RECORD_BYTES

    def columns(self, table: TableFile) -> Columns | None:
        """Where a table's columns go; None for JSON lines.

        Raises:
            BadSettings, DatasetError: see `columns_of`.
        """
        if table.shape == "json":
            return None
        given = ("type",) if self.kind is EVENTS and not self.default else ()
        return columns_of(self.kind, table.header, self.own, given)

    def records(self, table: TableFile) -> Iterator[FileRecord]:
        r"""Give every row, good or bad, in the file's order.

        >>> import io
        >>> from engine.columns import ITEMS
        >>> from engine.tablefile import open_table
        >>> table = open_table(io.BytesIO(b"id,name,price\ni1,Tea,4\ni2,,x\n"), "items.csv")
        >>> [(one.line, one.value.decode(), [p.field for p in one.problems]) for one in Recipe(ITEMS).records(table)]
        [(2, '{"item_id":"i1","title":"Tea","price":4}', []), (3, '{"item_id":"i2","price":"x"}', ['title', 'price'])]

        Raises:
            BadSettings, DatasetError: the columns don't fit, or the file can't be read on.
        """
        columns = self.columns(table)
        for line in table.lines():
            yield self._record(line, columns)

    def _record(self, line: Line, columns: Columns | None) -> FileRecord:
        if line.problem is not None:
            return FileRecord(line.number, b"", b"", None, (line.problem,))
        document: Any
        if columns is not None:
            document = columns.document(line.cells)
        else:
            try:
                document = msgspec.json.decode(line.raw)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                document = None  # the record's own check says what is wrong
        value = line.raw
        if isinstance(document, dict):
            try:
                changed = self._complete(document, cells=columns is not None)
                value = msgspec.json.encode(document) if changed else value
            except UnicodeEncodeError:
                said = Problem("row", "not_unicode", "half of a surrogate pair", "whole characters", "mend what wrote the file")
                return FileRecord(line.number, b"", b"", None, (said,))
        found = document.get(self.kind.id) if isinstance(document, dict) else None
        try:
            key = found.encode() if isinstance(found, str) else b"?"  # then the check of the id says what is wrong
        except UnicodeEncodeError:
            key = b"?"
        try:
            if self.kind is EVENTS:
                return FileRecord(line.number, key, value, decode_event(value, key, types=self.known, max_bytes=self.max_bytes))
            return FileRecord(line.number, key, value, decode_item(value, key, max_bytes=self.max_bytes))
        except BadRecord as error:
            problems = tuple(_of_file(one) for one in error.problems if one.code != "key_mismatch" or key != b"?")
            return FileRecord(line.number, key, value, None, problems)

    def _complete(self, document: dict[str, Any], *, cells: bool) -> bool:
        """Give fields the contract's names, texts that are no cells their meaning, an event its type and id; whether anything changed.

        An id is a hash of what the row says: the same row loaded again is the same event, and so are two rows that say the same.
        """
        changed = cells
        for own, name in self.own.items():
            if own in document and name not in document:
                document[name], changed = document.pop(own), True
        for name in () if cells else READ & document.keys():
            if isinstance(text := document[name], str) and (read := meaning(name, text.strip())) != text:
                document[name], changed = read, True
        if self.kind is not EVENTS:
            return changed
        kind = document.get("type")
        if kind is None and self.default:
            document["type"], changed = self.default, True
        elif isinstance(kind, str) and kind in self.types:
            document["type"], changed = self.types[kind], True
        if document.get("event_id") is None:
            written = msgspec.json.encode(document, order="sorted")
            document["event_id"], changed = "row:" + blake2b(written, digest_size=16).hexdigest(), True
        return changed


def _of_file(problem: Problem) -> Problem:
    """The same with what to do in a file: the record's own remedy is for programs that send records."""
    remedy = REMEDIES.get(problem.field, problem.remedy) if problem.code in ("wrong_type", "bad_time") else problem.remedy
    if (problem.field, problem.code) == ("type", "unknown"):
        own = problem.found.strip('"')
        remedy = f"rename it with --type {own}=TYPE; {remedy}, here and where workers run"
    return msgspec.structs.replace(problem, remedy=remedy)
