"""Bytes from a topic to checked values, every problem named. Not the checks of fields (`engine.fields`), nor what becomes of a refusal.

A good record costs one pass of a typed msgspec decoder. Whatever that does not take goes the slow way, which alone says what is wrong
and alone accepts what needs work: RFC 3339 times, nulls for absent fields, a request without a time. Where both accept, they agree.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Generic, TypedDict, TypeVar

import msgspec

from engine import checks, fields
from engine.checks import Field
from engine.document import MAX_RECORD_BYTES, is_plain, read_document, read_key
from engine.errors import BadRecord, Problem
from engine.problems import problem, show
from engine.records import EVENT_TYPES, ITEMLESS_TYPES, Event, Item, Request, Rule, User

T = TypeVar("T", bound=msgspec.Struct)
Whole = Callable[[Mapping[str, Any], Mapping[str, Any], list[Problem]], None]
"""(document, good values, problems): checks of fields together."""
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_NOTHING: Mapping[str, Any] = {}


class _Kind(Generic[T]):
    """How one kind of record is read: its struct, the field that its key repeats, and the checks of its fields."""

    def __init__(
        self, struct: type[T], id_field: str, checked: tuple[Field, ...], whole: Whole | None = None, *, key_is_id: bool = False
    ) -> None:
        self.struct = struct
        self.id_field = id_field
        self.checked = checked
        self.whole = whole
        self.key_is_id = key_is_id  # the key's id will do where the value has none
        self.order = {field.name: i for i, field in enumerate(checked)}
        self.fast = msgspec.json.Decoder(struct)
        self.loose: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
            TypedDict("_Known", dict.fromkeys((field.name for field in checked), Any), total=False)  # type: ignore[operator]
        )

    def quick(self, value: bytes | None, key: bytes | None, max_bytes: int) -> T | None:
        """Read a record in one pass, or give None for one that must be looked at more closely."""
        if value is None or key is None or len(value) > max_bytes:
            return None
        try:
            record = self.fast.decode(value)
            return record if getattr(record, self.id_field).encode() == key and is_plain(value) else None
        except _UNREADABLE:
            return None

    def slow(
        self, value: bytes | None, key: bytes | None, max_bytes: int, whole: Whole | None = None, absent: Mapping[str, Any] = _NOTHING
    ) -> T:
        """Read a record with a problem for everything that is wrong: in the order of the contract's fields, the key's last.

        `absent` has values for fields that may be missing and have no default of their own.

        Raises:
            BadRecord: with all problems, when there is one.
        """
        problems: list[Problem] = []
        values: dict[str, Any] = {}
        document, numbers = read_document(value, self.loose, max_bytes, problems)
        if document is not None:
            values = checks.read_fields(self.checked, document, problems)
            whole = whole or self.whole
            if whole is not None:
                whole(document, values, problems)
            named = {found.field for found in problems}
            problems.extend(number for number in numbers if number.field not in named)
            problems.sort(key=self._place)
            values.update((name, given) for name, given in absent.items() if document.get(name) is None)
        found = read_key(key, problems)
        expected = values.get(self.id_field)
        if found is not None and expected is not None and found != expected:
            remedy = f"use {self.id_field} as the record's key: it decides the partition"
            problems.append(problem("key", "key_mismatch", show(found), f"{self.id_field} {show(expected)}", remedy))
        if self.key_is_id and found is not None and document is not None and document.get(self.id_field) is None:
            values[self.id_field] = checks.identifier(found, "key", problems)
        if problems:
            raise BadRecord(problems)
        return self.struct(**values)

    def _place(self, found: Problem) -> int:
        """Give the place of a problem's field in the contract; fields that it does not know come last."""
        return self.order.get(found.field.partition("[")[0].partition(".")[0], len(self.order))


