"""A recorded data-set folder (contract, last section) read into items and rows. Not the protocol's order or cases, and no sending."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import math
import re
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from engine.errors import DatasetError, shorten
from engine.records import EVENT_TYPES, Item

PRICED = frozenset({"cart", "purchase"})
"""Event types whose `value` is a price; elsewhere a price stands in the context."""
ITEMS = "items.tsv.gz"
EVENTS = "events.tsv.gz"
META = "META.json"
ITEM_COLUMNS = ("item_id", "title")
EVENT_COLUMNS = ("timestamp", "user_id", "item_id", "event_type")
LATEST_S = 10**11
"""A time of an event at or above this (year 5138) is in milliseconds, not in seconds."""
YEAR_CHARS = 4
COMMON = 0.05
"""A strong separator (| > ;) counts when at least this share of a column's values has it: one stray character decides nothing."""
KNOWN_COLUMNS = frozenset(
    {"item_id", "title", "description", "author", "creator", "category", "categories", "tags", "price", "published", "published_at", "year"}
    | {"available_from", "domain", "language"}
)
"""Columns of items that have a field of their own; any other becomes one of the item's attributes."""


class Row(NamedTuple):
    """One row of events.tsv.gz. ``item`` is an index into the data set's items, or -1 for an item that they do not hold."""

    row: int  # place in the file, from 0
    time: float  # seconds since the epoch, UTC
    user: str
    item: int
    session: str  # "" without one
    tie: bytes  # draws the order among rows of equal time
    type: str  # an event type of the contract, or one that was mapped to
    item_id: str
    rating: float | None = None
    price: float | None = None
    quantity: float | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set in memory: `items` in the file's order, `rows` in the file's order, which means nothing for rows of equal time.

    ``available_from`` has, per item, seconds since the epoch or None (a candidate from the start).
    """

    name: str
    meta: Mapping[str, Any]
    items: tuple[Item, ...]
    available_from: tuple[float | None, ...]
    index: Mapping[str, int]
    rows: tuple[Row, ...]


def value_of(row: Row) -> float | None:
    """What an event of this row has as its `value` (contract: events): a rating or a price, by type.

    >>> value_of(Row(7, 0.0, "u1", 0, "s", b"", "purchase", "i1", None, 4.25, 6.0))
    4.25
    """
    value = row.rating if row.type == "rating" else row.price if row.type in PRICED else None
    return value if value is not None and math.isfinite(value) else None


def moment(text: str | None) -> float | None:
    """Seconds since the epoch of a year or an ISO date, read as UTC whatever zone it names (as the protocol does); None if it is neither.

    >>> moment("1970"), moment("2007-12-25 18:26:58"), moment("soon"), moment(None)
    (0.0, 1198607218.0, None, None)
    """
    text = (text or "").strip()
    try:
        when = datetime(int(text), 1, 1, tzinfo=UTC) if len(text) == YEAR_CHARS else datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        return None
    return when.timestamp()


def splitter(values: Collection[str], *, spaces: bool = False) -> re.Pattern[str] | None:
    """What separates the parts of a column's values, seen over the whole column; None when each value is one part.

    In order: `|`, `>` and `;` where they are common; `/` and `,` where they occur (only `,` in tags); with `spaces` also spaces, where few
    words make many values.

    >>> splitter(["Fantasy/RPG", "Slice of life"], spaces=True).split("Slice of life/RPG")
    ['Slice of life', 'RPG']
    >>> splitter(["Drama", "Comedy", "Drama Comedy", "Comedy War Drama", "Drama War", "Comedy War", "War"], spaces=True).split("War Drama")
    ['War', 'Drama']
    """
    filled = [v for v in values if v]
    if sum(any(c in v for c in "|>;") for v in filled) > COMMON * len(filled):
        return re.compile(r"[|>;]")
    weak = "/," if spaces else ","
    if any(c in v for v in filled for c in weak):
        return re.compile(f"[{weak}]")
    distinct = set(filled)
    if spaces and 2 * len({word for v in distinct for word in v.split()}) < len(distinct):
        return re.compile(r"\s+")
    return None


def parts(value: str, separator: re.Pattern[str] | None) -> tuple[str, ...]:
    """The parts of one value, trimmed, without empty ones and repeats.

    >>> parts("a, b,,a", re.compile(","))
    ('a', 'b')
    """
    pieces = separator.split(value) if separator else [value]
    return tuple(dict.fromkeys(p for p in (piece.strip() for piece in pieces) if p))


def tie_of(timestamp: str, user: str, item: str) -> bytes:
    """The protocol's draw among rows of equal time: a hash of what the row says, as it is written."""
    return hashlib.blake2b(f"{timestamp}|{user}|{item}".encode(), digest_size=8).digest()


