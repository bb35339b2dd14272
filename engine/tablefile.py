"""A file of items or events as numbered lines: CSV, TSV or one JSON object a line, gzipped or not. Not what the columns mean.

Nothing is guessed from samples: the file's ending decides, else its first character; the header tells the delimiter, by number.
A row that can't be read is given with what is wrong, and reading goes on; what makes the whole file unreadable is raised.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Literal, NamedTuple, NoReturn

from engine.errors import DatasetError, Problem, shorten

MOST_BYTES = 16 * 2**20
"""Longest line, and longest cell: sixteen times what a record may have."""
DELIMITERS = ",\t;|"
"""In this order where the header holds equally many."""
ENDINGS = {".csv": "table", ".tsv": "table", ".tab": "table", ".jsonl": "json", ".ndjson": "json", ".json": "json"}
GZIP, UTF16 = b"\x1f\x8b", (b"\xff\xfe", b"\xfe\xff")
BOM = b"\xef\xbb\xbf"

Shape = Literal["table", "json"]


class Line(NamedTuple):
    """One row. `number`: its first line in the file, from 1. A table's has `cells`, a JSON file's `raw`; or `problem` says why not."""

    number: int
    cells: tuple[str, ...] = ()
    raw: bytes = b""
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class TableFile:
    """An opened file: `header` names a table's columns, and is empty for JSON."""

    name: str
    shape: Shape
    header: tuple[str, ...]
    delimiter: str
    stream: IO[bytes]
    first: bytes
    skipped: int  # lines before the first row

    def lines(self) -> Iterator[Line]:
        """Give the rows, once; blank lines are left out.

        Raises:
            DatasetError: a line is no UTF-8, endless, or the gzip file is damaged.
        """
        yield from self._json_lines() if self.shape == "json" else self._rows()

    def _json_lines(self) -> Iterator[Line]:
        for number, raw in self._raw():
            if line := raw.strip():
                yield Line(number, raw=line)

    def _rows(self) -> Iterator[Line]:
        number = self.skipped

        def texts() -> Iterator[str]:
            nonlocal number
            for number, raw in self._raw():
                yield _text(self.name, number, raw)

        csv.field_size_limit(MOST_BYTES)
        rows = csv.reader(texts(), delimiter=self.delimiter, strict=True)
        while True:
            begins = number + 1
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                remedy = "quote cells that hold a delimiter, a quote or a line end, and double quotes inside them"
                yield Line(begins, problem=Problem("line", "bad_row", shorten(str(error)), f"cells between {self.delimiter!r}", remedy))
                continue
            if not any(cells):
                continue
            if len(cells) > len(self.header):
                found, expected = f"{len(cells)} cells", f"{len(self.header)}, as the header has"
                remedy = f"quote the cell that holds {self.delimiter!r}"
                yield Line(begins, problem=Problem("line", "too_many_cells", found, expected, remedy))
                continue
            yield Line(begins, tuple(cells))

    def _raw(self) -> Iterator[tuple[int, bytes]]:
        number = self.skipped
        if self.first:
            number += 1
            yield number, self.first
        while raw := _readline(self.name, self.stream, number + 1):
            number += 1
            yield number, raw


def open_table(stream: IO[bytes], name: str) -> TableFile:
    r"""Begin to read a file; `name` is its name, whose ending says what it is. The stream can be read again from its start (`seek`).

    >>> import io
    >>> table = open_table(io.BytesIO(b"id;name\n1;Tea; green"), "items.csv")
    >>> table.header, [line.problem.code for line in table.lines()]
    (('id', 'name'), ['too_many_cells'])

    Raises:
        DatasetError: it is empty, no UTF-8, a JSON array, or has a header that cannot be used.
    """
    head = stream.read(3)
    stream.seek(0)
    if head.startswith(GZIP):
        stream, name = gzip.GzipFile(fileobj=stream), name.removesuffix(".gz")  # type: ignore[assignment] # an IO[bytes] in all that is used
    skipped, first = 0, b""
    while not first.strip():
        skipped += 1
        first = _readline(name, stream, skipped)
        if skipped == 1:
            if first.startswith(UTF16):
                _bad(name, 1, "not_utf8", "UTF-16", "UTF-8", "save it as CSV UTF-8")
            first = first.removeprefix(BOM)
        if not first:
            _bad(name, 0, "empty_file", "no line", "a header and rows, or one JSON object a line", "check the path, or what wrote the file")
    ending = "." + name.rpartition(".")[2].lower()
    shape: Shape = "json" if ENDINGS.get(ending, "json" if first.lstrip().startswith(b"{") else "table") == "json" else "table"
    if first.lstrip().startswith(b"["):
        _bad(name, skipped, "json_array", "a JSON array", "one JSON object a line", "write one a line: jq -c '.[]' FILE")
    if shape == "json":
        return TableFile(name, shape, (), "", stream, first, skipped - 1)
    text = _text(name, skipped, first)
    delimiter = "\t" if ending in (".tsv", ".tab") else max(DELIMITERS, key=_unquoted(text).count)
    return TableFile(name, shape, _header(name, skipped, text, delimiter), delimiter, stream, b"", skipped)


def _header(name: str, line: int, text: str, delimiter: str) -> tuple[str, ...]:
    try:
        header = tuple(cell.strip() for cell in next(csv.reader([text], delimiter=delimiter, strict=True)))
    except csv.Error as error:
        _bad(name, line, "bad_header", str(error), "names of columns in one line", "name the columns in the first line")
    while header and not header[-1]:
        header = header[:-1]  # spreadsheets end lines with delimiters
    if unnamed := [str(n) for n, cell in enumerate(header, 1) if not cell]:
        _bad(name, line, "bad_header", "no name for column " + ", ".join(unnamed), "a name for each column", "name or remove it")
    if twice := sorted({cell for cell in header if header.count(cell) > 1}):
        _bad(name, line, "bad_header", "twice: " + ", ".join(twice), "each name once", "rename one of them")
    return header


def _unquoted(text: str) -> str:
    """A header without its quoted parts."""
    return "".join(text.split('"')[::2])


def _text(name: str, line: int, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        remedy = "save it as UTF-8, or convert it: iconv -f latin1 -t utf-8 FILE > NEW"
        _bad(name, line, "not_utf8", f"byte 0x{raw[error.start]:02x} at {error.start + 1}", "UTF-8", remedy)


def _readline(name: str, stream: IO[bytes], number: int) -> bytes:
    try:
        raw = stream.readline(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        _bad(name, number, "unreadable_file", str(error), "a complete file", "fetch or pack it again")
    if len(raw) > MOST_BYTES:
        _bad(name, number, "endless_line", f"more than {MOST_BYTES} bytes", "lines of text", "check that it is a text file of rows")
    return raw


def _bad(name: str, line: int, code: str, found: str, expected: str, remedy: str) -> NoReturn:
    where = f"{name}, line {line}" if line else name
    raise DatasetError(code, f"{where}: {shorten(found, 200)}", expected, remedy)
