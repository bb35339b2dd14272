"""From a file's columns to the contract's fields: names, aliases, and what a cell says. Nothing is checked here (`engine.decode` does)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from engine.errors import BadSettings, DatasetError, Problem
from engine.timestamps import rfc3339_ms

LISTS = frozenset({"categories", "tags", "items"})
TIMES = frozenset({"timestamp", "published_at", "available_from"})
NUMBERS = frozenset({"price", "value", "position"})
FLAGS = {"true": True, "yes": True, "1": True, "y": True, "t": True, "false": False, "no": False, "0": False, "n": False, "f": False}
OBJECTS = frozenset({"attributes", "context", "vectors"})
READ = LISTS | TIMES | NUMBERS | OBJECTS | {"available"}
"""Fields whose text stands for something else."""
REMEDIES = {
    **dict.fromkeys(TIMES, "write 2024-05-01, 2024-05-01T10:00:00+02:00, or milliseconds since 1970"),
    **dict.fromkeys(NUMBERS, "write digits with a point, such as 34.90"),
    "available": "write yes or no",
}
"""What to do about a cell that can't be read."""
PARTS = re.compile(r"[|;]")
INTEGER, NUMBER = re.compile(r"[+-]?\d{1,20}"), re.compile(r"[+-]?\d{1,40}(\.\d{0,40})?([eE][+-]?\d{1,3})?")
YEAR = re.compile(r"\d{4}")


@dataclass(frozen=True, slots=True)
class Kind:
    """What is loaded: `fields` of the contract with other names that columns of theirs often have, the most telling first; `needed` ones;
    `rest`: the object that any other column goes into.
    """

    name: str
    id: str
    fields: Mapping[str, tuple[str, ...]]
    needed: tuple[str, ...]
    rest: str


ITEM_NAMES = ("itemid", "item", "productid", "product", "sku", "articleid", "contentid")
ITEMS = Kind(
    "items",
    "item_id",
    {
        "item_id": (*ITEM_NAMES, "id"),
        "title": ("name", "productname", "itemname", "headline"),
        "description": ("summary", "abstract", "body", "text"),
        "categories": ("category", "genres", "genre", "section", "department"),
        "tags": ("tag", "keywords", "keyword", "labels"),
        "creator": ("author", "authors", "brand", "artist", "publisher", "vendor", "director"),
        "price": ("unitprice",),
        "published_at": ("published", "publishedon", "releasedate", "released", "year", "date"),
        "available_from": ("availablesince", "launchdate"),
        "available": ("instock", "active"),
        "domain": (),
        "language": ("lang",),
        "attributes": (),
        "vectors": (),
    },
    ("item_id", "title"),
    "attributes",
)
EVENTS = Kind(
    "events",
    "user_id",
    {
        "event_id": ("id",),
        "type": ("eventtype", "event", "action"),
        "user_id": ("userid", "user", "customerid", "customer", "visitorid", "visitor", "clientid", "accountid"),
        "item_id": ITEM_NAMES,
        "timestamp": ("time", "ts", "eventtime", "datetime", "date", "createdat", "at"),
        "session_id": ("session", "visitid", "visit"),
        "value": ("rating", "price", "amount"),
        "list_id": (),
        "position": (),
        "items": ("shown",),
        "query": ("searchquery", "searchterm", "q"),
        "surface": ("placement",),
        "context": (),
    },
    ("user_id", "timestamp"),
    "context",
)


@dataclass(frozen=True, slots=True)
class Columns:
    """Where each column of a table goes: a field of the contract, or (`rest.name`) a place in the object for all else."""

    kind: Kind
    targets: tuple[tuple[str, str | None], ...]  # (field, None) or (rest, name)

    def document(self, cells: Sequence[str]) -> dict[str, Any]:
        """A row as the object of the contract that it stands for; empty cells are left out.

        >>> columns = columns_of(ITEMS, ("ID", "name", "Category", "colour"))
        >>> columns.document(("i1", "Green tea", "tea|green", "pale"))
        {'item_id': 'i1', 'title': 'Green tea', 'categories': ['tea', 'green'], 'attributes': {'colour': 'pale'}}
        """
        out: dict[str, Any] = {}
        for (field, name), cell in zip(self.targets, cells, strict=False):
            if not (text := cell.strip()):
                continue
            if name is None:
                found = meaning(field, text)
                if field == self.kind.rest and isinstance(found, dict) and isinstance(known := out.get(field), dict):
                    known.update(found)
                else:
                    out[field] = found
            elif isinstance(rest := out.setdefault(field, {}), dict):
                rest[name] = text
        return out

    def told(self, header: Sequence[str]) -> str:
        """What became of each column, for people."""
        parts = (
            own if name is None and own == field else f"{own} → {field}" if name is None else f"{own} → {field}.{name}"
            for own, (field, name) in zip(header, self.targets, strict=True)
        )
        return ", ".join(parts)