_EVENT = _Kind(Event, "user_id", fields.EVENT_FIELDS)
_ITEM = _Kind(Item, "item_id", fields.ITEM_FIELDS)
_USER = _Kind(User, "user_id", fields.USER_FIELDS, fields.whole_user)
_REQUEST = _Kind(Request, "user_id", fields.REQUEST_FIELDS, key_is_id=True)
_RULE = _Kind(Rule, "rule_id", fields.RULE_FIELDS, fields.whole_rule)


def decode_event(
    value: bytes | None, key: bytes | None, *, types: Collection[str] = EVENT_TYPES, max_bytes: int = MAX_RECORD_BYTES
) -> Event:
    """Read a record of `events`. `types` are known beside those of the contract (a mapping to weights will do).

    A time in the future is accepted: it is `now` that must not follow it, and that is the engine's business.

    >>> decode_event(b'{"event_id":"e1","type":"view","user_id":"u1","timestamp":1732200000123,"item_id":"i1"}', b"u1").item_id
    'i1'

    Raises:
        BadRecord: with every problem.
    """
    # Not through `quick`: this runs for every event, and each call less is 0.1 µs.
    if value is not None and key is not None and len(value) <= max_bytes:
        try:
            event = _EVENT.fast.decode(value)
            kind = event.type
            if kind not in ITEMLESS_TYPES:
                complete = event.item_id is not None
            else:  # an impression with an empty list is looked at more closely: it must say so
                complete = bool(event.items) if kind == "impression" else event.query is not None
            if complete and (kind in EVENT_TYPES or kind in types) and event.user_id.encode() == key and is_plain(value):
                return event
        except _UNREADABLE:
            pass
    return _EVENT.slow(value, key, max_bytes, partial(fields.whole_event, types))


def decode_item(value: bytes | None, key: bytes | None, *, max_bytes: int = MAX_RECORD_BYTES) -> Item | None:
    """Read a record of `items`; None is a tombstone: the item of `key_id(key)` is removed.

    Raises:
        BadRecord: with every problem.
    """
    if value is None:
        key_id(key)
        return None
    return _ITEM.quick(value, key, max_bytes) or _ITEM.slow(value, key, max_bytes)


def decode_user(value: bytes | None, key: bytes | None, *, max_bytes: int = MAX_RECORD_BYTES) -> User | None:
    """Read a record of `users`; None: the attributes of the user of `key_id(key)` are removed, and nothing else.

    Raises:
        BadRecord: with every problem.
    """
    if value is None:
        key_id(key)
        return None
    user = _USER.quick(value, key, max_bytes)
    return user if user is not None and user.alias_of != user.user_id else _USER.slow(value, key, max_bytes)


def decode_request(value: bytes | None, key: bytes | None, *, now_ms: int, max_bytes: int = MAX_RECORD_BYTES) -> Request:
    """Read a record of `requests`. Only `request_id` must be there: the user is the key's, and the time is `now_ms`, the record's own.

    Raises:
        BadRecord: with every problem.
    """
    return _REQUEST.quick(value, key, max_bytes) or _REQUEST.slow(value, key, max_bytes, absent={"timestamp": now_ms})


def decode_rule(value: bytes | None, key: bytes | None, *, max_bytes: int = MAX_RECORD_BYTES) -> Rule | None:
    """Read a record of `rules`; None is a tombstone: the rule of `key_id(key)` ends. Rules are few: they go the slow way only.

    Raises:
        BadRecord: with every problem.
    """
    if value is None:
        key_id(key)
        return None
    return _RULE.slow(value, key, max_bytes)


def key_id(key: bytes | None) -> str:
    """Read the id that a record without a value (a tombstone) is about.

    >>> key_id(b"i1")
    'i1'

    Raises:
        BadRecord: the key is null, not UTF-8, or no id of 1 to 256 characters.
    """
    problems: list[Problem] = []
    found = read_key(key, problems)
    if found is not None:
        checks.identifier(found, "key", problems)
    if problems or found is None:
        raise BadRecord(problems)
    return found
