"""A file of one's own items or events sent to their topic: checked as a whole first, then sent. It reads no file format itself.

1. Every row is read and checked as a worker will check it; the bad ones are named. What makes the file unreadable ends it here.
2. With `strict` one bad row is enough to send nothing.
3. The good rows are sent in the file's order, keyed by their id, and the end waits until the last one is acknowledged.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from engine.errors import DatasetError
from engine.filerecords import FileRecord, Recipe
from engine.records import Event
from engine.tablefile import open_table
from streams import replay, topics
from streams.settings import Settings

STDIN = "-"
SAMPLE = 3
"""Records that a dry run shows."""
SPOOL_BYTES = 8 * 2**20
"""Standard input up to this size is kept in memory, more in a file: it is read twice."""

Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Checked:
    """What step 1 found. `backwards`: rows whose time is before that of the row before."""

    columns: str = ""
    rows: int = 0
    bad: list[FileRecord] = field(default_factory=list)
    left_out: int = 0
    backwards: int = 0
    first: list[FileRecord] = field(default_factory=list)

    @property
    def good(self) -> int:
        """Rows that can be sent."""
        return self.rows - self.left_out


@contextmanager
def opened(path: str, stdin: IO[bytes] | None = None) -> Iterator[tuple[IO[bytes], str]]:
    """A file, or what stands on standard input, in a form that can be read twice; and its name.

    Raises:
        DatasetError: it cannot be read.
    """
    if path == STDIN:
        with _spooled(stdin or sys.stdin.buffer) as spool:
            yield spool, "standard input"
        return
    try:
        file = Path(path).open("rb")  # noqa: SIM115 - closed below; what fails in the body is not this
    except OSError as error:
        raise DatasetError("no_file", f"{path}: {error.strerror}", "a CSV, TSV or JSON-lines file", "correct the path") from error
    with file:
        if file.seekable():
            yield file, Path(path).name
        else:  # a pipe, as of <(…)
            with _spooled(file) as spool:
                yield spool, Path(path).name


@contextmanager
def _spooled(stream: IO[bytes]) -> Iterator[IO[bytes]]:
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
        shutil.copyfileobj(stream, spool)
        spool.seek(0)
        yield spool


def check(stream: IO[bytes], name: str, recipe: Recipe, most: int) -> Checked:
    """Step 1; up to `most` bad rows are kept.

    Raises:
        BadSettings, DatasetError: the file cannot be used.
    """
    table = open_table(stream, name)
    columns = recipe.columns(table)
    found, last = Checked("" if columns is None else columns.told(table.header)), 0
    for one in recipe.records(table):
        found.rows += 1
        if one.record is None:
            found.left_out += 1
            if len(found.bad) < most:
                found.bad.append(one)
            continue
        if len(found.first) < SAMPLE:
            found.first.append(one)
        if isinstance(one.record, Event):
            found.backwards += one.record.timestamp < last
            last = one.record.timestamp
    stream.seek(0)
    return found


def refuse(found: Checked, name: str, *, strict: bool) -> None:
    """Step 2: say why nothing is sent, where that is so.

    Raises:
        DatasetError: there is no row, none can be used, or with `strict` one cannot.
    """
    if not found.rows:
        raise DatasetError("no_rows", f"{name}: a header only", "rows", "check what wrote the file")
    if found.left_out and (strict or not found.good):
        count = f"{name}: {found.left_out} of {found.rows} rows that cannot be used"
        remedy = "correct them, or load without --strict: they are left out" if found.good else "correct the first one, and see"
        raise DatasetError("bad_rows", count, "rows of the contract", remedy)


def send(stream: IO[bytes], name: str, recipe: Recipe, total: int, settings: Settings, topic: str, progress: Progress) -> float:
    """Step 3; the seconds it took.

    Raises:
        BrokerError: a record was not taken.
    """
    client = topics.admin(settings)
    if topics.look(client).is_mock:
        topics.create(client, topics.topics(settings))
    topics.count(client, settings)  # before a broker makes topics by use, with a number of partitions of its own
    began = time.monotonic()
    producer = replay.producer_of(settings)
    try:
        outgoing = replay.Outgoing(producer, topic, total, progress)
        for one in recipe.records(open_table(stream, name)):
            if one.record is not None:
                outgoing.send(one.key, one.value)
        outgoing.finish()
    finally:
        producer.close(timeout=replay.LATE_S if sys.exc_info()[0] is None else 1)
    return time.monotonic() - began
