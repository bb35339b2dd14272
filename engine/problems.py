"""The reasons for which a record is refused, and how they are told. Not the checks that find them (see `engine.checks`)."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from engine.errors import Problem, shorten

Code = Literal[
    "too_large", "null_value", "empty_value", "not_utf8", "too_deep", "malformed_json", "not_an_object",  # the record
    "missing", "wrong_type", "empty", "too_long", "out_of_range", "not_finite", "bad_pattern", "unknown",  # a field
    "time_in_seconds", "time_out_of_range", "bad_time",  # a time
    "self_alias", "empty_window",  # two fields together
    "null_key", "key_not_utf8", "key_mismatch",  # the key
]  # fmt: skip
"""Every reason for which a record can be refused: stable, so that dashboards and dead-letter readers can count on them."""

CODES: frozenset[str] = frozenset(get_args(Code))


def problem(field: str, code: Code, found: str, expected: str, remedy: str) -> Problem:
    """Make a Problem of a known code, its texts cut to a length that a log line bears."""
    return Problem(shorten(field), code, shorten(found), expected, remedy)


def show(value: Any) -> str:
    """Describe a JSON value in a few characters.

    >>> show("a"), show(True), show(None), show([1, 2]), show({"a": 1}), show(0.5)
    ('"a"', 'true', 'null', 'an array of 2', 'an object of 1', '0.5')
    """
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return shorten(f'"{value[:100]}"')  # cut first: the text may be a megabyte
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case int() if abs(value) > 10**80:
            return f"an integer of {value.bit_length()} bits"
        case list():
            return f"an array of {len(value)}"
        case dict():
            return f"an object of {len(value)}"
        case _:
            return str(value)


def not_finite(path: str, found: Any) -> Problem:
    """Make the problem of a number that is NaN, infinite, or beyond what a double holds."""
    return problem(path, "not_finite", show(found), "a finite number", "leave the field out when there is no value")
