"""docs/getting-started.md, typed as it stands: each shell block, in order, with the example catalogue and events."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from streams.processes import free_port

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
    environ = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}
    environ |= {
        "PATH": f"{command.parent}:{environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "HEADWATER_WEB_PORT": str(free_port()),  # the default ones may be taken on this machine
        "HEADWATER_GATEWAY_PORT": str(free_port()),
    }
    start, *rest = BLOCKS
    assert start == "headwater up\n"
    with (tmp_path / "up.log").open("wb") as log:
        up = subprocess.Popen(["headwater", "up"], cwd=tmp_path, env=environ, stdout=log, stderr=log)
    try:
        until = time.monotonic() + READY_S
        while "In another terminal" not in (said := (tmp_path / "up.log").read_text(encoding="utf-8")):
            assert up.poll() is None, said
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
        ann, ben, exported, again = parts[3:]
        assert "ann, home: generation none" in ann
        assert len(re.findall(r"^ +\d+  \w+", ann, re.MULTILINE)) == 10
        before, after = ben.split("standard input: 1 events")
        tops = [re.findall(r"^ +\d+  (\w+)", text, re.MULTILINE) for text in (before, after)]
        assert len(tops[0]) == len(tops[1]) == 10
        assert tops[0][:5] != tops[1][:5]
        assert {"bowl", "scoop"} & set(tops[1][:5]), tops
        generation = re.findall(r"^announced (g-\S+)", exported, re.MULTILINE)[0]
        assert f"generation {generation}" in again
        assert "similar_text" in again
    finally:
        up.terminate()
        assert up.wait(30) == 0
    assert not (tmp_path / "var" / "up" / "headwater.toml").exists()
