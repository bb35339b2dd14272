"""The command line: what it prints, and how it says what is wrong."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from streams import logs
from streams.settings import Settings

ROOT = Path(__file__).resolve().parent.parent


def headwater(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("HEADWATER_")} | environ
    return subprocess.run([sys.executable, "-m", "streams.cli", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_config_prints_every_setting_and_no_secret() -> None:
    """Rule: name, value, unit, source and meaning of each setting; secrets are masked."""
    done = headwater("config", HEADWATER_PASSWORD="hush", HEADWATER_LIST_SIZE="7")
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert set(lines) == {"setting", *Settings.model_fields}
    assert lines["list_size"].split()[:4] == ["list_size", "7", "items", "env"]
    assert "hush" not in done.stdout
    assert "********" in lines["password"]


def test_wrong_settings_are_all_said() -> None:
    """Rule: wrong settings end with 2, each on a line of its own, without a traceback."""
    done = headwater("config", HEADWATER_LIST_SIZE="0", HEADWATER_WEB_PORT="x")
    assert (done.returncode, done.stdout) == (2, "")
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["web_port", "list_size"]


def test_wrong_arguments_are_explained() -> None:
    """Rule: a folder, speed or mapping that can't be used is explained in one line, with 1 or 2."""
    done = headwater("replay", "nothing")
    assert done.returncode == 1
    assert "META.json" in done.stderr
    assert headwater("replay", "ifdb-played", "--type", "played").returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="wants a device that is always full")
def test_a_full_disk_is_explained() -> None:
    """Rule: what the machine refuses is said like any other error, with what to do about it."""
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "streams.cli", "config", "--markdown"]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr.startswith("disk_full: found No space left on device, expected room on the disk (")
    assert "Traceback" not in done.stderr


@pytest.mark.broker
def test_replay_makes_no_topics_by_accident(embedded: str) -> None:
    """Rule: on the embedded broker replay needs no preparation, and says what it sent."""
    done = headwater(
        "replay", "ifdb-played", "--to", "2008-01-01", "--no-items", HEADWATER_BROKER=f"kafka://{embedded}", HEADWATER_PREFIX="c."
    )
    assert done.returncode == 0, done.stderr
    assert "events of 2007-12-25 to 2007-12-31" in done.stdout


def test_a_log_line_is_a_name_and_fields() -> None:
    """Rule: one event name and key=value, or one JSON object; a library's lines have the same form, below warning they are left out."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        text, lines = io.StringIO(), io.StringIO()
        logs.configure("info", "text", text)
        logs.logger("headwater.test").info("swapped", generation="g-1", seconds=0.5)
        logging.getLogger("faust.app").info("chatter")
        assert "level=info event=swapped generation=g-1" in text.getvalue()
        assert "chatter" not in text.getvalue()
        logs.configure("warning", "json", lines)
        logging.getLogger("aiokafka").warning("lost %s", "it")
        assert json.loads(lines.getvalue())["event"] == "lost it"
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
