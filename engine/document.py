"""From a record's bytes to a JSON object and a key that can be checked. Not the checks of fields, nor the fast path."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from engine.checks import MANY
from engine.errors import Problem
from engine.problems import not_finite, problem, show

MAX_RECORD_BYTES = 1 << 20
"""Largest value that is looked into, unless settings say otherwise: 1 MiB, the broker's own default limit for a message."""
MAX_DEPTH = 128
"""Deepest nesting of arrays and objects. Fixed, since the decoder's own limit depends on the stack it is called from, and a replay
must accept what was accepted."""
_SHAPE = "a JSON object in UTF-8"
_MAX_DIGITS = 400
"""Longest integer literal that is made a number; a double ends at 309 digits."""
_STRING = re.compile(rb'"(?:[^"\\]+|\\.)*+"?', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_STEP = np.zeros(256, np.int8)
_STEP[list(b"[{")] = 1
_STEP[list(b"]}")] = -1


def is_plain(value: bytes) -> bool:
    r"""Say whether a value that a typed decoder took is UTF-8 and of bearable depth: decoders skip unknown fields without looking.

    >>> is_plain(b'{"a": [1]}'), is_plain(b'{"a": "\xff"}'), is_plain(b"[" * 200 + b"]" * 200)
    (True, False, False)
    """
    if _too_deep(value):
        return False
    if not value.isascii():
        try:
            value.decode()
        except UnicodeDecodeError:
            return False
    return True


def _too_deep(value: bytes) -> bool:
    """Follow the brackets outside strings, if there are enough of them: a few ms for the largest record, 0.1 µs for a usual one."""
    if value.count(b"[") + value.count(b"{") <= MAX_DEPTH:
        return False
    steps = _STEP[np.frombuffer(_STRING.sub(b"", value), np.uint8)]
    return bool(np.cumsum(steps, dtype=np.int32).max(initial=0) > MAX_DEPTH)


def read_document(
    value: bytes | None, decoder: msgspec.json.Decoder[Any], max_bytes: int, problems: list[Problem]
) -> tuple[dict[str, Any] | None, list[Problem]]:
    """Read a value as a JSON object. `decoder` takes objects with any values for the known fields, and skips the unknown.

    Returns:
        The object, or None when there is none, which is then a problem; and a problem per number that is not finite, to be reported
        behind those of the fields, since a field's own check may name it too.
    """
    if value is None:
        problems.append(problem("record", "null_value", "null", _SHAPE, "send nulls only where they mean a removal: not on this topic"))
    elif len(value) > max_bytes:
        remedy = "send less, or raise the limit of a record's size"
        problems.append(problem("record", "too_large", f"{len(value)} bytes", f"{max_bytes} bytes at most", remedy))
    elif not value or value.isspace():
        remedy = "send an object; for a removal send null, not nothing"
        problems.append(problem("record", "empty_value", f"{len(value)} bytes", _SHAPE, remedy))
    elif _too_deep(value):
        problems.append(problem("record", "too_deep", f"more than {MAX_DEPTH} levels", f"{MAX_DEPTH} levels at most", "flatten the record"))
    else:
        try:
            return _parse(value.decode(), decoder, problems)
        except UnicodeDecodeError as error:
            shown = f"byte 0x{value[error.start]:02x} at {error.start}"
            problems.append(problem("record", "not_utf8", shown, _SHAPE, "encode the text as UTF-8"))
        except RecursionError:
            problems.append(problem("record", "too_deep", "more than the stack bears", f"{MAX_DEPTH} levels at most", "flatten the record"))
    return None, []


def _parse(text: str, decoder: msgspec.json.Decoder[Any], problems: list[Problem]) -> tuple[dict[str, Any] | None, list[Problem]]:
    try:
        return decoder.decode(text), []
    except msgspec.DecodeError as error:
        strict = str(error)
    # The strict reader does not say where a NaN or a number beyond any double stands: the lax one finds it.
    try:
        document = json.loads(text, parse_int=_int)
    except json.JSONDecodeError as error:
        strict = f"{error.msg} at character {error.pos}: {text[error.pos : error.pos + 20]}"
    else:
        if not isinstance(document, dict):
            remedy = "wrap it in an object with the contract's fields"
            problems.append(problem("record", "not_an_object", show(document), _SHAPE, remedy))
            return None, []
        if numbers := [not_finite(path, found) for path, found in _not_finite(document)]:
            return document, numbers
        if _SURROGATE.search(text):
            strict = "an escape that is half of a surrogate pair"
    problems.append(problem("record", "malformed_json", strict, _SHAPE, "check the producer's JSON writer"))
    return None, []


def _int(digits: str) -> int | float:
    """Make an integer of a literal, or infinity of one that no field can hold and that would take long to convert."""
    return int(digits) if len(digits) <= _MAX_DIGITS else math.inf


def _not_finite(document: Any) -> Iterator[tuple[str, float]]:
    """Find the numbers that are not finite, in order, the first MANY of them."""
    stack: list[tuple[str, Any]] = [("", document)]
    found = 0
    while stack and found < MANY:
        path, value = stack.pop()
        if isinstance(value, dict):
            stack.extend((f"{path}.{name}" if path else name, part) for name, part in reversed(value.items()))
        elif isinstance(value, list):
            stack.extend((f"{path}[{i}]", value[i]) for i in range(len(value) - 1, -1, -1))
        elif isinstance(value, float) and not math.isfinite(value):
            found += 1
            yield path, value


def read_key(key: bytes | None, problems: list[Problem]) -> str | None:
    """Read a record's key as the id it must hold; None with a problem when it holds none."""
    if key is None:
        problems.append(problem("key", "null_key", "null", "the id as UTF-8", "set the record's key to the id: it decides the partition"))
        return None
    try:
        return key.decode()
    except UnicodeDecodeError:
        problems.append(problem("key", "key_not_utf8", repr(key[:40]), "the id as UTF-8", "use a string serializer for the key"))
        return None