def columns_of(kind: Kind, header: Sequence[str], own: Mapping[str, str] | None = None, given: Sequence[str] = ()) -> Columns:
    """Find each column's field: `own` names first, then the contract's names, then aliases; capitals, spaces and underscores do not count.

    `given`: needed fields that need no column.

    Raises:
        BadSettings: `own` names a column or a field that there is not.
        DatasetError: a needed field has no column.
    """
    own = own or {}
    problems = [
        Problem("map", "unknown_column", name, "a column: " + ", ".join(header), "correct --map") for name in own if name not in header
    ]
    problems += [
        Problem("map", "unknown_field", field, "one of " + ", ".join(kind.fields), "correct --map")
        for field in own.values()
        if field not in kind.fields
    ]
    if problems:
        raise BadSettings(problems)
    taken = {field: name for name, field in own.items()}
    free = {_plain(name): name for name in reversed(header) if name not in own}
    for aliases in (lambda field: (_plain(field),), lambda field: kind.fields[field]):  # the contract's names first
        _find(kind, aliases, free, taken)
    if missing := [field for field in (*kind.needed, *given) if field not in taken]:
        remedy = "name it: " + " ".join(f"--map COLUMN={field}" for field in missing)
        if "type" in missing:
            remedy += "; or give all rows one type: --type click"
        raise DatasetError("missing_column", "columns " + ", ".join(header), "a column for " + ", ".join(missing), remedy)
    places = {name: field for field, name in taken.items()}
    return Columns(kind, tuple((places[name], None) if name in places else (kind.rest, name) for name in header))


def own_columns(kind: Kind, texts: Sequence[str]) -> dict[str, str]:
    """Own column -> field, from `COLUMN=FIELD` as `--map` takes it.

    >>> own_columns(ITEMS, ["sku=item_id"])
    {'sku': 'item_id'}

    Raises:
        BadSettings: one has another form, or names a field that the contract does not have.
    """
    pairs = [text.rpartition("=") for text in texts]
    if wrong := [text for text, (column, _, name) in zip(texts, pairs, strict=True) if not column or name not in kind.fields]:
        expected = "COLUMN=FIELD, a field of " + ", ".join(kind.fields)
        raise BadSettings([Problem("map", "bad_mapping", repr(text), expected, "write --map sku=item_id") for text in wrong])
    return {column: name for column, _, name in pairs}


def _find(kind: Kind, aliases: Callable[[str], Sequence[str]], free: dict[str, str], taken: dict[str, str]) -> None:
    for field in kind.fields:
        found = next((free.pop(alias) for alias in aliases(field) if field not in taken and alias in free), None)
        if found is not None:
            taken[field] = found


def _plain(name: str) -> str:
    """A column's name for comparison.

    >>> _plain("Product ID"), _plain("itemId"), _plain("published_at")
    ('productid', 'itemid', 'publishedat')
    """
    return re.sub(r"[\W_]+", "", name.lower())


def meaning(field: str, text: str) -> Any:
    """A cell as the value that it stands for; what can't be read stays text, and is refused for what it is."""
    if field in TIMES:
        return _time(text, years=field != "timestamp")
    if field in NUMBERS:
        number = int(text) if INTEGER.fullmatch(text) else float(text) if NUMBER.fullmatch(text) else text
        return number if not isinstance(number, float) or isfinite(number) else text
    if field in LISTS:
        if text.startswith("["):
            return _json(text)
        return [part for part in (piece.strip() for piece in PARTS.split(text)) if part]
    if field in OBJECTS:
        return _json(text)
    if field == "available":
        return FLAGS.get(text.lower(), text)
    return text


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _time(text: str, *, years: bool) -> Any:
    """Milliseconds as they stand; a date, or a date and time, as RFC 3339 text, in UTC where no zone is named.

    >>> _time("2024-05-01", years=True), _time("2024-05-01 10:30", years=False), _time("2015", years=True), _time("1714", years=False)
    ('2024-05-01T00:00:00Z', '2024-05-01T10:30:00Z', '2015-01-01T00:00:00Z', 1714)
    """
    if years and YEAR.fullmatch(text):
        return f"{text}-01-01T00:00:00Z"
    if INTEGER.fullmatch(text):
        return int(text)
    try:
        rfc3339_ms(text)
    except ValueError:
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            return text
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return when.isoformat().replace("+00:00", "Z")
    return text
