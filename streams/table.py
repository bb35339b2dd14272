"""Rows in memory over RocksDB, written back at the checkpoint. Not a Faust table to be used by key: `rows(partition)` is the way in.

A row is changed in place between two checkpoints. A checkpoint takes the keys that are dirty (`Rows.take`) and turns their rows into bytes
a few at a time while new batches go on changing rows; a row about to be changed that the checkpoint has taken but not yet encoded is
encoded first (`Rows.edit`): copy on write, so what a checkpoint writes is the state at its step 1 exactly, and nothing later.

Two rules for callers:

* change a row in the same turn of the event loop in which `edit` gave it (no await in between), and ask `edit` again afterwards;
* rows belong to a partition that this worker owns: once it is gone every call raises `NotOwnedError`.

Beside the rows a partition has notes (`Rows.note`): small values that are written often and read in order, seldom by key. They are never
kept in memory once they are stored, and a page of them costs 1.3 µs each.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar, cast

import faust
import rocksdict
from faust.types import TP, AppT, EventT

from engine.errors import HeadwaterError

R = TypeVar("R")
Record = tuple[bytes, bytes | None]

INTERNAL = b"\x00"
"""Keys that begin so are the table's own (`Rows.meta`, `Rows.note`): no user id and no item id does."""
FIRST_KEY = b"\x01"
"""Before every row's key, and after the internal ones."""
OFFSET_KEY = b"__faust\0offset__"
"""Where Faust's RocksDB store keeps the changelog offset up to which the database is complete (tests compare it with the store's)."""
MAX_ROWS = 200_000
"""Rows of one table kept in memory by one worker: at 1 kB a row 200 MB, more in Python objects."""
BLOCK_CACHE_BYTES = 4 * 1024 * 1024
"""RocksDB block cache of one partition; Faust's default is 2 GiB each."""
WRITE_BUFFER_BYTES = 4 * 1024 * 1024
"""RocksDB memtable of one partition; two of them at most. Faust's default is 3 × 64 MiB each."""
NOTES_A_ROW = 10
"""Notes that a checkpoint sends in the time of a row: some 120 bytes against 1 kB and more."""
EVICTIONS = 8
"""Rows looked at when one is loaded above the limit: a constant, so that no load takes long."""


class NotOwnedError(HeadwaterError):
    """Rows of a partition were asked for that this worker does not own, or no longer owns."""


def changelog_topic(prefix: str, table: str) -> str:
    """Give the name of a table's changelog topic: internal topics begin with an underscore after the prefix (contract).

    >>> changelog_topic("shop.", "users")
    'shop._users-changelog'
    """
    return f"{prefix}_{table}-changelog"


