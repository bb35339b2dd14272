"""Rows over RocksDB: a checkpoint writes the state at its first step, whatever happens to the rows meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rocksdict
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.table import INTERNAL, OFFSET_KEY, NotOwnedError, Record, Rows

Row = list[int]


def encode(row: Row) -> bytes:
    """Write a row."""
    return ",".join(map(str, row)).encode()


def decode(raw: bytes) -> Row:
    """Read a row."""
    return [int(part) for part in raw.split(b",") if part]


class Database:
    """What Rows needs of rocksdict, in memory: a WriteBatch can't be read, so `store` is given ours."""

    def __init__(self) -> None:
        self.stored: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        return self.stored.get(key)

    def items(self, from_key: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return iter(sorted(pair for pair in self.stored.items() if pair[0] >= from_key))

    def write(self, batch: list[Record]) -> None:
        for key, value in batch:
            if value is None:
                self.stored.pop(key, None)
            else:
                self.stored[key] = value


class Writes(list[Record]):
    """Stands in for rocksdict.WriteBatch."""

    def __init__(self, raw_mode: bool) -> None:
        super().__init__()
        assert raw_mode

    def put(self, key: bytes, value: bytes) -> None:
        self.append((key, value))

    def delete(self, key: bytes) -> None:
        self.append((key, None))


def new_rows(db: Any, limit: int = 1_000) -> Rows[Row]:
    """Make rows over this database."""
    return Rows("users", 0, db, new=list, encode=encode, decode=decode, limit=lambda: limit)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Any]:
    """A real RocksDB."""
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    db = rocksdict.Rdict(str(tmp_path / "db"), options=options)
    yield db
    db.close()


def save(rows: Rows[Row], offset: int = 7) -> list[Record]:
    """Make a whole checkpoint of these rows."""
    rows.take()
    records: list[Record] = []
    while some := rows.encoded(2):
        records += some
    rows.store(records, offset)
    rows.saved()
    return records


def test_rows_come_back(db: Any) -> None:
    """What was edited and saved is read back by others, with the changelog offset; what was deleted is gone."""
    rows = new_rows(db)
    rows.edit(b"a").append(1)
    rows.edit(b"b").append(2)
    assert rows.get(b"c") is None
    save(rows, 41)
    rows.delete(b"b")
    rows.set_meta(b"epoch", b"e1")
    assert rows.get(b"b") is None
    save(rows, 42)
    again = new_rows(db)
    assert (again.get(b"a"), again.get(b"b"), again.meta(b"epoch")) == ([1], None, b"e1")
    assert db.get(OFFSET_KEY) == b"42"
    assert len(rows) == 2  # a and the meta row: the deleted one takes no room


def test_copy_on_write(db: Any) -> None:
    """A row edited, put or deleted while a checkpoint is under way is written as it was, and goes out again with the next one."""
    rows = new_rows(db)
    for key in (b"a", b"b", b"c", b"d"):
        rows.edit(key).append(1)
    rows.take()
    rows.edit(b"a").append(2)
    rows.put(b"b", [9])
    rows.delete(b"c")
    rows.edit(b"new").append(3)
    records: list[Record] = []
    while some := rows.encoded(1):
        records += some
        if rows.get(b"d") == [1]:
            rows.edit(b"d").append(4)
    assert dict(records) == {b"a": b"1", b"b": b"1", b"c": b"1", b"d": b"1"}
    rows.store(records, 1)
    rows.saved()
    assert rows.dirty == 5
    assert dict(save(rows)) == {b"a": b"1,2", b"b": b"9", b"c": None, b"d": b"1,4", b"new": b"3"}
    assert new_rows(db).get(b"a") == [1, 2]


def test_given_up(db: Any) -> None:
    """A checkpoint that is given up leaves its rows dirty, and the next one writes them."""
    rows = new_rows(db)
    rows.edit(b"a").append(1)
    rows.edit(b"b").append(1)
    rows.take()
    rows.encoded(1)
    rows.edit(b"a").append(2)
    rows.restore()
    assert rows.dirty == 2
    assert dict(save(rows)) == {b"a": b"1,2", b"b": b"1"}


