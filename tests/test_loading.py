"""One's own files as records: every way in which people write tables, every bad row named, nothing sent that a worker would refuse."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.columns import EVENTS, ITEMS
from engine.decode import decode_event, decode_item
from engine.errors import BadSettings, DatasetError
from engine.filerecords import FileRecord, Recipe
from engine.records import Item
from engine.tablefile import MOST_BYTES, open_table
from streams import loading
from tests.worker_process import Installation

ROOT = Path(__file__).resolve().parent.parent


def rows(raw: bytes | str, recipe: Recipe | None = None, name: str = "items.csv") -> list[FileRecord]:
    """All rows of a file."""
    stream = io.BytesIO(raw if isinstance(raw, bytes) else raw.encode())
    return list((recipe or Recipe(ITEMS)).records(open_table(stream, name)))


def values(raw: bytes | str, recipe: Recipe | None = None, name: str = "items.csv") -> list[Any]:
    """All rows as they are sent; each is good."""
    found = rows(raw, recipe, name)
    assert not [problem for one in found for problem in one.problems]
    return [json.loads(one.value) for one in found]


def headwater(*arguments: str, stdin: bytes = b"", **environ: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command as a user does."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("HEADWATER_")} | environ
    command = [sys.executable, "-m", "streams.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, input=stdin, capture_output=True, check=False)


TEA = [{"item_id": "i1", "title": "Tea, green", "categories": ["tea", "japan"], "attributes": {"colour": "pale"}}]


@pytest.mark.parametrize(
    "name,raw",
    [
        ("items.csv", 'item_id,title,categories,colour\ni1,"Tea, green",tea|japan,pale\n'),
        ("items.csv", "id;name;category;colour\ni1;Tea, green;tea | japan;pale\n"),  # as Excel writes it in Europe
        ("items.csv", '\ufeffID,Name,Category,colour\r\ni1,"Tea, green",tea;japan,pale\r\n'),
        ("items.tsv", "Product ID\tproduct name\tgenres\tcolour\ni1\tTea, green\ttea|japan\tpale"),
        ("items.txt", "sku|headline|Category|colour\ni1|Tea, green|tea;japan|pale\n"),
        ("items.csv", '\n\nid,name,genre,colour\n\ni1,"Tea, green","[""tea"", ""japan""]",pale\n,,,\n'),
        ("items.jsonl", '{"item_id":"i1","title":"Tea, green","categories":["tea","japan"],"attributes":{"colour":"pale"}}\n\n'),
        ("standard input", '{"item_id":"i1","title":"Tea, green","categories":["tea","japan"],"attributes":{"colour":"pale"}}'),
    ],
)
def test_tables_as_people_write_them(name: str, raw: str) -> None:
    """Rule: delimiters, byte-order marks, line ends, aliases, capitals and lists in a cell are understood, gzipped or not."""
    assert values(raw, name=name) == TEA
    assert values(gzip.compress(raw.encode(), mtime=0), name=f"{name}.gz") == TEA


def test_cells_become_what_they_say() -> None:
    """Rule: numbers, flags, dates, objects and quoted line ends are read; an empty cell is no value; a date without zone is UTC."""
    found = values(
        "id,name,price,available,published,available_from,description,attributes,size\n"
        'i1,"Two\nlines",4.50,no,2015,2024-05-01 10:00+02:00,,"{""a"": 1}",L\ni2,B,4,TRUE,2024-05-01,1714559400000,x,,\n'
    )
    assert found == [
        {
            "item_id": "i1",
            "title": "Two\nlines",
            "price": 4.5,
            "available": False,
            "published_at": "2015-01-01T00:00:00Z",
            "available_from": "2024-05-01T10:00:00+02:00",
            "attributes": {"a": 1, "size": "L"},
        },
        {
            "item_id": "i2",
            "title": "B",
            "price": 4,
            "available": True,
            "published_at": "2024-05-01T00:00:00Z",
            "available_from": 1714559400000,
            "description": "x",
        },
    ]


def test_every_bad_row_is_named_by_its_first_line() -> None:
    """Rule: a row that cannot be used is given with its line and all its problems; the rows after it are read."""
    raw = 'id,name,price\ni1,"a\nb",1\ni2,,x\ni3,"c"d,1\ni4,d,1,2\ni5,e,5\n'
    found = rows(raw)
    assert [(one.line, [p.code for p in one.problems]) for one in found] == [
        (2, []),
        (4, ["missing", "wrong_type"]),
        (5, ["bad_row"]),
        (6, ["too_many_cells"]),
        (7, []),
    ]
    assert all(p.remedy for one in found for p in one.problems)
    assert [(one.line, [p.code for p in one.problems]) for one in rows('{"item_id":"i1"}\n{"a\n[1]\n', name="a.jsonl")] == [
        (1, ["missing"]),
        (2, ["malformed_json"]),
        (3, ["not_an_object"]),
    ]


@pytest.mark.parametrize(
    "raw,name,code",
    [
        (b"", "a.csv", "empty_file"),
        (b"\n \n", "a.csv", "empty_file"),
        ("id,name\ni1,caf\xe9".encode("latin-1"), "a.csv", "not_utf8"),
        ("id,name\ni1,x".encode("utf-16"), "a.csv", "not_utf8"),
        (b'[{"item_id": "i1"}]', "a.json", "json_array"),
        (b"id,id\n1,2", "a.csv", "bad_header"),
        (b"id,,name\n1,2,3", "a.csv", "bad_header"),
        (b"id,price\ni1,3\n", "a.csv", "missing_column"),
        (gzip.compress(b"id,name\ni1,a\n" * 900, mtime=0)[:60], "a.csv.gz", "unreadable_file"),
        (b"id,name\ni1," + b"x" * (MOST_BYTES + 2), "a.csv", "endless_line"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(raw: bytes, name: str, code: str) -> None:
    """Rule: what is wrong with the file as a whole ends the reading with what was found, the line, and what to do."""
    with pytest.raises(DatasetError) as caught:
        rows(raw, name=name)
    assert caught.value.code == code
    assert caught.value.remedy


def test_an_open_quote_does_not_swallow_the_file_unsaid() -> None:
    """Rule: a quote that is never closed is a bad row, named by the line where it opens."""
    found = rows('id,name\ni1,a\ni2,"b\ni3,c\n')
    assert [(one.line, len(one.problems)) for one in found] == [(2, 0), (3, 1)]


def test_columns_are_found_or_asked_for() -> None:
    """Rule: --map goes before names, names before aliases; what is not needed becomes context; wrong mappings are explained."""
    recipe = Recipe(EVENTS, {"when": "timestamp"}, {"listened": "click"}, "view")
    raw = "user,item,when,event,amount,price,page\nu1,i1,2024-05-01,listened,2,9.5,home\nu1,i2,2024-05-02,,,,\n"
    first, second = values(raw, recipe, "events.csv")
    assert {k: v for k, v in first.items() if k != "event_id"} == {
        "user_id": "u1",
        "item_id": "i1",
        "timestamp": "2024-05-01T00:00:00Z",
        "type": "click",
        "value": 9.5,
        "context": {"amount": "2", "page": "home"},
    }
    assert second["type"] == "view"
    with pytest.raises(BadSettings, match="a column: user"):
        rows(raw, Recipe(EVENTS, {"wen": "timestamp"}), "events.csv")
    with pytest.raises(DatasetError, match="--type click"):
        rows("user,item,time\nu1,i1,2024-05-01\n", Recipe(EVENTS), "events.csv")


def test_ids_of_events_are_what_rows_say() -> None:
    """Rule: a row without an event id has one made of what it says: the same again, another one where anything differs."""
    raw = "user,item,time,type\nu1,i1,2024-05-01,click\nu1,i1,2024-05-01,view\nu1,i1,2024-05-01,click\n"
    ids = [one["event_id"] for one in values(raw, Recipe(EVENTS), "e.csv")]
    assert ids[0] == ids[2] != ids[1]
    assert ids == [one["event_id"] for one in values(raw, Recipe(EVENTS), "other.csv")]
    lines = '{"user_id":"u1","item_id":"i1","timestamp":1714559400000,"type":"click"}\n'
    assert values(lines, Recipe(EVENTS), "e.jsonl") == values(lines.replace(":", ": "), Recipe(EVENTS), "e.jsonl")
    assert values('{"event_id":"e","user_id":"u","type":"search","query":"q","timestamp":1714559400000}', Recipe(EVENTS), "e.jsonl")


def test_seconds_are_refused_with_the_remedy() -> None:
    """Rule: a time in seconds is not guessed at."""
    (one,) = rows("user,item,time,type\nu1,i1,1714559400,click\n", Recipe(EVENTS), "e.csv")
    assert one.problems[0].code == "time_in_seconds"
    assert "1714559400000" in one.problems[0].remedy


@given(st.lists(st.tuples(st.text(max_size=6), st.text(max_size=6), st.text(max_size=6)), min_size=1, max_size=8), st.sampled_from(",;\t|"))
def test_whatever_a_table_holds_is_sent_or_named(cells: list[tuple[str, str, str]], delimiter: str) -> None:
    """Rule: no table makes the reading fail, and what is given as good is good for a worker."""
    raw = f"id{delimiter}name{delimiter}date\n" + "\n".join(delimiter.join(row) for row in cells)
    for one in rows(raw.encode("utf-8", "replace")):
        assert (one.record is None) == bool(one.problems)
        if one.record is not None:
            assert decode_item(one.value, one.key) == one.record


def test_commands_check_before_they_send(tmp_path: Path) -> None:
    """Rule: a dry run prints what would be sent and needs no broker; --strict sends nothing when a row is bad; bad rows are named."""
    file = tmp_path / "items.csv"
    file.write_text("id,name,colour\ni1,Tea,pale\ni2,,red\n", encoding="utf-8")
    dry = headwater("items", "load", str(file), "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert dry.stdout.decode().splitlines() == [
        'i1 {"item_id":"i1","title":"Tea","attributes":{"colour":"pale"}}',
        "items.csv: 1 item would be sent; 1 of 2 rows left out",
    ]
    assert b"line 3: title: found nothing" in dry.stderr
    assert "columns: id → item_id, name → title, colour → attributes.colour" in dry.stderr.decode()
    strict = headwater("items", "load", str(file), "--strict", HEADWATER_BROKER="kafka://127.0.0.1:1")
    assert (strict.returncode, strict.stdout) == (1, b"")
    assert b"bad_rows" in strict.stderr
    for wrong in (["--map", "colour=color"], ["--map", "x"]):
        assert headwater("items", "load", str(file), *wrong).returncode == 2
    assert headwater("events", "load", str(tmp_path / "nothing")).returncode == 1
    assert headwater("events", "load", str(file), "--type", "a", "--type", "b").returncode == 2
    some = headwater("events", "load", "-", "--type", "click", "--named", "1", stdin=b"user,item,time\nu,i,5\nu,i,x\n")
    assert some.returncode == 1
    assert b"and 1 rows more" in some.stderr


@pytest.mark.broker
def test_loaded_rows_stand_on_their_topics(embedded: str, prefix: str, tmp_path: Path) -> None:
    """Rule: good rows are sent keyed by their id, on the partition that every client chooses, and twice they are the same events."""
    with Installation(embedded, prefix, tmp_path) as world:
        items = headwater("items", "load", "-", stdin=b"id,name\ni1,Tea\ni2,Cup\n", **world.environ)
        assert items.stdout.startswith(b"standard input: 2 items in "), items.stderr
        raw = b"user,item,time\n" + b"".join(b"u%d,i1,2024-05-01T10:00:%02dZ\n" % (n % 7, n) for n in range(50))
        for _ in range(2):
            events = headwater("events", "load", "-", "--type", "click", stdin=raw, **world.environ)
            assert events.returncode == 0, events.stderr
        world.start()
        world.settled()
        assert {user: row.events for user, row in world.users().items()} == {f"u{n}": 8 if n == 0 else 7 for n in range(7)}
        assert world.workers[-1].metric("headwater_events_total", outcome="duplicate") == 50
        assert world.workers[-1].metric("headwater_rerouted_records_total", source="events") == 0
        assert set(world.last(world.names.items)) == {b"i1", b"i2"}
        listed = headwater("lists", "u0", stdin=b"", **world.environ)
        assert listed.stdout.decode().splitlines()[1].split()[:2] == ["1", "i2"], listed.stderr
        none = headwater("lists", "nobody", "--wait", "0", stdin=b"", **world.environ)
        assert (none.returncode, none.stdout) == (
            1,
            b"no list for nobody on home: one comes with the user's first event; the gateway makes one for anybody who asks\n",
        )
        for record in world.tail(world.names.events).to_end():
            assert decode_event(record.value, record.key).type == "click"


def test_a_spooled_standard_input_is_read_twice() -> None:
    """Rule: what comes on standard input is checked as a whole before any of it is sent, however long it is."""
    raw = b"id,name\n" + b"".join(b"i%d,%s\n" % (n, b"x" * 100) for n in range(100_000))
    with loading.opened("-", io.BytesIO(raw)) as (stream, name):
        found = loading.check(stream, name, Recipe(ITEMS), 5)
        assert found.good == 100_000
        assert sum(1 for _ in Recipe(ITEMS).records(open_table(stream, name))) == 100_000


def test_remedies_are_those_of_a_file() -> None:
    """Rule: what can't be read in a cell is said with what to write there, not with what a program would send."""
    (item,) = rows('id,title,price,available,published_at\ni1,Tea,"34,90",ja,yesterday\n', Recipe(ITEMS), "i.csv")
    said = {one.field: one.remedy for one in item.problems}
    assert "34.90" in said["price"]
    assert "yes or no" in said["available"]
    assert "2024-05-01" in said["published_at"]
    (event,) = rows("user,item,time,type\nu1,i1,2024-05-01,gesehen\n", Recipe(EVENTS), "e.csv")
    assert "--type gesehen=TYPE" in event.problems[0].remedy


