"""`headwater explain`: what is said of a live user's list is true of it, whatever keeps an item out is named, and what fails says why."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.worker_process import NOW_MS, ROOT, Installation, catalogue

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]
DAY = 86_400_000


@pytest.fixture(scope="module")
def world(embedded: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation with forty items, two of which can't be listed, a worker, and Ann, who clicks what her neighbours click."""
    with Installation(embedded, "explain.", tmp_path_factory.mktemp("explain"), fatigue=5) as world:
        odd: dict[str, dict[str, Any]] = {"i38": {"available": False}, "i39": {"available_from": NOW_MS + 3 * DAY}}
        for item in catalogue():
            world.put(world.names.items, item["item_id"], {**item, **odd.get(item["item_id"], {})})
        world.flush()
        world.start()
        for n in range(4):
            world.event(f"a{n}", f"mate{n}", "i30")
            world.event(f"b{n}", f"mate{n}", "i31")
        world.neighbours_read()
        world.event("e1", "ann", "i30")
        world.list_after("e1", user="ann")
        yield world


def explain(world: Installation, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")} | world.environ | environ
    command = [sys.executable, "-m", "streams.cli", "explain", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=60)


def test_a_list(world: Installation) -> None:
    """Rule: each item of the list that stands is told with its title, its score, and sentences whose weights add up to it."""
    found = explain(world, "ann")
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    assert lines[0].startswith("ann: 1 event, the newest on ")
    assert lines[1] == "home: 10 items, generation none, made after event e1"
    assert lines[2].startswith("rests on what the user took, newest first: Story number 30 (i30), 20")
    standing = world.list_after("e1", user="ann")["items"]
    heads = [line for line in lines if "  score " in line]
    titles = [f"{one['item_id']}  Story number {one['item_id'][1:]}" for one in standing]
    assert heads == [f"{n:4}  {title}  score {one['score']:.3f}" for n, (title, one) in enumerate(zip(titles, standing, strict=True), 1)]
    assert standing[0]["item_id"] == "i31"
    first = lines[lines.index(heads[0]) + 1 : lines.index(heads[1]) - 1]
    assert any("it is often taken together with Story number 30 (i30), which the user took on 20" in line for line in first)
    assert sum(float(line.split()[0]) for line in first) == pytest.approx(standing[0]["score"], abs=0.01)


def test_an_item(world: Installation) -> None:
    """Rule: its place in the list, or all that keeps it out of it, or its place below the cut, as a worker has it now."""
    assert "i31  Story number 31: at place 1 of 10 on home" in explain(world, "ann", "i31").stdout
    listed = {one["item_id"] for one in world.list_after("e1", user="ann")["items"]}
    below = next(f"i{n}" for n in range(37) if f"i{n}" not in listed and n != 30)
    found = explain(world, "ann", below).stdout
    assert f"{below}  Story number {below[1:]}: not among the 10 items on home" in found
    assert "  - below the cut: at place " in found
    for item, why in {
        "i30": "the user has had it, on 20",
        "i38": "it is not available",
        "i39": "it is released on ",
        "i99": "the catalogue does not have it",
    }.items():
        found = explain(world, "ann", item).stdout
        assert f"  - {why}" in found, found
    assert "  - if that were not so: score " in explain(world, "ann", "i30").stdout


def test_fatigue(world: Installation) -> None:
    """Rule: what impressions showed again and again and the user did not take comes lower, and the list and its explanation say why."""
    hour = DAY // 24
    world.event("f1", "bea", "i30", timestamp=NOW_MS - 9 * hour)
    for n in range(4):
        world.event(f"f-shown-{n}", "bea", None, type="impression", items=["i31", "i7"], timestamp=NOW_MS - (8 - n) * hour)
    world.event("f2", "bea", "i29", timestamp=NOW_MS - hour)
    listed = world.list_after("f2", user="bea")["items"]
    assert listed[0]["item_id"] != "i31", listed[0]
    found = explain(world, "bea", "i31").stdout
    (weight,) = [float(line.split()[0]) for line in found.splitlines() if line.endswith("it was shown again and again and not taken")]
    assert -5 * 1.387 < weight < -5 * 1.3  # 5 ln 4, some hours ago


def test_rules(world: Installation) -> None:
    """Rule: a rule that keeps an item out is named with what it is about."""
    world.send(world.names.rules, "no-caves", {"rule_id": "no-caves", "action": "block", "match": {"category": "cave"}})
    world.read_by_all(world.names.rules)
    assert "  - rule no-caves blocks category: cave\n" in explain(world, "ann", "i20").stdout
    world.send(world.names.rules, "no-caves", None)


def test_nobody(world: Installation) -> None:
    """Rule: a user without a list is told so with 1; an item is explained all the same, by what anybody would get."""
    found = explain(world, "nobody")
    assert (found.returncode, "no list on home" in found.stdout) == (1, True)
    found = explain(world, "nobody", "i31")
    assert found.returncode == 0
    assert "i31  Story number 31: there is no list on home" in found.stdout
    assert "  - a list made now has it at place " in found.stdout
    assert "it is popular" in found.stdout
    assert "there is no list on cart" in explain(world, "ann", "i31", "--surface", "cart").stdout


def test_no_worker_and_no_broker(world: Installation) -> None:
    """Rule: without a worker what is known is said, and that place and score are not; without a broker there is an error with a remedy."""
    with Installation(world.bootstrap, "idle.", world.folder / "idle") as idle:
        for item in catalogue(3):
            idle.send(idle.names.items, item["item_id"], {**item, "available": False})
        found = explain(idle, "ann", "i1", "--wait", "0.5")
        assert found.returncode == 0
        assert "it is not available" in found.stdout
        assert "no worker has answered" in found.stdout
    down = explain(world, "ann", "--broker", "kafka://127.0.0.1:9")
    assert down.returncode == 1
    assert "127.0.0.1:9" in down.stderr
    assert "(" in down.stderr
    assert "Traceback" not in down.stderr
