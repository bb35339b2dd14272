"""`python -m bench.constants`: what other constants would give, on the first 30 % of each stream. Prints a table; serves nobody.

Each run has a copy of the engine with one constant changed, since compiled loops hold theirs fast. Cases are those of `bench.ablation`, so
no figure of `headwater evaluate` is of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from bench.ablation import CASES, WHOLE
from bench.recorded import ROOT
from engine.bootstrap import paired
from engine.markdown import table


class Change(NamedTuple):
    """A piece of a file of the engine, and what stands there instead."""

    file: str
    before: str
    after: str


VARIANTS: Mapping[str, Change | None] = {
    "as it is": None,
    "all of the first 8,000 events learned": Change("learning.py", "FIRST = 100_000", "FIRST = 8_000"),
    "12 items of a session learned, not 4": Change("evaluate.py", "SESSION_EXAMPLES = 4", "SESSION_EXAMPLES = 12"),
    "networks of 64 units, not 32": Change("network.py", "HIDDEN = 4, 32", "HIDDEN = 4, 64"),
    "eight networks, not four": Change("network.py", "HIDDEN = 4, 32", "HIDDEN = 8, 32"),
    "one network, not four": Change("network.py", "HIDDEN = 4, 32", "HIDDEN = 1, 32"),
    "networks' rate .05, not .1": Change("network.py", "RATE = 0.1", "RATE = 0.05"),
    "networks' rate .2": Change("network.py", "RATE = 0.1", "RATE = 0.2"),
    "linear rate .05, not .1": Change("ranker.py", "    rate: float = 0.1", "    rate: float = 0.05"),
    "linear rate .2": Change("ranker.py", "    rate: float = 0.1", "    rate: float = 0.2"),
    "40 negatives of each kind, not 20": Change("model.py", "NEGATIVES = 20", "NEGATIVES = 40"),
    "negatives of the 50 strongest, not 100": Change("model.py", "STRONGEST = 100", "STRONGEST = 50"),
    "100 candidates, not 300": Change("work.py", "CANDIDATES = 300", "CANDIDATES = 100"),
    "600 candidates": Change("work.py", "CANDIDATES = 300", "CANDIDATES = 600"),
    "popularity of 7 and 90 days, not 14 and 180": Change("pairs.py", "(14.0, 180.0)", "(7.0, 90.0)"),
    "popularity of 30 and 365 days": Change("pairs.py", "(14.0, 180.0)", "(30.0, 365.0)"),
    "lasting pairs of 1,000 days, not 3,650": Change("pairs.py", "pair_days: float = 3_650.0", "pair_days: float = 1_000.0"),
    "season of 30 days, not 60": Change("pairs.py", "season_days: float = 60.0", "season_days: float = 30.0"),
    "pairs lose .75 a step, not .85": Change("pairs.py", "rank: float = 0.85", "rank: float = 0.75"),
    "512 neighbours, not 256": Change("model.py", "neighbours: int = 256", "neighbours: int = 512"),
    "pairs with 30 items before, not 15": Change("user.py", "pair_window: int = 15", "pair_window: int = 30"),
    "12 recent items, not 20": Change("features.py", "RECENT = 20", "RECENT = 12"),
    "30 recent items": Change("features.py", "RECENT = 20", "RECENT = 30"),
}
Gains = dict[str, tuple[list[str], list[float]]]
LIST, LEARNED = "µs a list", "µs an event learned"


class Found(NamedTuple):
    """Table -> whose each case is, and its NDCG@10; or what a list costs."""

    gains: Gains
    cost: Mapping[str, float]


def tried(change: Change | None, datasets: Sequence[str], cases: int, *, cost: bool) -> Found:
    """What a change gives.

    Raises:
        ValueError: what is to be changed does not stand there, or the run failed.
    """
    with TemporaryDirectory() as folder:
        copy, out = Path(folder), Path(folder) / "gains.json"
        shutil.copytree(ROOT / "engine", copy / "engine", ignore=shutil.ignore_patterns("__pycache__"))
        if change is not None:
            path = copy / "engine" / change.file
            text = path.read_text()
            if text.count(change.before) != 1:
                raise ValueError(f"found {text.count(change.before)} times {change.before!r} in {change.file}, expected once")
            path.write_text(text.replace(change.before, change.after))
        if cost:
            _ran(copy, ["bench.list_cost", datasets[0], "--json", str(out)])
            steps = json.loads(out.read_text())
            return Found({}, {LIST: steps["whole"], LEARNED: steps["example made"] + steps["example learned"]})
        _ran(copy, ["bench.ablation", *datasets, "--only", WHOLE, "--cases", str(cases), "--gains", str(out)])
        found = json.loads(out.read_text())
        return Found({column: (users, ndcg) for name, column, users, ndcg, _ in found if name == WHOLE}, {})


def _ran(copy: Path, arguments: Sequence[str]) -> None:
    env = {**os.environ, "PYTHONPATH": f"{copy}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-m", *arguments], check=False, cwd=copy, env=env, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"the run ended with {done.returncode}: {done.stderr[-2_000:]}")


def told(results: Mapping[str, Found]) -> str:
    """The Markdown table: what each change does to NDCG@10, bold where the 95 % interval leaves 0 out, or what it costs."""
    base = results["as it is"]
    rows = []
    for name, found in results.items():
        row = [name]
        for column, (users, ndcg) in found.gains.items():
            one = paired(users, np.array(base.gains[column][1]), np.array(ndcg))
            change = f"{100 * one.difference / one.one:+.1f} %"
            row.append(f"{one.one:.4f} ({one.cases})" if found is base else f"**{change}**" if one.sure else change)
        rows.append([*row, *(f"{value:.0f}" for value in found.cost.values())])
    return table(["", *base.gains, *base.cost], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Run all, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="*", default=["ifdb-played", "online-retail"], help="data-set folders, or names in data/")
    parser.add_argument("--only", choices=tuple(VARIANTS), action="append", help="these, and the engine as it is")
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument(
        "--cost", action="store_true", help="measure what a list costs on the first data set, in place of quality; nothing else should run"
    )
    args = parser.parse_args(argv)
    datasets = [str(Path(name).resolve()) if Path(name).exists() else name for name in args.dataset]
    names = ["as it is", *(args.only or list(VARIANTS)[1:])]
    console = Console(stderr=True)
    sys.stdout.write(
        told({name: tried(VARIANTS[name], datasets, args.cases, cost=args.cost) for name in track(names, "runs", console=console)}) + "\n"
    )


if __name__ == "__main__":
    main()
