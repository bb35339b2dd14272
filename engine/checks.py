"""The checks of single fields, each naming what is wrong. Not the fast path: a good record never comes here (see `engine.decode`)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from engine.errors import Problem, shorten
from engine.problems import not_finite, problem, show
from engine.records import DEFAULT_SURFACE, ID_CHARS, INTEGER_MAX, SURFACE_PATTERN, TIME_MAX_MS, TIME_MIN_MS
from engine.timestamps import rfc3339_ms

MANY = 10
"""Most problems that one list or object is described with; what comes after is not looked at, and one more problem says so."""
_TEN_POWER_14 = 10**14
"""Between milliseconds and microseconds: 10^14 ms is the year 5138, 10^14 µs is 1973."""

Reader = Callable[[Any, str, list[Problem]], Any]
"""(found value, path, problems) -> the checked value; what is wrong is added to the problems, and then the result is of no use."""


class Field(NamedTuple):
    """One field of a kind of record; null counts as absent."""

    name: str
    read: Reader
    required: bool = False


def read_fields(fields: Iterable[Field], document: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any]:
    """Read the fields that are there; the result holds the good ones only, every other one is a problem."""
    values = {}
    for field in fields:
        found = document.get(field.name)
        if found is None:
            if field.required:
                state = "null" if field.name in document else "nothing"
                problems.append(problem(field.name, "missing", state, "a value", f"send the field {field.name}"))
            continue
        before = len(problems)
        value = field.read(found, field.name, problems)
        if len(problems) == before:
            values[field.name] = value
    return values


def _wrong_type(found: Any, path: str, expected: str, remedy: str, problems: list[Problem]) -> None:
    problems.append(problem(path, "wrong_type", show(found), expected, remedy))


def text(low: int = 0, high: int | None = None) -> Reader:
    """Make the reader of a string of `low` to `high` characters."""
    expected = "a string" if high is None and not low else f"a string of {low} characters or more" if high is None else (
        f"a string of {low} to {high} characters"
    )  # fmt: skip

    def read(found: Any, path: str, problems: list[Problem]) -> Any:
        if not isinstance(found, str):
            _wrong_type(found, path, expected, "send it in quotes", problems)
        elif len(found) < low:
            problems.append(problem(path, "empty", show(found), expected, "send a text that is not empty"))
        elif high is not None and len(found) > high:
            shown = f"{len(found)} characters: {found[:50]}"
            problems.append(problem(path, "too_long", shown, expected, f"shorten it to {high} characters, or send a hash of it"))
        return found

    return read


identifier: Reader = text(1, ID_CHARS)
"""The reader of an id: 1 to 256 characters."""


def surface(found: Any, path: str, problems: list[Problem]) -> Any:
    """Read the name of a surface."""
    expected = f"1 to 32 of a-z, 0-9, _ and -, such as {DEFAULT_SURFACE}"
    if not isinstance(found, str):
        _wrong_type(found, path, "a string", "send it in quotes", problems)
    elif re.match(SURFACE_PATTERN, found) is None:
        problems.append(problem(path, "bad_pattern", show(found), expected, "rename the surface"))
    return found


def one_of(names: Collection[str]) -> Reader:
    """Make the reader of one of some names."""

    def read(found: Any, path: str, problems: list[Problem]) -> Any:
        expected = f"one of {', '.join(sorted(names))}"
        if not isinstance(found, str):
            _wrong_type(found, path, "a string", "send it in quotes", problems)
        elif found not in names:
            problems.append(problem(path, "unknown", show(found), expected, f"use a known {path}"))
        return found

    return read


def flag(found: Any, path: str, problems: list[Problem]) -> Any:
    """Read true or false."""
    if not isinstance(found, bool):
        _wrong_type(found, path, "true or false", "send it without quotes", problems)
    return found


def number(above: float | None = None) -> Reader:
    """Make the reader of a finite number, larger than `above` where that is given."""
    expected = "a finite number" if above is None else f"a finite number above {above:g}"

    def read(found: Any, path: str, problems: list[Problem]) -> Any:
        if isinstance(found, bool) or not isinstance(found, int | float):
            _wrong_type(found, path, expected, "send a number, without quotes", problems)
            return None
        try:
            value = float(found)
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            problems.append(not_finite(path, found))
        elif above is not None and value <= above:
            problems.append(problem(path, "out_of_range", show(found), expected, "correct the value"))
        return value

    return read


def integer(low: int, high: int = INTEGER_MAX) -> Reader:
    """Make the reader of an integer from `low` to `high`; a boolean is none, nor is 1.0."""
    expected = f"an integer from {low}" if high == INTEGER_MAX else f"an integer from {low} to {high}"

    def read(found: Any, path: str, problems: list[Problem]) -> Any:
        if isinstance(found, bool) or not isinstance(found, int):
            _wrong_type(found, path, expected, "send it without quotes, fraction or exponent", problems)
        elif not low <= found <= high:
            problems.append(problem(path, "out_of_range", show(found), expected, "correct the value"))
        return found

    return read


def time(earliest_ms: int | None = None) -> Reader:
    """Make the reader of a time: integer milliseconds, or an RFC 3339 text, which alone may name a time before March 1973.

    `earliest_ms` bounds both.
    """
    expected = "milliseconds since 1970 UTC as an integer, such as 1732200000123, or an RFC 3339 text"

    def read(found: Any, path: str, problems: list[Problem]) -> Any:
        if isinstance(found, str):
            try:
                ms = rfc3339_ms(found)
            except ValueError:
                remedy = "write it like 2024-11-21T14:40:00.123Z, with time and offset, or send the number without quotes"
                problems.append(problem(path, "bad_time", show(found), expected, remedy))
                return None
        elif isinstance(found, bool) or not isinstance(found, int):
            _wrong_type(found, path, expected, "send whole milliseconds", problems)
            return None
        else:
            ms = found
            if 0 <= ms < TIME_MIN_MS:
                problems.append(problem(path, "time_in_seconds", show(ms), expected, f"multiply by 1000: {ms * 1000}"))
                return None
            if ms < 0:
                remedy = "send a time before March 1973 as an RFC 3339 text" if earliest_ms is None else "send the time of the event"
                problems.append(problem(path, "time_out_of_range", show(ms), expected, remedy))
                return None
        if ms > TIME_MAX_MS or (earliest_ms is not None and ms < earliest_ms):
            micro = isinstance(found, int) and ms > _TEN_POWER_14
            remedy = "divide micro- or nanoseconds down to milliseconds" if micro else "send a time from 1970 to 9999"
            problems.append(problem(path, "time_out_of_range", show(found), expected, remedy))
        return ms

    return read


def _each(parts: Iterable[tuple[str, Any]], total: int, read: Reader, problems: list[Problem]) -> list[Any]:
    """Read the parts of a list or object; stops after MANY problems, since a megabyte of wrong parts takes a second to describe."""
    values = []
    limit = len(problems) + MANY
    for place, (path, found) in enumerate(parts):
        if len(problems) >= limit:
            problems.append(problem(path, "wrong_type", f"{total - place} more, not looked at", "good ones", "see the first ones"))
            break
        values.append(read(found, path, problems))
    return values


def array(read: Reader, make: Callable[[list[Any]], Any] = tuple) -> Reader:
    """Make the reader of an array whose elements `read` reads."""

    def read_all(found: Any, path: str, problems: list[Problem]) -> Any:
        if isinstance(found, list):
            return make(_each(((f"{path}[{i}]", part) for i, part in enumerate(found)), len(found), read, problems))
        _wrong_type(found, path, "an array", "put it in [ ], even when it is one", problems)
        return None

    return read_all


def table(read: Reader | None = None) -> Reader:
    """Make the reader of an object whose values `read` reads, or of any object."""

    def read_all(found: Any, path: str, problems: list[Problem]) -> Any:
        if not isinstance(found, dict):
            _wrong_type(found, path, "an object", "put it in { }, with a name", problems)
        elif read is not None:
            parts = ((f"{path}.{shorten(name)}", part) for name, part in found.items())
            return dict(zip(found, _each(parts, len(found), read, problems), strict=False))  # shorter only if given up
        return found

    return read_all


def scalar(found: Any, path: str, problems: list[Problem]) -> Any:
    """Read a value that a field can be compared with: string, finite number or boolean."""
    if isinstance(found, str | bool):
        return found
    if isinstance(found, int | float):
        number()(found, path, problems)
    else:
        _wrong_type(found, path, "a string, number or boolean, or an array of them", "leave nulls and objects out", problems)
    return found


def scalars(found: Any, path: str, problems: list[Problem]) -> Any:
    """Read one comparable value or an array of them."""
    return array(scalar)(found, path, problems) if isinstance(found, list) else scalar(found, path, problems)
