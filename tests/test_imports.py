"""The rooms: which may import what, read from the source, so that an import inside a function counts too."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODELS = {"torch", "transformers", "optimum", "onnx", "safetensors", "accelerate", "sentence_transformers"}
BROKERS = {"faust", "mode", "aiokafka", "kafka", "confluent_kafka", "rocksdict"}
FORBIDDEN = {
    "engine": {*MODELS, *BROKERS, "streams", "export", "aiohttp", "prometheus_client", "typer", "pydantic"},
    "streams": {*MODELS, "export"},
    "export": {"faust", "mode", "aiokafka", "rocksdict", "streams"},
}
ONLY_IN = {"fsspec": {"engine/registry.py"}}


def imports(path: Path) -> Iterator[str]:
    """The top-level packages that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield str(node.module).partition(".")[0]


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    """Rule: engine knows neither brokers nor torch, streams knows no torch and loads export by name, export knows no Faust."""
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    wrong = {f"{f.relative_to(ROOT)}: {sorted(bad)}" for f in files if (bad := FORBIDDEN[room] & set(imports(f)))}
    assert not wrong


def test_files_come_in_as_arguments() -> None:
    """Rule: what reaches object stores stands in one module."""
    for package, allowed in ONLY_IN.items():
        users = {str(f.relative_to(ROOT)) for room in FORBIDDEN for f in (ROOT / room).rglob("*.py") if package in imports(f)}
        assert users <= allowed


def test_the_command_line_loads_no_models() -> None:
    """Rule: starting `headwater` loads neither torch nor Faust: a tool that lists topics starts fast, and a worker stays small."""
    code = "import sys, streams.cli; print(sorted({m.partition('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert not (MODELS | BROKERS) & set(ast.literal_eval(done.stdout))