def read(folder: Path, *, types: Mapping[str, str] | None = None) -> Dataset:
    """Read a folder; `types` maps the data set's own event types to the contract's and goes before META.json's table.

    Raises:
        DatasetError: a file is missing or damaged, a column is missing, a value cannot be read, or an event type has no meaning.
    """
    meta = _meta(folder)
    items, available = _items(folder / ITEMS, meta.get("available_from"))
    index: dict[str, int] = {}
    for n, item in enumerate(items):
        if index.setdefault(item.item_id, n) != n:
            _bad(folder / ITEMS, n + 2, "repeated_item", f"item_id {item.item_id!r} again", "each item once", "drop one of the two rows")
    mapping = {**meta.get("types", {}), **(types or {})}
    rows = tuple(_rows(folder / EVENTS, index, mapping, set((types or {}).values())))
    return Dataset(str(meta.get("name") or folder.resolve().name), meta, items, available, index, rows)


def _bad(path: Path, line: int, code: str, found: str, expected: str, remedy: str) -> NoReturn:
    where = f"{path}, line {line}" if line else str(path)
    raise DatasetError(code, f"{where}: {shorten(found, 200)}", expected, remedy)


def _meta(folder: Path) -> dict[str, Any]:
    path = folder / META
    if not folder.is_dir():
        _bad(folder, 0, "no_folder", "no folder", f"a folder with {META}, {ITEMS} and {EVENTS}", "name a data-set folder")
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        _bad(path, 0, "no_file", "no file", "a JSON object about the data set", "add it; {} will do")
    except json.JSONDecodeError as error:
        _bad(path, error.lineno, "not_json", error.msg, "a JSON object", "mend the JSON")
    except (OSError, UnicodeDecodeError) as error:
        _bad(path, 0, "unreadable_file", str(error), "a JSON object in UTF-8", "check the file")
    if not isinstance(meta, dict):
        _bad(path, 1, "not_json", type(meta).__name__, "a JSON object", "put the fields into an object")
    table, column = meta.get("types", {}), meta.get("available_from")
    if not (isinstance(table, dict) and all(isinstance(v, str) for v in table.values())):
        _bad(path, 0, "bad_types", json.dumps(table), "`types`: own event type -> the contract's", 'write {"played": "click"}')
    if not isinstance(column, str | None):
        _bad(path, 0, "bad_column", json.dumps(column), "`available_from`: the name of a column of items", "name one, or leave it out")
    return meta


