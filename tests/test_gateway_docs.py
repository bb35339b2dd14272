"""docs/gateway.md can't rot: it names every endpoint and setting, and its curl examples run as they stand."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from streams.settings import Settings
from tests.gateway_process import GatewayProcess
from tests.worker_process import Installation, catalogue

DOCUMENT = (Path(__file__).resolve().parent.parent / "docs" / "gateway.md").read_text(encoding="utf-8")
EXAMPLES = [line for block in re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL) for line in block.replace("\\\n", "").splitlines()]
ADDRESS = "http://127.0.0.1:8080"


def test_settings() -> None:
    """Rule: every setting of the gateway stands in its document."""
    wanted = {f"HEADWATER_{name.upper()}" for name in Settings.model_fields if name.startswith("gateway_") and name != "gateway_port"}
    assert wanted <= set(re.findall(r"HEADWATER_[A-Z_]+", DOCUMENT))


@pytest.mark.broker
@pytest.mark.timeout(120)
@pytest.mark.skipif(shutil.which("curl") is None, reason="wants curl")
def test_endpoints_and_examples(embedded: str, tmp_path: Path) -> None:
    """Rule: the document names each endpoint of the description, and each example is answered with success."""
    with Installation(embedded, "docs.", tmp_path) as world:
        for item in catalogue(12):
            world.put(world.names.items, item["item_id"], item)
        world.flush()
        world.start()
        with GatewayProcess(world) as gateway:
            paths = gateway.call("GET", "/openapi.json").json["paths"]
            table = "\n".join(line for line in DOCUMENT.splitlines() if line.startswith("| `"))
            for path, methods in paths.items():
                for method in methods:
                    assert re.search(rf"`?{method.upper()}[^|]*{re.escape(path)}`", table), f"{method} {path}"
            assert len(EXAMPLES) == 8
            for line in EXAMPLES:
                answered = run(line.replace(ADDRESS, f"http://127.0.0.1:{gateway.port}"))
                assert answered, line
                if "/stream" in line:
                    assert "event: list" in answered


def run(line: str) -> Any:
    """What a line of the document prints; a stream is cut after two seconds."""
    endless = " -N " in line
    command = line.replace("curl ", f"curl --silent --show-error --fail-with-body --max-time {2 if endless else 20} ", 1)
    done = subprocess.run(["sh", "-c", command], check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == (28 if endless else 0), (line, done.stdout, done.stderr)
    return done.stdout
