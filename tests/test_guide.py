"""docs/getting-started.md, typed as it stands: each shell block, in order, with the example catalogue and events."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from engine.errors import HeadwaterError
from streams import up
from streams.processes import free_port
from streams.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
GUIDE = (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
READY_S = 120.0


@pytest.mark.broker
@pytest.mark.timeout(400)
def test_the_guide_works_as_it_stands(tmp_path: Path) -> None:
    """Rule: who types the guide's commands, and nothing else, gets lists of their own, before and after a click, and with an encoder."""
    command = tmp_path / "bin" / "headwater"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m streams.cli "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    ports = free_port(), free_port()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}
    environ |= {
        "PATH": f"{command.parent}:{environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "HEADWATER_WEB_PORT": str(ports[0]),  # the default ones may be taken on this machine
        "HEADWATER_GATEWAY_PORT": str(ports[1]),
    }
    start, *rest = BLOCKS
    assert start == "headwater up\n"
    with (tmp_path / "up.log").open("wb") as log:
        running = subprocess.Popen(["headwater", "up"], cwd=tmp_path, env=environ, stdout=log, stderr=log)
    try:
        until = time.monotonic() + READY_S
        while "In another terminal" not in (said := (tmp_path / "up.log").read_text(encoding="utf-8")):
            assert running.poll() is None, said
            assert time.monotonic() < until, said
            time.sleep(0.2)
        with urllib.request.urlopen(f"http://127.0.0.1:{environ['HEADWATER_GATEWAY_PORT']}/") as page:
            assert b"<html" in page.read()
        del environ["HEADWATER_WEB_PORT"], environ["HEADWATER_GATEWAY_PORT"]  # the second terminal knows only what the guide says
        rest[-1] = f"sleep 5\n{rest[-1]}"  # a person is slower than the worker, which opens and proves the generation meanwhile
        script = "set -e\n" + "\n".join(f"echo == block {n}\n{block}" for n, block in enumerate(rest))
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        parts = re.split(r"^== block \d+\n", done.stdout, flags=re.MULTILINE)[1:]
        assert "30 items" in parts[1]
        assert "69 events" in parts[2]
        ann, ben, why, exported, again = parts[3:]
        assert "ann, home: generation none" in ann
        assert len(re.findall(r"^ +\d+  \w+", ann, re.MULTILINE)) == 10
        before, after = ben.split("standard input: 1 event in")
        tops = [re.findall(r"^ +\d+  (\w+)", text, re.MULTILINE) for text in (before, after)]
        assert len(tops[0]) == len(tops[1]) == 10
        assert tops[0][:5] != tops[1][:5]
        assert {"bowl", "scoop"} & set(tops[1][:5]), tops
        assert "it is often taken together with Bamboo whisk for matcha (whisk), which the user took on 2024-10-01" in why
        assert "the user has had it, on 2024-09-19" in why
        assert "rooibos  Rooibos with vanilla: not among the 10 items on home\n  - below the cut: at place " in why
        assert "history" in ann
        assert "often_together" in after
        generation = re.findall(r"^announced (g-\S+)", exported, re.MULTILINE)[0]
        assert f"generation {generation}" in again
        assert "similar_text" in again
        sent = subprocess.run([sys.executable, "var/up/produce.py"], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
        assert sent.returncode == 0, sent.stderr
        config = (tmp_path / "var" / "up" / "headwater.toml").read_text(encoding="utf-8")
        second = subprocess.run(["headwater", "up"], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert (second.returncode, second.stderr.partition(":")[0]) == (1, "already_up"), "a second one does not touch the first"
        assert (tmp_path / "var" / "up" / "headwater.toml").read_text(encoding="utf-8") == config
        assert f'registry = "{tmp_path}/var/registry"' in config, "the same place for commands that are run elsewhere"
    finally:
        running.send_signal(signal.SIGHUP)  # the terminal is closed
        assert running.wait(30) == 0
    assert not (tmp_path / "var" / "up" / "headwater.toml").exists()
    assert not _listens(ports[0])
    assert not _listens(ports[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_up_on_a_port_that_is_taken() -> None:
    """Rule: what listens on a port of ours is not taken for a worker of ours; the error says which setting moves it."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(HeadwaterError) as caught:
            up.free(Settings(web_port=free_port(), gateway_port=port))
    assert caught.value.code == "address_taken"
    assert f"127.0.0.1:{port}" in caught.value.found
    assert "HEADWATER_GATEWAY_PORT" in caught.value.remedy