def test_only_clean_rows_are_evicted(db: Any) -> None:
    """Above the limit rows leave memory once they stand in RocksDB, those first that were changed longest ago."""
    rows = new_rows(db, limit=4)
    for number in range(10):
        rows.edit(b"%d" % number).append(number)
    rows.evict(100)
    assert len(rows) == 10  # all are dirty
    rows.take()
    rows.evict(100)
    assert len(rows) == 10  # taken, not yet stored: reading them from RocksDB would give the old ones
    records = rows.encoded(100)
    rows.store(records, 1)
    rows.saved()
    rows.edit(b"0").append(100)
    while rows.evict(3):
        pass
    assert len(rows) <= 4
    assert rows.get(b"0") == [0, 100]
    assert [rows.get(b"%d" % number) for number in range(1, 10)] == [[number] for number in range(1, 10)]
    assert len(rows) <= 4 + 1


def test_scan(db: Any) -> None:
    """A scan gives stored and changed rows once, as they are now, and no internal ones; rows may change meanwhile."""
    rows = new_rows(db, limit=3)
    for number in range(6):
        rows.edit(b"%d" % number).append(number)
    rows.set_meta(b"epoch", b"x")
    save(rows)
    while rows.evict(1):
        pass
    rows.edit(b"1").append(11)
    rows.delete(b"2")
    rows.edit(b"new").append(7)
    seen = {}
    for key, row in rows.scan():
        assert key not in seen
        seen[key] = list(row)
        rows.edit(b"later").append(8)  # may be missing, must do no harm
        rows.get(b"5")
    seen.pop(b"later", None)
    assert seen == {b"0": [0], b"1": [1, 11], b"3": [3], b"4": [4], b"5": [5], b"new": [7]}


def all_notes(rows: Rows[Row], prefix: bytes = b"list/", count: int = 3) -> dict[bytes, bytes]:
    """All notes as somebody finds them who reads page by page."""
    found, after = dict(rows.unsaved_notes(prefix)), b""
    page, last = rows.notes(prefix, None, count)
    while True:
        assert all(name > after for name, _ in page), "in order, each once"
        found |= dict(page)
        if last is None:
            return found
        after = last
        page, last = rows.notes(prefix, after, count)


def test_notes(db: Any) -> None:
    """Notes are found by name and in pages of a prefix, stored or not, as they are now; rows, other notes and removed ones are left out."""
    rows = new_rows(db)
    for number in range(7):
        rows.set_note(b"list/%d" % number, b"%d" % number)
    rows.set_note(b"lisz", b"")
    rows.set_note(b"a", b"")
    rows.set_meta(b"epoch", b"x")
    rows.edit(b"list/row").append(1)
    wanted = {b"list/%d" % number: b"%d" % number for number in range(7)}
    assert all_notes(rows) == wanted
    save(rows)
    for count in (1, 3, 7, 100):
        assert all_notes(rows, count=count) == wanted
    rows.set_note(b"list/1", b"changed")
    rows.set_note(b"list/2", None)
    rows.set_note(b"list/new", b"n")
    wanted = {**wanted, b"list/1": b"changed", b"list/new": b"n"}
    del wanted[b"list/2"]
    assert all_notes(rows) == wanted
    assert (rows.note(b"list/1"), rows.note(b"list/2"), rows.note(b"list/3"), rows.note(b"list/9")) == (b"changed", None, b"3", None)
    rows.take()
    rows.set_note(b"list/1", b"again")
    assert all_notes(rows) == {**wanted, b"list/1": b"again"}
    rows.restore()
    assert all_notes(rows) == {**wanted, b"list/1": b"again"}
    save(rows)
    assert rows.take() == 0
    assert all_notes(new_rows(db)) == {**wanted, b"list/1": b"again"}
    assert len(rows) == 2, "the meta row and the row: notes take no room once they are stored"
    assert dict(rows.scan()) == {b"list/row": [1]}
    assert list(rows.keys()) == [b"list/row"]


