"""The Dockerfile, read: what its images hold, who runs there. No image is built here: that wants Docker and its registry."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.dockerfile import SERVE_BLOCKED, Dockerfile

ROOT = Path(__file__).resolve().parent.parent
FILE = Dockerfile(ROOT / "ops" / "Dockerfile")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SERVED = ("topics create", "worker", "replay", "gateway")


def installs(name: str) -> list[str]:
    """What a stage and those before it install by pip."""
    return [run for run in FILE.stages[name].runs if "pip install" in run]


def extras(runs: list[str]) -> set[str]:
    """The project's extras that are installed."""
    return {extra for run in runs for group in re.findall(r"'\.\[([^]]*)\]'", run) for extra in group.split(",")}


def test_serve_is_without_what_makes_generations() -> None:
    """Rule: the image of worker and gateway installs no export extra; the one of the trainer does; all by the tested versions."""
    assert extras(installs("build-serve")) == {"gateway"}
    assert extras(installs("build-train")) == {"export", "gateway"}
    assert all("--constraint constraints.txt" in run for run in installs("build-train"))
    assert [origin for origin, _ in FILE.stages["serve"].copies] == ["build-serve"]
    assert [origin for origin, _ in FILE.stages["train"].copies] == ["build-train"]
    heavy = {re.split(r"[<>= ]", line)[0] for line in PROJECT["optional-dependencies"]["export"]}
    assert set(SERVE_BLOCKED) <= heavy
    assert not heavy & {re.split(r"[<>= ]", line)[0] for line in PROJECT["dependencies"]}


def test_images_are_pinned_and_run_without_rights() -> None:
    """Rule: the base is one version; a user without rights runs, and owns the folders for volumes; labels say what it is."""
    bases = {stage.base for stage in FILE.stages.values()} - set(FILE.stages)
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", bases.pop())
    for name in ("serve", "train"):
        stage = FILE.stages[name]
        assert stage.user == "headwater"
        assert stage.uid > 1000
        assert {"/state", "/registry", "/work", stage.environ["NUMBA_CACHE_DIR"]} == set(stage.folders)
        assert stage.labels["org.opencontainers.image.title"] == f"headwater-{name}"
        assert stage.labels["org.opencontainers.image.licenses"] == PROJECT["license"]
        assert stage.environ["HF_HUB_OFFLINE"] == "1"


def test_images_are_built_of_what_is_there() -> None:
    """Rule: each file that is copied exists, .dockerignore lets it and nothing else through, and no setting is baked in."""
    copied = {part for stage in FILE.stages.values() for origin, parts in stage.copies if not origin for part in parts}
    assert all((ROOT / part).exists() for part in copied)
    ignore = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert ignore[0] == "*"
    assert {line[1:] for line in ignore if line.startswith("!")} == copied
    rooms = re.findall(r"packages = \[(.*)\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))[0]
    assert set(re.findall(r"\w+", rooms)) <= copied
    assert not [name for stage in FILE.stages.values() for name in stage.environ if name.startswith("HEADWATER_")]


@pytest.mark.parametrize("command", SERVED)
def test_serve_needs_no_torch(command: str) -> None:
    """Rule: what the image `serve` runs can be imported where torch, transformers and Optimum can't be."""
    module = {"topics create": "streams.topics", "replay": "streams.replay", "gateway": "streams.gateway.server"}.get(
        command, f"streams.{command}"
    )
    blocked = f"import sys; sys.modules.update(dict.fromkeys({SERVE_BLOCKED!r}))"
    code = f"{blocked}; import streams.cli, {module}; streams.cli.app({[*command.split(), '--help']!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
