"""Dead letters: whatever could not be used can be found, understood and read again."""

from __future__ import annotations

import json
from base64 import b64decode

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.deadletter import MAX_BYTES, MESSAGE_CHARS, Source, dead_letter, encode_dead_letter
from engine.decode import decode_event
from engine.errors import BadRecord, HeadwaterError, Problem

SOURCE = Source("events", 3, 90211, 1732200000123)


def refused(value: bytes | None, key: bytes | None) -> BadRecord:
    """Give the error of a record that is refused."""
    try:
        decode_event(value, key)
    except BadRecord as error:
        return error
    raise AssertionError(f"{value!r} was accepted")


def test_a_dead_letter_has_the_contracts_fields() -> None:
    """reason, message, source, key, value and at stand in the record as the contract says; the message has found, expected and remedy."""
    value = b'{"event_id":"e1","type":"view","user_id":"u1","timestamp":1732200000,"item_id":"i1"}'
    letter = json.loads(encode_dead_letter(dead_letter(refused(value, b"u1"), SOURCE, b"u1", value, 1732200000999)))
    assert letter["reason"] == "time_in_seconds"
    assert "found 1732200000, expected milliseconds" in letter["message"]
    assert "multiply by 1000: 1732200000000" in letter["message"]
    assert letter["source"] == {"topic": "events", "partition": 3, "offset": 90211, "timestamp": 1732200000123}
    assert (b64decode(letter["key"]), b64decode(letter["value"])) == (b"u1", value)
    assert (letter["key_length"], letter["value_length"], letter["at"]) == (2, len(value), 1732200000999)
    assert [(problem["field"], problem["code"]) for problem in letter["problems"]] == [("timestamp", "time_in_seconds")]


def test_nulls_stay_nulls() -> None:
    """A null key or value is not an empty one."""
    error = refused(None, None)
    none = dead_letter(error, SOURCE, None, None, 1)
    assert (none.key, none.value, none.key_length, none.value_length) == (None, None, 0, 0)
    empty = dead_letter(error, SOURCE, b"", b"", 1)
    assert (empty.key, empty.value) == ("", "")


@settings(deadline=None)
@given(st.binary(max_size=64), st.integers(-2, 2))
def test_bytes_are_kept_up_to_the_limit(head: bytes, beyond: int) -> None:
    """Any bytes come back as they were, up to 64 KiB; the full length is given in any case."""
    value = head.ljust(MAX_BYTES + beyond, b"\xff")
    letter = dead_letter(refused(b"", b"u1"), SOURCE, value, value, 1)
    for kept, length in ((letter.key, letter.key_length), (letter.value, letter.value_length)):
        assert kept is not None
        assert b64decode(kept) == value[:MAX_BYTES]
        assert length == len(value)


def test_a_dead_letter_fits_into_a_message() -> None:
    """However large and wrong a record is, its dead letter stays below the broker's default limit of 1 MiB."""
    wrong = json.dumps(dict.fromkeys(("event_id", "user_id", "timestamp", "position", "items"), "x" * 50000)).encode()
    error = BadRecord(refused(wrong, wrong).problems * 1000)
    letter = dead_letter(error, SOURCE, wrong, wrong, 1)
    assert len(letter.message) == MESSAGE_CHARS
    assert len(encode_dead_letter(letter)) < 2**20


def test_any_error_of_headwater_makes_a_dead_letter() -> None:
    """Errors that carry no list of problems keep their code and fields."""
    letter = dead_letter(HeadwaterError("epoch_changed", "7", "6", "confirm it"), SOURCE, b"k", b"v", 1)
    assert (letter.reason, letter.message, letter.problems) == ("epoch_changed", "found 7, expected 6 (confirm it)", ())


def test_the_message_names_every_problem() -> None:
    """Several problems stand in one message, the first as the reason."""
    problems = [Problem("a", "missing", "nothing", "x", "y"), Problem("b", "empty", '""', "x", "y")]
    letter = dead_letter(BadRecord(problems), SOURCE, b"k", b"v", 1)
    assert letter.reason == "missing"
    assert letter.message == '2 problems: a: found nothing, expected x (y); b: found "", expected x (y)'
    assert letter.problems == tuple(problems)