def test_many_notes_make_a_checkpoint(db: Any) -> None:
    """Ten notes count as a row: what waits for a checkpoint is bounded."""
    rows = new_rows(db)
    for number in range(25):
        rows.set_note(b"list/%d" % number, b"")
    assert rows.dirty == 2


def test_closed_rows_refuse(db: Any) -> None:
    """Rows of a partition that is gone can't be read or changed: a late change would be lost, or mixed with another worker's."""
    rows = new_rows(db)
    rows.edit(b"a").append(1)
    rows.close()
    calls: list[Callable[[], Any]] = [
        lambda: rows.get(b"a"),
        lambda: rows.edit(b"a"),
        lambda: rows.put(b"a", []),
        lambda: rows.delete(b"a"),
        lambda: next(rows.scan()),
        lambda: rows.store([], 1),
        lambda: rows.note(b"list/a"),
        lambda: rows.set_note(b"list/a", b""),
        lambda: rows.notes(b"list/", None, 10),
    ]
    for call in calls:
        with pytest.raises(NotOwnedError) as raised:
            call()
        assert raised.value.retryable
    assert rows.closed


KEYS = st.sampled_from([b"a", b"b", b"c", b"d", b"e", b"f"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["edit", "put", "delete", "get", "note", "unnote"]), KEYS),
        st.tuples(st.sampled_from(["take", "encode", "finish", "restore", "evict"]), st.just(b"")),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(steps=STEPS, limit=st.integers(0, 4))
def test_any_order(steps: list[tuple[str, bytes]], limit: int) -> None:
    """In any order of changes, checkpoints, aborts and evictions: reads see every change, a checkpoint writes its first step's state.

    Notes too.
    """
    from unittest import mock

    with mock.patch("streams.table.rocksdict.WriteBatch", Writes):
        db = Database()
        rows = new_rows(db, limit)
        now: dict[bytes, Row] = {}  # what reads must see
        notes: dict[bytes, bytes] = {}  # the same of notes
        frozen: dict[bytes, Row] | None = None  # what the checkpoint under way must write
        frozen_notes: dict[bytes, bytes] = {}
        sent: list[Record] = []
        for count, (step, key) in enumerate(steps):
            if step == "edit":
                rows.edit(key).append(count)
                now[key] = [*now.get(key, []), count]
            elif step == "put":
                rows.put(key, [count])
                now[key] = [count]
            elif step == "delete":
                rows.delete(key)
                now.pop(key, None)
            elif step == "get":
                assert rows.get(key) == now.get(key)
                assert rows.note(b"n/" + key) == notes.get(key)
            elif step == "note":
                rows.set_note(b"n/" + key, b"%d" % count)
                notes[key] = b"%d" % count
            elif step == "unnote":
                rows.set_note(b"n/" + key, None)
                notes.pop(key, None)
            elif step == "take" and frozen is None:
                rows.take()
                frozen, sent = {key: list(row) for key, row in now.items()}, []
                frozen_notes = dict(notes)
            elif step == "encode" and frozen is not None:
                sent += rows.encoded(2)
            elif step == "finish" and frozen is not None:
                while some := rows.encoded(2):
                    sent += some
                rows.store(sent, count)
                rows.saved()
                stored = {key: decode(raw) for key, raw in db.stored.items() if key != OFFSET_KEY and not key.startswith(INTERNAL)}
                assert stored == frozen
                begins = INTERNAL + b"n/"
                assert {key.removeprefix(begins): raw for key, raw in db.stored.items() if key.startswith(begins)} == frozen_notes
                frozen = None
            elif step == "restore" and frozen is not None:
                rows.restore()
                frozen = None
            elif step == "evict":
                rows.evict(3)
        assert {key: rows.get(key) for key in (b"a", b"b", b"c", b"d", b"e", b"f") if rows.get(key) is not None} == now
        assert dict(rows.scan()) == now
        assert {name[2:]: value for name, value in all_notes(rows, b"n/", 2).items()} == notes
