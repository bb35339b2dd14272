"""Data-set folders: what is read from a sound one, and what is said about a broken one."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from engine import dataset
from engine.errors import DatasetError

ROOT = Path(__file__).resolve().parent.parent
ITEMS = "item_id\ttitle\tauthor\tcategory\ttags\tpublished\tsystem\ni1\tOne\tAnn\tFantasy/RPG\tred, blue,\t2004\tzil\ni2\t\t\t\t\t\t\n"
EVENTS = "timestamp\tuser_id\titem_id\tevent_type\tsession_id\tprice\trating\n10\tu1\ti1\tplayed\ts\t2.5\t4\n11.5\tu1\ti9\tview\t\t\t\n"
META = {"name": "small", "available_from": "published", "types": {"played": "click"}}


def folder(path: Path, items: str | bytes = ITEMS, events: str | bytes = EVENTS, meta: Any = META) -> Path:
    """A data-set folder; text is gzipped, bytes are written as they are."""
    for name, content in ((dataset.ITEMS, items), (dataset.EVENTS, events)):
        (path / name).write_bytes(content if isinstance(content, bytes) else gzip.compress(content.encode()))
    (path / dataset.META).write_text(meta if isinstance(meta, str) else json.dumps(meta))
    return path


def test_a_sound_folder(tmp_path: Path) -> None:
    """Rule: columns become the contract's fields, others attributes; dates by META's column; unknown items are kept with index -1."""
    data = dataset.read(folder(tmp_path))
    one, two = data.items
    assert (data.name, data.index) == ("small", {"i1": 0, "i2": 1})
    assert (one.creator, one.categories, one.tags) == ("Ann", ("Fantasy", "RPG"), ("red", "blue"))
    assert one.published_at == one.available_from == 1_072_915_200_000
    assert one.attributes == {"system": "zil"}
    assert data.available_from == (1_072_915_200.0, None)
    assert (two.title, two.available_from) == ("i2", None)
    first, second = data.rows
    assert (first.time, first.user, first.item, first.type, first.session, first.price, first.rating) == (10, "u1", 0, "click", "s", 2.5, 4)
    assert (second.time, second.item, second.item_id, second.type, second.price) == (11.5, -1, "i9", "view", None)


def test_a_given_mapping_goes_before_meta(tmp_path: Path) -> None:
    """Rule: a mapping from the command line wins over META's, and may name a type that an installation has configured."""
    data = dataset.read(folder(tmp_path), types={"played": "like", "view": "listen"})
    assert [r.type for r in data.rows] == ["like", "listen"]


@pytest.mark.parametrize("name, items, events", [("ifdb-played", 4298, 36080), ("online-retail", 3659, 386331)])
def test_the_sets_that_come_along(name: str, items: int, events: int) -> None:
    """Rule: the committed data sets are whole."""
    data = dataset.read(ROOT / "data" / name)
    assert (len(data.items), len(data.rows)) == (items, events)
    assert all(r.item >= 0 for r in data.rows)


BROKEN = [
    ({"items": "item_id\tname\ni1\tx\n"}, "missing_column", "items.tsv.gz, line 1", "title"),
    ({"items": ITEMS + "i1\tAgain\n"}, "repeated_item", "items.tsv.gz, line 4", "i1"),
    ({"items": "item_id\ttitle\ni1\tx\ty\n"}, "too_many_fields", "line 2", "3 fields"),
    ({"items": "item_id\ttitle\n\tx\n"}, "missing_value", "line 2", "item_id"),
    ({"items": "item_id\ttitle\tprice\tpublished\ni1\tx\tdear\t\n"}, "not_a_number", "line 2", "dear"),
    ({"items": ITEMS.encode()}, "unreadable_file", "items.tsv.gz", "gzip"),
    ({"items": gzip.compress(ITEMS.encode() * 99)[:-9]}, "unreadable_file", "items.tsv.gz", "end"),
    ({"items": gzip.compress(b"item_id\ttitle\ni1\t\xff\n")}, "not_utf8", "items.tsv.gz", "utf-8"),
    ({"events": ""}, "missing_column", "events.tsv.gz, line 1", "empty"),
    ({"events": EVENTS + "soon\tu1\ti1\tview\n"}, "not_a_number", "events.tsv.gz, line 4", "soon"),
    ({"events": EVENTS + "1600000000000\tu1\ti1\tview\n"}, "bad_time", "line 4", "seconds"),
    ({"events": EVENTS + "nan\tu1\ti1\tview\n"}, "bad_time", "line 4", "nan"),
    ({"events": EVENTS + "12\tu1\ti1\tsang\n"}, "unknown_type", "line 4", "--type sang=click"),
    ({"meta": {**META, "types": {"played": "plays"}}}, "unknown_type", "line 2", "'plays'"),
    ({"meta": {**META, "available_from": "born"}}, "missing_column", "items.tsv.gz", "born"),
    ({"meta": {**META, "types": ["x"]}}, "bad_types", "META.json", "played"),
    ({"meta": "{"}, "not_json", "META.json, line 1", "JSON"),
    ({"meta": "[]"}, "not_json", "META.json", "list"),
]


@pytest.mark.parametrize("parts, code, where, said", BROKEN)
def test_a_broken_folder_is_explained(tmp_path: Path, parts: dict[str, Any], code: str, where: str, said: str) -> None:
    """Rule: what is wrong with a folder is said with file, line, what was found, what was expected and what to do."""
    with pytest.raises(DatasetError) as caught:
        dataset.read(folder(tmp_path, **parts))
    error = caught.value
    assert error.code == code
    assert where in error.found
    assert said in str(error)
    assert error.expected
    assert error.remedy


def test_missing_files_are_named(tmp_path: Path) -> None:
    """Rule: a folder, META.json or table that is not there is named."""
    with pytest.raises(DatasetError, match="no folder"):
        dataset.read(tmp_path / "nothing")
    with pytest.raises(DatasetError, match=r"META.json: no file"):
        dataset.read(tmp_path)
    (folder(tmp_path) / dataset.EVENTS).unlink()
    with pytest.raises(DatasetError, match=r"events.tsv.gz: no file"):
        dataset.read(tmp_path)


def test_categories_are_split_as_the_column_is_written() -> None:
    """Rule: the separator is that of the column; a lone stray one, or spaces in names, split nothing."""
    assert dataset.splitter([*["Home Garden", "Toys"] * 50, "a|b"], spaces=True) is None
    pipes = dataset.splitter(["Action|Drama, 1960s", "Drama"], spaces=True)
    assert dataset.parts("Action|Drama, 1960s", pipes) == ("Action", "Drama, 1960s")
