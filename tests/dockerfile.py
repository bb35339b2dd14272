"""A Dockerfile, read as far as tests ask: its stages, what each sets, copies and runs. It builds nothing."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

SERVE_BLOCKED = ("torch", "transformers", "optimum", "onnx", "peft", "safetensors")
"""Packages that the image `serve` must do without: those of the export extra."""


@dataclass
class Stage:
    """One stage, with what it takes over from the stages that it is built on."""

    base: str
    environ: dict[str, str] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)  # made for the user
    uid: int = 0  # of the user that was made
    user: str = ""  # the one that runs
    command: list[str] = field(default_factory=list)
    copies: list[tuple[str, list[str]]] = field(default_factory=list)  # stage ("" for the context), sources
    runs: list[str] = field(default_factory=list)  # in a shell
    programs: list[list[str]] = field(default_factory=list)  # run without one
    labels: dict[str, str] = field(default_factory=dict)


class Dockerfile:
    """All stages by name, in their order."""

    def __init__(self, path: Path) -> None:
        text = re.sub(r"^\s*#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        self.stages: dict[str, Stage] = {}
        stage = Stage("")
        for line in re.sub(r"\\\n", " ", text).splitlines():
            word, _, rest = line.strip().partition(" ")
            match word:
                case "FROM":
                    base, name = re.split(r" as ", rest, flags=re.IGNORECASE)
                    on = self.stages.get(base, Stage(""))
                    stage = Stage(base, dict(on.environ), list(on.folders), on.uid, on.user, list(on.command), runs=list(on.runs))
                    self.stages[name] = stage
                case "ENV":
                    stage.environ |= dict(part.split("=", 1) for part in shlex.split(rest))
                case "LABEL":
                    stage.labels |= dict(part.split("=", 1) for part in shlex.split(rest))
                case "RUN" if rest.startswith("["):
                    stage.programs.append(json.loads(rest))
                case "RUN":
                    stage.runs.append(rest)
                    if made := re.search(r"useradd .*--uid (\d+)", rest):
                        stage.uid = int(made[1])
                    if installed := re.search(r"install --directory \S+ \S+ (.*)", rest):
                        stage.folders += installed[1].split()
                case "USER":
                    stage.user = rest
                case "CMD":
                    stage.command = json.loads(rest)
                case "COPY":
                    sources = [part for part in rest.split() if not part.startswith("--")][:-1]
                    origin = re.search(r"--from=(\S+)", rest)
                    stage.copies.append((origin[1] if origin else "", sources))
