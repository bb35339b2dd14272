"""README.md can't rot: its producer and consumer run, its commands and settings exist."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer.main

from engine.decode import decode_item
from engine.records import Item
from export.trainer import Meters
from streams import cli, snippets, topics
from streams.gateway.metrics import Metrics as GatewayMetrics
from streams.metrics import Metrics
from streams.processes import Children, free_port
from streams.replay import item_record, producer_of
from streams.settings import RESERVED, Settings, load

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))}
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
LINES = 10


def commands() -> set[str]:
    """Every command of `headwater`, groups with their own: "topics create"."""
    root: Any = typer.main.get_command(cli.app)
    found = set()
    for name, command in root.commands.items():
        found |= {f"{name} {sub}" for sub in getattr(command, "commands", {})} or {name}
    return found


def test_the_examples_are_the_demos() -> None:
    """Rule: README's producer and consumer are the ones that the demo prints, each of ten lines at most."""
    assert PYTHON == [snippets.PRODUCER, snippets.CONSUMER]
    for text in PYTHON:
        assert len(text.strip().splitlines()) <= LINES
        ast.parse(text)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_commands_settings_and_metrics_exist(document: str) -> None:
    """Rule: every `headwater` command, HEADWATER_ variable, make target and metric that a document names is there."""
    text = DOCUMENTS[document]
    code = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL) + re.findall(r"`([^`\n]+)`", text))
    known = commands()
    for words in re.findall(r"\bheadwater ((?:[a-z-]+)(?: [a-z]+)?)", code):
        assert words in known or words.split()[0] in known, words
    for name in re.findall(r"HEADWATER_[A-Z_]*[A-Z]", text):
        assert name.removeprefix("HEADWATER_").lower() in Settings.model_fields or RESERVED.match(name), name
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"make ([a-z]+)", code)) <= set(targets)
    metrics = {metric.name for made in (Metrics(), GatewayMetrics(), Meters()) for metric in made.registry.collect()}
    counted = {name.removesuffix("_total") for name in re.findall(r"\bheadwater_[a-z_]+", text)}
    assert counted <= metrics


def test_defaults_are_those_of_the_settings() -> None:
    """Rule: the settings' defaults in README are the real ones."""
    for name, default in re.findall(r"^\| `HEADWATER_(\w+)` \| `?([^`|]+?)`? \|", README, re.MULTILINE):
        value = Settings.model_fields[name.lower()].default
        shown = ",".join(value) if isinstance(value, tuple) else str(value)
        assert default in (shown or "none", "see"), name
    line = re.findall(r"```json\n(.*?)```", README, re.DOTALL)[0].strip()
    assert decode_item(line.encode(), b"i1") is not None


@pytest.mark.broker
@pytest.mark.timeout(120)
def test_produce_and_consume(embedded: str, tmp_path: Path) -> None:
    """Rule: the ten lines send an event, and the other ten print the list that it led to."""
    environ = {
        "HEADWATER_BROKER": f"kafka://{embedded}",
        "HEADWATER_PREFIX": "readme.",
        "HEADWATER_STATE_DIR": str(tmp_path / "state"),
        "HEADWATER_REGISTRY": str(tmp_path / "registry"),
        "HEADWATER_WEB_PORT": str(free_port()),
        "HEADWATER_SESSION_TIMEOUT_S": "6",
    }
    settings = load(environ)
    topics.create(topics.admin(settings), topics.topics(settings))
    producer = producer_of(settings)
    for n in range(1, 6):
        key, value = item_record(Item(item_id=f"i{n}", title=f"Tea {n}"))
        producer.send(topics.Names.under(settings.prefix).items, value, key)
    producer.close()
    producing, consuming = (snippets.filled(text, embedded, prefix=settings.prefix, mock=True) for text in PYTHON)
    printed = tmp_path / "printed"
    with Children() as children, printed.open("wb") as out:
        worker = children.start("the worker", ["worker"], {**os.environ, **environ}, tmp_path / "worker.log")
        subprocess.run([sys.executable, "-c", producing], check=True, timeout=60)
        reader = subprocess.Popen([sys.executable, "-c", consuming], stdout=out)
        try:
            late = time.monotonic() + 60
            while "   4  " not in printed.read_text() and time.monotonic() < late:
                worker.check()
                assert reader.poll() is None
                time.sleep(0.1)
        finally:
            reader.kill()
            reader.wait()
    lines = printed.read_text().splitlines()
    assert lines[0].startswith("u1 at ")
    assert {line.split()[1] for line in lines[1:5]} == {"i2", "i3", "i4", "i5"}