def _table(path: Path, required: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Lines of a tab-separated, gzipped table: (line number, column -> text, "" where the row ends early)."""
    line = 1
    try:
        with gzip.open(path, "rt", newline="", encoding="utf-8") as file:
            reader = csv.reader(file, delimiter="\t")
            header = next(reader, [])
            missing = [c for c in required if c not in header]
            if missing:
                found = "columns " + ", ".join(header) if header else "an empty file"
                _bad(path, 1, "missing_column", found, "columns " + ", ".join(required), "add " + ", ".join(missing))
            blank = dict.fromkeys(header, "")
            for values in reader:
                line = reader.line_num
                if len(values) > len(header):
                    _bad(path, line, "too_many_fields", f"{len(values)} fields", f"{len(header)}", "quote the field that holds a tab")
                if values:
                    record = blank | dict(zip(header, values, strict=False))
                    for column in required:
                        if not record[column] and column != "title":
                            _bad(
                                path,
                                line,
                                "missing_value",
                                f"no {column}",
                                f"a value for each of {', '.join(required)}",
                                "fill or drop the row",
                            )
                    yield line, record
    except FileNotFoundError:
        _bad(path, 0, "no_file", "no file", "a gzipped table of tab-separated values", "add the file")
    except (OSError, EOFError, zlib.error) as error:
        _bad(path, line, "unreadable_file", str(error), "a complete gzip file", "fetch or pack the file again")
    except UnicodeDecodeError as error:
        _bad(path, line, "not_utf8", str(error), "UTF-8 text", "convert the file")
    except csv.Error as error:
        _bad(path, line + 1, "bad_row", str(error), "tab-separated values", "quote fields that hold quotes, tabs or line ends")


def _number(path: Path, line: int, record: Mapping[str, str], column: str) -> float | None:
    text = record.get(column) or ""
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        _bad(path, line, "not_a_number", f"{column} {text!r}", "a number", "correct or empty the field")


def _items(path: Path, available_column: str | None) -> tuple[tuple[Item, ...], tuple[float | None, ...]]:
    table = list(_table(path, ITEM_COLUMNS))
    if available_column and table and available_column not in table[0][1]:
        expected = f"a column {available_column}, which {META} names in `available_from`"
        _bad(path, 1, "missing_column", "columns " + ", ".join(table[0][1]), expected, "add the column, or correct the name")
    columns = list(zip(*((r.get("category") or r.get("categories") or "", r.get("tags") or "") for _, r in table), strict=True)) or [(), ()]
    by_category, by_tag = splitter(columns[0], spaces=True), splitter(columns[1])
    known = KNOWN_COLUMNS | {available_column}
    items, available = [], []
    for (line, r), category, tags in zip(table, *columns, strict=True):
        since = moment(r[available_column]) if available_column else None
        published = moment(r.get("published_at") or r.get("published") or r.get("year"))
        price = _number(path, line, r, "price")
        items.append(
            Item(
                item_id=r["item_id"],
                title=r["title"] or r["item_id"],  # the contract wants one; an item without is still an item
                description=r.get("description", ""),
                categories=parts(category, by_category),
                tags=parts(tags, by_tag),
                creator=r.get("author") or r.get("creator") or "",
                price=price if price is not None and math.isfinite(price) else None,
                published_at=None if published is None else round(published * 1000),
                available_from=None if since is None else round(since * 1000),
                domain=r.get("domain", ""),
                language=r.get("language", ""),
                attributes={k: v for k, v in r.items() if v and k not in known},
            )
        )
        available.append(since)
    return tuple(items), tuple(available)


def _rows(path: Path, index: Mapping[str, int], mapping: Mapping[str, str], given: Collection[str]) -> Iterator[Row]:
    names: dict[str, str] = {}  # one string object per user: rows are many, users few
    kinds = {t: t for t in EVENT_TYPES} | dict(mapping)
    for n, (line, r) in enumerate(_table(path, EVENT_COLUMNS)):
        own = r["event_type"]
        kind = kinds.get(own)
        if kind is None or (kind not in EVENT_TYPES and kind not in given):
            found = f"event_type {own!r}" if kind is None else f"event_type {own!r} mapped to {kind!r}"
            remedy = f"map it: `types` in {META}, or --type {own}=click"
            _bad(path, line, "unknown_type", found, "one of " + ", ".join(sorted(EVENT_TYPES)), remedy)
        time = _number(path, line, r, "timestamp")
        if time is None or not 0 <= time < LATEST_S:  # NaN too
            _bad(
                path,
                line,
                "bad_time",
                f"timestamp {r['timestamp']!r}",
                "seconds since 1970 (UTC)",
                "convert milliseconds or dates to seconds",
            )
        user = names.setdefault(r["user_id"], r["user_id"])
        item = index.get(r["item_id"], -1)
        rating, price, quantity = (_number(path, line, r, column) for column in ("rating", "price", "quantity"))
        tie = tie_of(r["timestamp"], user, r["item_id"])
        yield Row(n, time, user, item, r.get("session_id") or "", tie, kind, r["item_id"], rating, price, quantity)
