"""Records: what the contract allows is read, what it forbids is refused with every reason, and nothing crashes."""

from __future__ import annotations

import doctest
import importlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.decode import decode_event, decode_item, decode_request, decode_rule, decode_user, key_id
from engine.document import MAX_DEPTH, MAX_RECORD_BYTES
from engine.errors import BadRecord
from engine.problems import CODES
from engine.records import Event, Item, Request, Rule, User
from engine.timestamps import ms_rfc3339

UNHURRIED = settings(deadline=None)
NOW = 1732200000123
EVENT = {"event_id": "e1", "type": "view", "user_id": "u1", "timestamp": NOW, "item_id": "i1"}
ITEM = {"item_id": "i1", "title": "Zork"}
RULE = {"rule_id": "r1", "action": "block", "match": {"item_ids": ["i1"]}}
ABSENT = object()


def dump(document: Any) -> bytes:
    """Write JSON as a careless producer does: NaN and Infinity included."""
    return json.dumps(document, ensure_ascii=False).encode()


def changed(document: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Give the document with changed fields; ABSENT takes a field away."""
    return {name: value for name, value in {**document, **changes}.items() if value is not ABSENT}


def refusal(read: Callable[[], object]) -> list[tuple[str, str]]:
    """Give (field, code) of every problem; none for a record that is accepted."""
    try:
        read()
    except BadRecord as refused:
        error = refused
    else:
        return []
    assert error.code == error.problems[0].code
    assert {problem.code for problem in error.problems} <= CODES
    assert all(len(problem.found) <= 80 and problem.found.isprintable() for problem in error.problems)
    assert all(problem.expected and problem.remedy for problem in error.problems)
    assert all(str(problem) in str(error) for problem in error.problems)
    return [(problem.field, problem.code) for problem in error.problems]


def refused_event(key: bytes | None = b"u1", **changes: Any) -> list[tuple[str, str]]:
    """Give the problems of the good event with some changes."""
    return refusal(lambda: decode_event(dump(changed(EVENT, **changes)), key))


def deep(levels: int) -> bytes:
    """Nest arrays in an unknown field, `levels` of nesting in all."""
    return dump(EVENT)[:-1] + b',"x":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


def test_a_full_event_is_read() -> None:
    """Every field of the contract arrives, unknown fields are ignored."""
    more = {"session_id": "s", "value": 2, "list_id": "l", "position": 0, "items": ["i1", "i2"], "query": "q", "surface": "cart_2"}
    event = decode_event(dump({**EVENT, **more, "context": {"a": [1, None]}, "unknown": {"b": 1}}), b"u1")
    assert event == Event("e1", "view", "u1", NOW, "i1", "s", 2.0, "l", 0, ("i1", "i2"), "q", "cart_2", {"a": [1, None]})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"event_id": "é" * 128},
        {"item_id": "i" * 256},
        {"item_id": "never heard of"},
        {"timestamp": 10**11},
        {"timestamp": NOW + 10**11},
        {"timestamp": 253_402_300_799_999},
        {"timestamp": "1970-01-01T00:00:00Z"},
        {"timestamp": "9999-12-31T23:59:59.999Z"},
        {"value": -1.5e300},
        {"position": 2**53 - 1},
        {"surface": "a-z_09"},
        {"type": "impression", "item_id": ABSENT, "items": ["i1"]},
        {"type": "impression", "item_id": ABSENT, "items": []},
        {"type": "search", "item_id": ABSENT, "query": "cave"},
        {"type": "search", "item_id": ABSENT, "query": ""},
        {
            "session_id": None,
            "value": None,
            "list_id": None,
            "position": None,
            "items": None,
            "query": None,
            "surface": None,
            "context": None,
        },
        {"unknown": None, "x": [[[]]], "ü": "ü"},
        {"context": {"deep": {"er": [1e308, -0.0, 2**70]}}},
    ],
)
def test_what_the_contract_allows_is_accepted(changes: dict[str, Any]) -> None:
    """Limits are inclusive; null is absent; unknown items, ancient and future times are welcome."""
    assert refused_event(**changes) == []


@pytest.mark.parametrize(
    "field,value,code",
    [
        ("event_id", ABSENT, "missing"),
        ("event_id", None, "missing"),
        ("event_id", "", "empty"),
        ("event_id", "e" * 129, "too_long"),
        ("event_id", 7, "wrong_type"),
        ("type", ABSENT, "missing"),
        ("type", "", "empty"),
        ("type", "views", "unknown"),
        ("type", ["view"], "wrong_type"),
        ("item_id", ABSENT, "missing"),
        ("item_id", "", "empty"),
        ("item_id", "i" * 257, "too_long"),
        ("item_id", True, "wrong_type"),
        ("timestamp", ABSENT, "missing"),
        ("timestamp", NOW // 1000, "time_in_seconds"),
        ("timestamp", 10**11 - 1, "time_in_seconds"),
        ("timestamp", 0, "time_in_seconds"),
        ("timestamp", -1, "time_out_of_range"),
        ("timestamp", NOW * 1000, "time_out_of_range"),
        ("timestamp", 10**30, "time_out_of_range"),
        ("timestamp", float(NOW), "wrong_type"),
        ("timestamp", True, "wrong_type"),
        ("timestamp", str(NOW), "bad_time"),
        ("timestamp", "2024-11-21", "bad_time"),
        ("timestamp", "1969-12-31T23:59:59Z", "time_out_of_range"),
        ("timestamp", "9999-12-31T23:59:59.999-00:01", "time_out_of_range"),
        ("session_id", 1, "wrong_type"),
        ("value", "3", "wrong_type"),
        ("value", True, "wrong_type"),
        ("value", float("nan"), "not_finite"),
        ("value", float("-inf"), "not_finite"),
        ("value", 10**400, "not_finite"),
        ("list_id", {}, "wrong_type"),
        ("position", -1, "out_of_range"),
        ("position", 1.0, "wrong_type"),
        ("position", False, "wrong_type"),
        ("position", 2**53, "out_of_range"),
        ("position", 10**40, "out_of_range"),
        ("items", "i1", "wrong_type"),
        ("query", 1, "wrong_type"),
        ("surface", "Home", "bad_pattern"),
        ("surface", "home\n", "bad_pattern"),
        ("surface", "", "bad_pattern"),
        ("surface", "s" * 33, "bad_pattern"),
        ("surface", 1, "wrong_type"),
        ("context", [], "wrong_type"),
    ],
)
def test_what_the_contract_forbids_is_refused(field: str, value: Any, code: str) -> None:
    """Each wrong field is named with its own code, and nothing else is."""
    assert refused_event(**{field: value}) == [(field, code)]


def test_a_user_id_is_checked_like_any_id() -> None:
    """Missing, empty and too long user ids are refused; the key is not blamed for them."""
    assert refused_event(user_id=ABSENT) == [("user_id", "missing")]
    assert refused_event(key=b"", user_id="") == [("user_id", "empty")]
    assert refused_event(key=b"u" * 257, user_id="u" * 257) == [("user_id", "too_long")]
    assert refused_event(key="é".encode() * 256, user_id="é" * 256) == []


def test_a_literal_of_thousands_of_digits_is_a_number_like_any_other() -> None:
    """Python refuses to convert such integers: the decoder must not stumble over that."""
    huge = b"9" * 5000
    for field, code in (("value", "not_finite"), ("timestamp", "wrong_type"), ("position", "wrong_type"), ("context", "wrong_type")):
        value = dump({**EVENT, field: "LONG"}).replace(b'"LONG"', huge)
        assert refusal(lambda value=value: decode_event(value, b"u1")) == [(field, code)]  # type: ignore[misc]
    assert decode_event(dump({**EVENT, "x": "LONG"}).replace(b'"LONG"', huge), b"u1").event_id == "e1"


def test_each_type_needs_its_own_field() -> None:
    """An impression needs items, a search a query, every other type an item."""
    assert refused_event(type="impression") == [("items", "missing")]
    assert refused_event(type="impression", items=None) == [("items", "missing")]
    assert refused_event(type="search") == [("query", "missing")]
    assert refused_event(type="impression", query="q") == [("items", "missing")]
    assert refused_event(type="search", items=["i1"]) == [("query", "missing")]
    assert refused_event(item_id=None, items=["i1"], query="q") == [("item_id", "missing")]


def test_more_types_may_be_configured() -> None:
    """A configured type counts beside those of the contract, and is about an item."""
    value = dump(changed(EVENT, type="play"))
    assert decode_event(value, b"u1", types={"play": 2.0}).type == "play"
    assert decode_event(dump(EVENT), b"u1", types={"play": 2.0}).type == "view"
    assert refusal(lambda: decode_event(value, b"u1")) == [("type", "unknown")]
    bare = dump(changed(EVENT, type="play", item_id=ABSENT))
    assert refusal(lambda: decode_event(bare, b"u1", types={"play": 2.0})) == [("item_id", "missing")]


def test_every_problem_is_named_at_once() -> None:
    """One pass names all problems, in the order of the contract, numbers in unknown places and the key last."""
    wrong = {"event_id": "", "type": "viewed", "timestamp": 5, "value": float("nan"), "items": ["i1", 2, ""], "x": [float("inf")]}
    assert refusal(lambda: decode_event(dump(wrong), None)) == [
        ("event_id", "empty"),
        ("type", "unknown"),
        ("user_id", "missing"),
        ("timestamp", "time_in_seconds"),
        ("value", "not_finite"),
        ("items[1]", "wrong_type"),
        ("items[2]", "empty"),
        ("x[0]", "not_finite"),
        ("key", "null_key"),
    ]


def test_a_hopeless_list_is_not_listed_in_full() -> None:
    """Ten problems of one list are named, what follows is not looked at: a record of a megabyte gives no message of a megabyte."""
    with pytest.raises(BadRecord) as caught:
        decode_event(dump(changed(EVENT, items=[0] * 1000)), b"u1")
    assert len(caught.value.problems) == 11
    assert caught.value.problems[-1].found == "990 more, not looked at"


@pytest.mark.parametrize(
    "value,code",
    [
        (None, "null_value"),
        (b"", "empty_value"),
        (b" \n", "empty_value"),
        (b"null", "not_an_object"),
        (b"[]", "not_an_object"),
        (b'"a"', "not_an_object"),
        (b"NaN", "not_an_object"),
        (b"{", "malformed_json"),
        (b"{}}", "malformed_json"),
        (b"\xef\xbb\xbf{}", "malformed_json"),
        (b"\x00\x00\x00\x00\x01{}", "malformed_json"),
        (dump(EVENT).replace(b"e1", b"\xff"), "not_utf8"),
        (dump({**EVENT, "unknown": "X"}).replace(b"X", b"\xff"), "not_utf8"),
        (dump(EVENT).replace(b"e1", b"\\ud800"), "malformed_json"),
        (dump(EVENT).replace(b"e1", b"\x01"), "malformed_json"),
        (b"[" * 100_000, "too_deep"),
        (b'{"a":' * 100_000, "too_deep"),
        (deep(MAX_DEPTH + 1), "too_deep"),
        (b"[]" * 400_000, "malformed_json"),
        (b" " * (MAX_RECORD_BYTES + 1), "too_large"),
    ],
    ids=lambda part: repr(part)[:30],
)
def test_a_record_that_is_no_object_has_its_own_code(value: bytes | None, code: str) -> None:
    """Broken, empty, deep and huge records are refused as a whole; the key is still checked."""
    assert refusal(lambda: decode_event(value, b"u1")) == [("record", code)]
    assert refusal(lambda: decode_event(value, b"\xff")) == [("record", code), ("key", "key_not_utf8")]


def test_size_and_depth_have_exact_limits() -> None:
    """A record of just the limit is read; brackets in strings are no depth."""
    value = dump(EVENT)
    assert decode_event(value, b"u1", max_bytes=len(value)).event_id == "e1"
    assert refusal(lambda: decode_event(value, b"u1", max_bytes=len(value) - 1)) == [("record", "too_large")]
    assert decode_event(deep(MAX_DEPTH), b"u1").event_id == "e1"
    assert decode_event(dump({**EVENT, "x": '[{\\"[' * 500, "y": [[]] * 500}), b"u1").event_id == "e1"


def test_the_depth_limit_does_not_depend_on_the_stack() -> None:
    """A replay from deeper in the stack accepts what the worker accepted."""

    def nested(levels: int) -> Event:
        return nested(levels - 1) if levels else decode_event(deep(MAX_DEPTH), b"u1")

    assert nested(500) == decode_event(deep(MAX_DEPTH), b"u1")


@pytest.mark.parametrize(
    "key,problems",
    [
        (b"u1", []),
        (None, [("key", "null_key")]),
        (b"", [("key", "key_mismatch")]),
        (b"u2", [("key", "key_mismatch")]),
        (b'"u1"', [("key", "key_mismatch")]),
        (b"u1\xff", [("key", "key_not_utf8")]),
    ],
)
def test_the_key_must_be_the_id(key: bytes | None, problems: list[tuple[str, str]]) -> None:
    """The key of every input record repeats the id, raw: it decides the partition."""
    assert refused_event(key=key) == problems
    assert refusal(lambda: decode_item(dump(changed(ITEM, item_id="u1")), key)) == problems
    assert refusal(lambda: decode_user(dump({"user_id": "u1"}), key)) == problems
    assert refusal(lambda: decode_request(dump({"request_id": "q", "user_id": "u1"}), key, now_ms=NOW)) == problems
    assert refusal(lambda: decode_rule(dump(changed(RULE, rule_id="u1")), key)) == problems


def test_a_null_value_is_a_tombstone_where_the_contract_has_one() -> None:
    """Items, users and rules may be removed, by a key that is an id; requests may not."""
    for read in (decode_item, decode_user, decode_rule):
        assert read(None, b"a") is None
        assert refusal(lambda read=read: read(None, None)) == [("key", "null_key")]  # type: ignore[misc]
        assert refusal(lambda read=read: read(None, b"")) == [("key", "empty")]  # type: ignore[misc]
        assert refusal(lambda read=read: read(b"", b"a")) == [("record", "empty_value")]  # type: ignore[misc]
    assert refusal(lambda: decode_request(None, b"a", now_ms=NOW)) == [("record", "null_value")]
    assert key_id("é".encode()) == "é"
    assert refusal(lambda: key_id(b"k" * 257)) == [("key", "too_long")]


def test_a_full_item_is_read() -> None:
    """Every field of the contract arrives, times normalised, and what was published before 1970 too."""
    more = {
        "description": "d", "categories": ["a"], "tags": [], "creator": "c", "price": 3,
        "published_at": "1942-11-26T00:00:00Z",
        "available_from": NOW, "available": False, "domain": "games", "language": "en", "attributes": {"a": 1},
        "vectors": {"image": [1, 0.5]},
    }  # fmt: skip
    item = decode_item(dump({**ITEM, **more}), b"i1")
    assert item == Item(
        "i1", "Zork", "d", ("a",), (), "c", 3.0, -855187200000, NOW, False, "games", "en", {"a": 1}, {"image": [1.0, 0.5]}
    )  # fmt: skip


@pytest.mark.parametrize(
    "changes,problems",
    [
        ({}, []),
        ({"title": ABSENT}, [("title", "missing")]),
        ({"title": ""}, [("title", "empty")]),
        ({"description": None, "price": None, "available": None, "vectors": None, "tags": None}, []),
        ({"price": float("nan")}, [("price", "not_finite")]),
        ({"price": "3", "available": 1}, [("price", "wrong_type"), ("available", "wrong_type")]),
        ({"categories": "a", "tags": [1]}, [("categories", "wrong_type"), ("tags[0]", "wrong_type")]),
        ({"published_at": 1942}, [("published_at", "time_in_seconds")]),
        ({"published_at": -1}, [("published_at", "time_out_of_range")]),
        ({"available_from": "tomorrow"}, [("available_from", "bad_time")]),
        ({"vectors": {"a": [1, float("inf")], "b": 1}}, [("vectors.a[1]", "not_finite"), ("vectors.b", "wrong_type")]),
        ({"vectors": [1]}, [("vectors", "wrong_type")]),
        ({"attributes": "a"}, [("attributes", "wrong_type")]),
    ],
)
def test_items_are_checked(changes: dict[str, Any], problems: list[tuple[str, str]]) -> None:
    """An item needs an id and a title; everything else is checked where it is."""
    assert refusal(lambda: decode_item(dump(changed(ITEM, **changes)), b"i1")) == problems


def test_users_are_checked() -> None:
    """Personalised unless said otherwise, erased only when said so; nobody is their own alias."""
    assert decode_user(b'{"user_id":"u1"}', b"u1") == User("u1", {}, None, True, False, None)
    full = {"user_id": "u1", "attributes": {"a": 1}, "alias_of": "u2", "personalise": False, "erase": True, "timestamp": NOW}
    assert decode_user(dump(full), b"u1") == User("u1", {"a": 1}, "u2", False, True, NOW)
    assert refusal(lambda: decode_user(b'{"user_id":"u1","alias_of":"u1"}', b"u1")) == [("alias_of", "self_alias")]
    wrong = {"user_id": "u1", "attributes": [], "alias_of": "", "personalise": "no", "erase": 1}
    assert refusal(lambda: decode_user(dump(wrong), b"u1")) == [
        ("attributes", "wrong_type"),
        ("alias_of", "empty"),
        ("personalise", "wrong_type"),
        ("erase", "wrong_type"),
    ]


def test_a_request_needs_no_more_than_its_id() -> None:
    """The user is the key's and the time the record's own, where the value does not say them."""
    assert decode_request(b'{"request_id":"q"}', b"u1", now_ms=-1) == Request("q", "u1", -1)
    full = {
        "request_id": "q", "user_id": "u1", "timestamp": NOW, "k": 1000, "surface": "cart", "candidates": [], "query": "x",
        "seed_item_id": "i", "exclude": ["a"], "filters": {"language": "en", "size": [1, 2.5, True]}, "after_event_id": "e",
    }  # fmt: skip
    expected = Request("q", "u1", NOW, 1000, "cart", (), "x", "i", ("a",), {"language": "en", "size": (1, 2.5, True)}, "e")
    assert decode_request(dump(full), b"u1", now_ms=1) == expected
    assert decode_request(dump({**full, "unknown": None, "timestamp": ms_rfc3339(NOW)}), b"u1", now_ms=1) == expected


@pytest.mark.parametrize(
    "changes,problems",
    [
        ({"request_id": ABSENT}, [("request_id", "missing")]),
        ({"k": 0}, [("k", "out_of_range")]),
        ({"k": 1001, "surface": "?"}, [("k", "out_of_range"), ("surface", "bad_pattern")]),
        ({"k": "10"}, [("k", "wrong_type")]),
        ({"candidates": ["i1", ""]}, [("candidates[1]", "empty")]),
        ({"exclude": "i1"}, [("exclude", "wrong_type")]),
        (
            {"filters": {"a": None, "b": {}, "c": [[]]}},
            [("filters.a", "wrong_type"), ("filters.b", "wrong_type"), ("filters.c[0]", "wrong_type")],
        ),
        ({"filters": {"a": float("nan")}}, [("filters.a", "not_finite")]),
        ({"after_event_id": "e" * 129}, [("after_event_id", "too_long")]),
        ({"timestamp": 5}, [("timestamp", "time_in_seconds")]),
    ],
)
def test_requests_are_checked(changes: dict[str, Any], problems: list[tuple[str, str]]) -> None:
    """A request that cannot be answered as asked is refused, not answered differently."""
    assert refusal(lambda: decode_request(dump(changed({"request_id": "q"}, **changes)), b"u1", now_ms=NOW)) == problems


def test_a_request_without_a_user_needs_a_usable_key() -> None:
    """A key that stands in for the user is checked as a user id."""
    for key, code in ((None, "null_key"), (b"\xff", "key_not_utf8"), (b"", "empty"), (b"u" * 257, "too_long")):
        assert refusal(lambda key=key: decode_request(b'{"request_id":"q"}', key, now_ms=NOW)) == [("key", code)]  # type: ignore[misc]


@pytest.mark.parametrize(
    "changes,problems",
    [
        ({}, []),
        ({"action": "filter", "match": {"language": "en"}, "users": {"plan": ["a", "b"]}}, []),
        ({"action": "pin", "rank": 0}, []),
        ({"action": "pin"}, [("rank", "missing")]),
        ({"action": "pin", "rank": -1}, [("rank", "out_of_range")]),
        ({"action": "boost", "factor": 1.5}, []),
        ({"action": "boost"}, [("factor", "missing")]),
        ({"action": "bury", "factor": 0}, [("factor", "out_of_range")]),
        ({"action": "bury", "factor": float("nan")}, [("factor", "not_finite")]),
        ({"action": "cap", "max": 0}, []),
        ({"action": "cap"}, [("max", "missing")]),
        ({"action": "ban"}, [("action", "unknown")]),
        ({"action": ABSENT}, [("action", "missing")]),
        ({"match": ABSENT}, [("match", "missing")]),
        ({"match": {}}, [("match", "empty")]),
        ({"match": {"tags": []}, "users": {"plan": []}}, [("match.tags", "empty"), ("users.plan", "empty")]),
        ({"match": {"tags": None}}, [("match.tags", "wrong_type")]),
        ({"surfaces": ["home", "?"], "note": 1}, [("surfaces[1]", "bad_pattern"), ("note", "wrong_type")]),
        ({"starts_at": NOW, "ends_at": NOW}, [("ends_at", "empty_window")]),
        ({"starts_at": "2024-11-21T14:40:00Z", "ends_at": NOW}, []),
        ({"starts_at": NOW // 1000}, [("starts_at", "time_in_seconds")]),
    ],
)
def test_rules_are_checked(changes: dict[str, Any], problems: list[tuple[str, str]]) -> None:
    """A rule has what its action needs, says what it matches, and can apply at some time."""
    assert refusal(lambda: decode_rule(dump(changed(RULE, **changes)), b"r1")) == problems


def test_a_full_rule_is_read() -> None:
    """Every field of the contract arrives."""
    full = {"rank": 1, "factor": 2, "max": 3, "surfaces": ["home"], "users": {"a": 1}, "starts_at": NOW, "ends_at": NOW + 1, "note": "n"}
    expected = Rule("r1", "block", {"item_ids": ("i1",)}, 1, 2.0, 3, ("home",), {"a": 1}, NOW, NOW + 1, "n")
    assert decode_rule(dump({**RULE, **full}), b"r1") == expected


JUNK = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from([NOW, 10**11, 10**400, "i" * 257])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=5,
)
EVENT_FIELDS = (
    "event_id",
    "item_id",
    "timestamp",
    "session_id",
    "value",
    "list_id",
    "position",
    "items",
    "query",
    "surface",
    "context",
    "x",
)
OTHERS: dict[str, tuple[Callable[[bytes, bytes], Any], dict[str, Any], tuple[str, ...], str]] = {
    "item": (
        decode_item,
        {"item_id": "u1", "title": "t"},
        ("title", "tags", "price", "published_at", "available", "attributes", "vectors", "x"),
        "description",
    ),
    "user": (decode_user, {"user_id": "u1"}, ("attributes", "alias_of", "personalise", "erase", "x"), "timestamp"),
    "request": (
        lambda value, key: decode_request(value, key, now_ms=NOW),
        {"request_id": "q", "user_id": "u1", "timestamp": NOW},
        ("request_id", "timestamp", "k", "surface", "candidates", "seed_item_id", "exclude", "filters", "after_event_id", "x"),
        "query",
    ),
}


def both_ways(read: Callable[[bytes, bytes], Any], document: dict[str, Any], unused: str) -> list[Any]:
    """Read a record as it is, and with a null in an optional field, which forces the slow way; a refusal counts as its problems."""
    results = []
    for padding in ("unknown", unused):
        value = dump({**document, padding: None})
        results.append(refusal(lambda value=value: read(value, b"u1")) or read(value, b"u1"))  # type: ignore[misc]
    return results


@UNHURRIED
@given(st.dictionaries(st.sampled_from(EVENT_FIELDS), JUNK, max_size=4), st.sampled_from(["view", "impression", "search", "dwell", "x"]))
@example({"items": [], "query": ""}, "impression")
@example({"value": 9007199254740993}, "view")
@example({"context": {"n": 2**64}}, "view")
@example({"x": 10**400}, "view")
def test_both_ways_of_reading_an_event_agree(changes: dict[str, Any], kind: str) -> None:
    """The slow way reads the same event, or finds the same problems, as the fast way: what it costs is all that differs."""
    unused = next(name for name in ("session_id", "list_id", "query", "surface", "context") if name not in changes)
    fast, slow = both_ways(decode_event, {**EVENT, "type": kind, **changes}, unused)
    assert fast == slow


@pytest.mark.parametrize("kind", OTHERS)
@UNHURRIED
@given(st.data())
def test_both_ways_of_reading_other_records_agree(kind: str, data: st.DataObject) -> None:
    """The same for items, users and requests."""
    read, document, fields, unused = OTHERS[kind]
    changes = data.draw(st.dictionaries(st.sampled_from(fields), JUNK, max_size=3))
    fast, slow = both_ways(read, {**document, **changes}, unused)
    assert fast == slow


@UNHURRIED
@given(st.one_of(st.none(), st.binary(max_size=40), JUNK.map(dump)), st.one_of(st.none(), st.binary(max_size=4)))
def test_nothing_crashes_a_decoder(value: bytes | None, key: bytes | None) -> None:
    """Whatever the bytes are, a decoder returns a record or raises BadRecord with known codes."""
    for read in (decode_event, decode_item, decode_user, decode_rule):
        refusal(lambda read=read: read(value, key))  # type: ignore[misc]
    refusal(lambda: decode_request(value, key, now_ms=NOW))


@pytest.mark.parametrize("module", ["errors", "problems", "document", "decode", "timestamps", "partition", "rules", "deadletter"])
def test_examples_in_docstrings_hold(module: str) -> None:
    """The numbers in the docstrings are true."""
    result = doctest.testmod(importlib.import_module(f"engine.{module}"))
    assert result.attempted > 0
    assert result.failed == 0