class Rows(Generic[R]):
    """The rows of one partition of one table; all calls belong to the event loop's thread."""

    __slots__ = (
        "_cache",
        "_db",
        "_decode",
        "_dirty",
        "_early",
        "_encode",
        "_limit",
        "_new",
        "_notes",
        "_notes_left",
        "_notes_taken",
        "_taken",
        "_unsaved",
        "partition",
        "table",
    )

    def __init__(
        self,
        table: str,
        partition: int,
        db: Any,
        *,
        new: Callable[[], R],
        encode: Callable[[R], bytes],
        decode: Callable[[bytes], R],
        limit: Callable[[], int],
    ) -> None:
        self.table = table
        self.partition = partition
        self._db = db
        self._new = new
        self._encode = encode
        self._decode = decode
        self._limit = limit
        self._cache: dict[bytes, Any] = {}  # in the order of loading and of getting dirty; None: deleted
        self._dirty: set[bytes] = set()  # changed since the last take
        self._taken: set[bytes] = set()  # of the checkpoint under way: not yet encoded
        self._early: list[Record] = []  # of the checkpoint under way: encoded because they were about to change
        self._unsaved: set[bytes] = set()  # of the checkpoint under way: not yet in RocksDB, so not to be evicted
        self._notes: dict[bytes, bytes | None] = {}  # changed since the last take; None: removed
        self._notes_taken: dict[bytes, bytes | None] = {}  # of the checkpoint under way: not yet in RocksDB
        self._notes_left: Iterator[Record] = iter(())  # of these, what is not yet sent

    def __len__(self) -> int:
        """Count the rows in memory."""
        return len(self._cache)

    @property
    def dirty(self) -> int:
        """Rows changed since the last checkpoint took its set; ten notes, which are small, count as one."""
        return len(self._dirty) + len(self._notes) // NOTES_A_ROW

    @property
    def changed(self) -> bool:
        """Whether there is something for a checkpoint."""
        return bool(self._dirty or self._notes)

    # -- rows

    def get(self, key: bytes) -> R | None:
        """Give a row to read, or None: there is none."""
        try:
            return cast("R | None", self._cache[key])
        except KeyError:
            return cast("R | None", self._load(key))

    def edit(self, key: bytes) -> R:
        """Give a row to change, a new one where there is none; it goes out with the next checkpoint."""
        row = self._cache.get(key)
        if row is None:
            row = self._load(key) if key not in self._cache else None
            if row is None:
                self._own()
                self._keep(key)
                made = self._cache[key] = self._new()
                self._touch(key)
                return made
        self._keep(key)
        if key not in self._dirty:
            self._touch(key)
        return cast("R", row)

    def put(self, key: bytes, row: R) -> None:
        """Set a row, for states that are values; it goes out with the next checkpoint."""
        self._own()
        self._keep(key)
        self._cache[key] = row
        if key not in self._dirty:
            self._touch(key)

    def delete(self, key: bytes) -> None:
        """Remove a row, here, in RocksDB and (by a tombstone) in the changelog, with the next checkpoint."""
        self._own()
        self._keep(key)
        self._cache[key] = None
        self._touch(key)

    def meta(self, name: bytes) -> bytes | None:
        """Give an internal row of the partition (the log epoch, say), as bytes."""
        return cast("bytes | None", self.get(INTERNAL + name))

    def set_meta(self, name: bytes, value: bytes) -> None:
        """Set an internal row of the partition; it goes out with the next checkpoint like any row."""
        self.put(INTERNAL + name, cast("R", value))

    def scan(self) -> Iterator[tuple[bytes, R]]:
        """Give every row, in memory or stored, as it is when its turn comes; internal ones are left out.

        The caller may let the event loop go on between two rows, and may change rows: what appears meanwhile may be missing, nothing comes
        twice.
        """
        self._own()
        seen = set(self._cache)
        for key in list(seen):
            row = self.get(key)
            if row is not None and not key.startswith(INTERNAL):
                yield key, row
        for key, raw in self._db.items(from_key=FIRST_KEY):
            if key in seen or key == OFFSET_KEY:
                continue
            row = self._cache[key] if key in self._cache else self._decode(raw)
            if row is not None:
                yield key, row
            self._own()

    def keys(self) -> Iterator[bytes]:
        """Give the key of every row that the last checkpoint stored; internal ones are left out."""
        self._own()
        return (key for key in self._db.keys(from_key=FIRST_KEY) if key != OFFSET_KEY)

    # -- notes

    def note(self, name: bytes) -> bytes | None:
        """Give a note of the partition, or None: there is none."""
        key = INTERNAL + name
        for unsaved in (self._notes, self._notes_taken):
            if key in unsaved:
                return unsaved[key]
        self._own()
        return cast("bytes | None", self._db.get(key))

    def set_note(self, name: bytes, value: bytes | None) -> None:
        """Set a note, or remove it with None; it goes out with the next checkpoint. Its name must be none of a `meta`."""
        self._own()
        self._notes[INTERNAL + name] = value

    def unsaved_notes(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Give the notes whose names begin so and that no checkpoint has stored yet, in no order: `notes` may not have them."""
        begins, length = INTERNAL + prefix, len(INTERNAL)
        found = {**self._notes_taken, **self._notes}
        return [(key[length:], value) for key, value in found.items() if value is not None and key.startswith(begins)]

    def notes(self, prefix: bytes, after: bytes | None, count: int) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        """Give a page of notes whose names begin so: up to `count` of them, by name, as they are now; and the name to go on after.

        Args:
            prefix: what the names begin with.
            after: where the page before ended; None: from the first.
            count: how many are looked at.

        Notes that are new since the last checkpoint are left out, see `unsaved_notes`.
        """
        self._own()
        begins, length = INTERNAL + prefix, len(INTERNAL)
        first = begins if after is None else INTERNAL + after + b"\x00"  # the least name behind it
        page = [(key, raw) for key, raw in islice(self._db.items(from_key=first), count) if key.startswith(begins)]
        taken, later = self._notes_taken, self._notes
        now = ((key, later.get(key, taken.get(key, raw))) for key, raw in page)
        return [(key[length:], value) for key, value in now if value is not None], page[-1][0][length:] if len(page) == count else None

    # -- checkpoint

    def take(self) -> int:
        """Begin a checkpoint: take the dirty keys and the changed notes; give their number."""
        self._taken = self._dirty
        self._unsaved = set(self._dirty)
        self._dirty = set()
        self._notes_taken, self._notes = self._notes, {}
        self._notes_left = iter(list(self._notes_taken.items()))
        return len(self._taken) + len(self._notes_taken)

    def encoded(self, count: int) -> list[Record]:
        """Encode up to `count` taken rows and give them with those encoded early, then the notes; an empty list: none is left."""
        records, taken = self._early[:count], self._taken
        del self._early[:count]
        while taken and len(records) < count:
            key = taken.pop()
            records.append((key, self._bytes(key)))
        records += islice(self._notes_left, count - len(records))
        return records

    def store(self, records: Sequence[Record], offset: int | None) -> None:
        """Write rows to RocksDB at once, with the changelog offset up to which the database is then complete (None: not yet).

        rocksdict keeps the GIL while it writes (0.3.29), so a thread would not help: callers write a few at a time.
        """
        self._own()
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key, raw in records:
            if raw is None:
                batch.delete(key)
            else:
                batch.put(key, raw)
        if offset is not None:
            batch.put(OFFSET_KEY, str(offset).encode())
        self._db.write(batch)
        for key, raw in records:
            self._unsaved.discard(key)
            self._notes_taken.pop(key, None)
            if raw is None and key not in self._dirty and self._cache.get(key, self) is None:
                del self._cache[key]

    def saved(self) -> None:
        """End a checkpoint whose rows and notes all stand in RocksDB."""
        self._unsaved.clear()
        self._notes_taken.clear()

    def restore(self) -> None:
        """Give up a checkpoint: what it took is dirty again."""
        self._dirty |= self._unsaved
        self._notes = {**self._notes_taken, **self._notes}
        self._notes_left = iter(())
        for part in (self._taken, self._early, self._unsaved, self._notes_taken):
            part.clear()

    def evict(self, count: int) -> bool:
        """Drop up to `count` clean rows above the limit, those first that were touched longest ago; whether there may be more to drop."""
        cache, limit = self._cache, self._limit()
        if len(cache) <= limit:
            return False
        dropped = 0
        for key in list(_first(cache, count)):
            if key in self._dirty or key in self._unsaved:
                cache[key] = cache.pop(key)  # to the end: it will be clean by and by
            else:
                del cache[key]
                dropped += 1
        return dropped > 0 and len(cache) > limit

    def close(self) -> None:
        """Let go of the rows and the database: the partition is somebody else's, or will be read anew."""
        self._notes_left = iter(())
        for part in (self._cache, self._dirty, self._taken, self._unsaved, self._early, self._notes, self._notes_taken):
            part.clear()
        self._db = None

    @property
    def closed(self) -> bool:
        """Whether the partition is no longer this worker's."""
        return self._db is None

    # -- inside

    def _own(self) -> None:
        if self._db is None:
            raise not_owned(self.table, self.partition)

    def _load(self, key: bytes) -> Any:
        self._own()
        raw = self._db.get(key)
        if raw is None:
            return None
        row = self._cache[key] = raw if key.startswith(INTERNAL) else self._decode(raw)
        if len(self._cache) > self._limit():
            self.evict(EVICTIONS)
            self._cache[key] = row  # however few rows are allowed, the caller's stays
        return row

    def _keep(self, key: bytes) -> None:
        """Encode a row that the checkpoint under way has taken, before it changes."""
        if key in self._taken:
            self._taken.discard(key)
            self._early.append((key, self._bytes(key)))

    def _touch(self, key: bytes) -> None:
        self._dirty.add(key)
        self._cache[key] = self._cache.pop(key)  # to the end: evicted last

    def _bytes(self, key: bytes) -> bytes | None:
        row = self._cache[key]
        if row is None:
            return None
        return row if key.startswith(INTERNAL) else self._encode(row)


class CheckpointTable(faust.Table[bytes, bytes], Generic[R]):
    """A changelogged table whose rows are read and changed through `rows`; Faust assigns its partitions and recovers them.

    Args (besides Faust's):
        new, encode, decode: make, write and read a row; `encode` must not keep or change it.
        max_rows: rows kept in memory over all partitions; more only while they are dirty.
        prefix: the installation's topic prefix.
        every, sources: it takes part in one checkpoint of `every`; these topics (full names) lead to its rows, see `streams.checkpoint`.
        block_cache_bytes, write_buffer_bytes: RocksDB's memory for each partition (cache + 2 × buffer).
    """

    logger = logging.getLogger("faust.table")

    def __init__(
        self,
        app: AppT,
        *,
        name: str,
        partitions: int,
        new: Callable[[], R],
        encode: Callable[[R], bytes],
        decode: Callable[[bytes], R],
        max_rows: int = MAX_ROWS,
        prefix: str = "",
        every: int = 1,
        sources: Sequence[str] = (),
        block_cache_bytes: int = BLOCK_CACHE_BYTES,
        write_buffer_bytes: int = WRITE_BUFFER_BYTES,
        **kwargs: Any,
    ) -> None:
        self.every, self.sources = every, frozenset(sources)
        self._new, self._encode_row, self._decode_row = new, encode, decode
        self.max_rows = max_rows
        self._prefix = prefix
        self._rows: dict[int, Rows[R]] = {}
        super().__init__(
            app,
            name=name,
            partitions=partitions,
            key_type=bytes,
            value_type=bytes,
            recovery_buffer_size=4,  # counts batches of up to 500 records
            options={  # a new dict each: the store takes `driver` out of it
                "driver": "rocksdict",
                "block_cache_size": block_cache_bytes,
                "write_buffer_size": write_buffer_bytes,
                "max_write_buffer_number": 2,
                "target_file_size_base": 4 * write_buffer_bytes,
            },
            **kwargs,
        )

    def rows(self, partition: int) -> Rows[R]:
        """Give the rows of a partition that this worker owns and has recovered.

        Raises:
            NotOwnedError: it does not.
        """
        try:
            return self._rows[partition]
        except KeyError:
            raise not_owned(self.name, partition) from None

    @property
    def owned(self) -> Sequence[Rows[R]]:
        """The rows of all partitions that this worker owns."""
        return list(self._rows.values())

    @property
    def dirty(self) -> int:
        """Rows changed since the last checkpoint took its sets."""
        return sum(rows.dirty for rows in self._rows.values())

    def release(self) -> None:
        """Let go of all rows in memory; nothing is written."""
        rows, self._rows = self._rows, {}
        for part in rows.values():
            part.close()

    def _limit(self) -> int:
        return self.max_rows // max(1, len(self._rows))

    # -- what Faust calls

    def _changelog_topic_name(self) -> str:
        # replaces tables/base.py `return f"{self.app.conf.id}-{self.name}-changelog"`
        return changelog_topic(self._prefix, self.name)

    async def on_rebalance(self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0) -> None:
        """Let go of every row, not of the revoked ones only: a worker that missed a generation gets back partitions others have written."""
        self.release()
        await super().on_rebalance(assigned, revoked, newly_assigned, generation_id)

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        """Open the rows: RocksDB is complete up to the end of the changelog."""
        self.release()
        for tp in active_tps:
            self._rows[tp.partition] = Rows(
                self.name,
                tp.partition,
                self._database(tp.partition),
                new=self._new,
                encode=self._encode_row,
                decode=self._decode_row,
                limit=self._limit,
            )
        await super().on_recovery_completed(active_tps, standby_tps)

    async def on_stop(self) -> None:
        """Let go of the rows before the store closes its databases."""
        self.release()
        await super().on_stop()

    def apply_changelog_batch(self, batch: Iterable[EventT[Any]]) -> None:
        """Recover: each event stands for up to 500 changelog records of one partition (replaces the store's one put per record)."""
        for event in batch:
            message = event.message
            write = rocksdict.WriteBatch(raw_mode=True)
            last = {record.key: record.value for record in cast("Any", message.value)}
            for key, value in last.items():
                if value is None:
                    write.delete(key)
                else:
                    write.put(key, value)
            write.put(OFFSET_KEY, str(message.offset).encode())
            self._database(message.partition).write(write)

    def _database(self, partition: int) -> Any:
        return cast("Any", self.data)._db_for_partition(partition)  # noqa: SLF001 - the store opens one database a partition here and nowhere else


def not_owned(table: str, partition: int) -> NotOwnedError:
    """Make the error for a partition that is not this worker's."""
    return NotOwnedError(
        "partition_not_owned",
        f"rows of {table}[{partition}] asked for",
        "a partition that this worker owns",
        "nothing, if a rebalance is under way: another worker goes on with the partition",
        retryable=True,
    )


def _first(keys: Iterable[bytes], count: int) -> Iterator[bytes]:
    for _, key in zip(range(count), keys, strict=False):
        yield key
