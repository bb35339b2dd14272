"""`headwater rules`: what stands is shown as workers have it, what is wrong is not sent, what is ended is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker_process import NOW_MS, ROOT, Installation, catalogue

pytestmark = [pytest.mark.broker, pytest.mark.timeout(120)]
GOOD = {"rule_id": "no-caves", "action": "block", "match": {"category": "cave"}, "surfaces": ["home"], "note": "closed for repairs"}


@pytest.fixture(scope="module")
def world(embedded: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation with forty items and no worker."""
    with Installation(embedded, "rules.", tmp_path_factory.mktemp("rules")) as world:
        for item in catalogue():
            world.put(world.names.items, item["item_id"], {**item, "vectors": {"v": [1.0]}})
        world.put(world.names.items, "bad", b"{")
        world.flush()
        yield world


def rules(world: Installation, *arguments: str, stdin: object = None) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")} | world.environ
    text = stdin if isinstance(stdin, str) else json.dumps(stdin)
    command = [sys.executable, "-m", "streams.cli", "rules", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, input=text, capture_output=True, text=True, check=False, timeout=60)


def standing(world: Installation) -> set[str]:
    """The ids of the rules on the topic."""
    return {key.decode() for key, record in world.last(world.names.rules).items() if record.value is not None}


def test_put_list_end(world: Installation, tmp_path: Path) -> None:
    """Rule: a good rule is sent under its id, and listed with what it matches; ended, it is gone; nothing else is touched."""
    file = tmp_path / "rule.json"
    file.write_text(json.dumps(GOOD, indent=2))
    assert rules(world, "check", str(file)).stdout == "1 rule: no-caves: nothing is wrong\n"
    assert standing(world) == set()
    done = rules(world, "put", str(file))
    assert (done.returncode, done.stdout) == (0, "put 1 rule: no-caves\n"), done.stderr
    later = {"rule_id": "later", "action": "boost", "match": {"tags": "t1"}, "factor": 2, "starts_at": "2099-01-01T00:00:00Z"}
    assert rules(world, "put", "-", stdin=later).returncode == 0
    found = rules(world, "list")
    assert found.stdout.splitlines() == [
        "no-caves  block  active",
        "    match     category: cave",
        "    items     10 of 40: i0 (Story number 0), i12 (Story number 12), i16 (Story number 16), …",
        "    surfaces  home",
        "    users     all",
        "    note      closed for repairs",
        "later  boost by 2  scheduled, from 2099-01-01T00:00:00.000Z",
        "    match     tags: t1",
        "    items     13 of 40: i1 (Story number 1), i10 (Story number 10), i13 (Story number 13), …",
        "    surfaces  all",
        "    users     all",
    ]
    assert found.stderr.startswith("2 rules: 1 active, 1 scheduled, 0 ended; workers' time is ")
    lines = [json.loads(line) for line in rules(world, "list", "--json").stdout.splitlines()]
    assert [(line["rule"]["rule_id"], line["state"], line["matches"]["count"]) for line in lines] == [
        ("no-caves", "active", 10),
        ("later", "scheduled", 13),
    ]
    wrong = rules(world, "end", "no-caves", "no-cave")
    assert wrong.returncode == 1
    assert "end no-caves?" in wrong.stderr
    assert standing(world) == {"no-caves", "later"}
    assert rules(world, "end", "no-caves", "later").stdout == "ended no-caves, later\n"
    assert standing(world) == set()


def test_what_is_wrong_is_not_sent(world: Installation) -> None:
    """Rule: every mistake is told with its line, the status is 1, and nothing is sent unless it is meant; the unreadable never is."""
    few = {"rule_id": "few", "action": "filter", "match": {"item_ids": ["i1"]}}
    both = json.dumps(few) + "\n" + json.dumps({"rule_id": "pin", "action": "pin", "match": {"item_ids": ["i2"]}, "rank": 0})
    done = rules(world, "check", "-", stdin=both)
    assert done.returncode == 1
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["line 1, few", "line 1, few", "line 2, pin"]
    assert "1 of 40 items left on home" in done.stderr
    for stdin, force in ((both, ()), (both + "\n{", ("--force",))):
        done = rules(world, "put", "-", *force, stdin=stdin)
        assert done.returncode == 1
        assert "nothing was sent" in done.stderr
        assert "Traceback" not in done.stderr
    assert standing(world) == set()
    assert rules(world, "put", "-", "--force", stdin=both).returncode == 0
    assert standing(world) == {"few", "pin"}
    assert rules(world, "check", "-", stdin=" ").returncode == 1
    rules(world, "end", "few", "pin")


def test_a_version_that_can_not_be_read(world: Installation) -> None:
    """Rule: it is told, and the version before is shown, since workers keep it."""
    world.send(world.names.rules, "old", {"rule_id": "old", "action": "block", "match": {"tags": "t0"}})
    place = world.send(world.names.rules, "old", {"rule_id": "old", "action": "pin", "match": {"tags": "t0"}})
    found = rules(world, "list")
    assert found.stdout.startswith("old  block  active")
    assert f"{world.names.rules}[{place[0]}]@{place[1]}, not taken; the version before stays: rank: " in found.stderr
    world.send(world.names.rules, "old", None)


def test_workers_time(world: Installation) -> None:
    """Rule: where history is replayed rules are those of its time; where events come now, the clock tells."""
    end = NOW_MS - 400 * 86_400_000
    world.send(world.names.rules, "past", {"rule_id": "past", "action": "block", "match": {"tags": "t0"}, "ends_at": end})
    assert "past  block  ended" in rules(world, "list").stdout
    world.event("h1", "u", "i1", timestamp=end - 1_000)
    assert "past  block  active" in rules(world, "list").stdout
    world.event("h2", "u", "i1", timestamp=round(time.time() * 1000))
    assert "past  block  ended" in rules(world, "list").stdout
    world.send(world.names.rules, "past", None)