def test_json_lines_may_say_what_cells_say() -> None:
    """Rule: dates, lists and numbers that a table may have as text are understood in JSON lines too."""
    text = '{"item_id":"i1","title":"Tea","published_at":"2020-10-01","categories":"green; black","price":"3.5","available":"no"}\n'
    (one,) = rows(text, Recipe(ITEMS), "i.jsonl")
    assert isinstance(one.record, Item), one.problems
    assert (one.record.categories, one.record.price, one.record.available) == (("green", "black"), 3.5, False)


def test_what_no_number_holds() -> None:
    """Rule: a number without end, and half a character, are problems of their row and of no other."""
    found = rows('id,title,price,attributes\ni1,Tea,1e999,\ni2,Tea,1,"{""a"":""\\ud800""}"\ni3,Tea,1,\n', Recipe(ITEMS), "i.csv")
    assert [[(p.field, p.code) for p in one.problems] for one in found] == [[("price", "wrong_type")], [("row", "not_unicode")], []]


def test_a_pipe(tmp_path: Path) -> None:
    """Rule: a file that can be read only once, as of <(…), is loaded like any other."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(b"id,title\ni1,Tea\n"))
    writer.start()
    with loading.opened(str(pipe)) as (stream, name):
        found = loading.check(stream, name, Recipe(ITEMS), 5)
    writer.join()
    assert (found.rows, found.good) == (1, 1)
