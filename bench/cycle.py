"""What one training cycle gives: `python -m bench.cycle DATA_SET`. Prints quality before and after, wall time and peak memory.

The cycle learns from the first part of a recorded stream; lists of both generations are then compared on the cases after that part,
which no cycle, gate or setting has seen. Everything is `headwater export`, `headwater train` and the functions of `headwater evaluate`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.dataset import Dataset, read
from engine.evaluate import Evaluation
from engine.figures import gain
from engine.generation import Generation
from engine.manifest import Compared
from engine.protocol import TABLES, Table, in_order
from engine.registry import Registry
from engine.vectors import catalogue_vectors
from export.gate import compared
from streams.arguments import folder_of

CASES = 6_000


def main(arguments: Sequence[str]) -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.cycle", description=__doc__)
    parser.add_argument("dataset", help="a data-set folder, or the name of one in data/")
    parser.add_argument("--share", type=float, default=0.5, help="first share of the stream that the cycle learns from")
    parser.add_argument("--most", type=int, help="so many of these events, the first")
    parser.add_argument("--cases", type=int, default=CASES, help="cases per table, about")
    parser.add_argument("--cycle-only", action="store_true", help="time, memory and verdict; not the lists on what comes after")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args(arguments)
    folder = folder_of(options.dataset)
    with tempfile.TemporaryDirectory(prefix="headwater-bench-cycle-") as scratch:
        figures = _figures(folder, Path(scratch), options)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def _figures(folder: Path, scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    registry, report = scratch / "registry", scratch / "report.json"
    _headwater(scratch, "export", "--catalogue", str(folder), "--registry", str(registry))
    share = ["--share", str(options.share), *(["--most", str(options.most)] if options.most else [])]
    _headwater(scratch, "train", "--dataset", str(folder), "--registry", str(registry), "--report", str(report), *share)
    outcome = json.loads(report.read_text())
    print(f"cycle: {outcome['events']} events in {sum_of(outcome):.0f} s, {outcome['peak_bytes'] / 1e6:.0f} MB at most")
    print(f"gate: {'passed' if outcome['active'] else outcome['why']}", flush=True)
    found: dict[str, Any] = {"cycle": outcome, "tables": {}}
    if options.cycle_only:
        return found
    data = read(folder)
    rows = in_order(data.rows)
    last = rows[: int(len(rows) * options.share)][: options.most][-1].time
    opened = [Generation.open(Registry(str(registry)).fetch(i)) for i in (outcome["parent"], outcome["published"])]
    vectors = [catalogue_vectors(one, data.items, scratch / "vectors", threads=os.cpu_count() or 1) for one in opened]
    for table in TABLES:
        users, text, served = [], [], []
        for one in vectors:
            of_text, of_list, users = gains(data, one, table, options.cases, last)
            text.append(of_text)
            served.append(of_list)
        for kind, (before, after) in (("text alone", text), ("as served", served)):
            result = compared(users, before, after)
            found["tables"][f"{table}, {kind}"] = {**told(result)}
            print(f"{table:8} {kind:11} {line(result)}", flush=True)
    return found


def gains(data: Dataset, vectors: Any, table: Table, cases: int, after: float) -> tuple[Any, Any, list[str]]:
    """NDCG@10 of each case after a time (s), of lists from text alone and as served; and whose case it is."""
    text, served, users = [], [], []
    for answer in Evaluation(data, vectors).answers(table, cases, start=np.nextafter(after, np.inf)):
        name = data.items[answer.case.target].item_id
        text.append(gain(answer.ranks["text"]))
        served.append(gain(answer.items.index(name) if name in answer.items else None))
        users.append(answer.case.user)
    return np.array(text), np.array(served), users


def told(one: Compared) -> dict[str, float]:
    """A comparison as values."""
    return {"cases": one.cases, "before": one.active, "after": one.candidate, "times": ratio(one), "low": one.low, "high": one.high}


def line(one: Compared) -> str:
    """A comparison in a line."""
    between = f"difference {one.low:+.4f} to {one.high:+.4f}"
    return f"NDCG@10 {one.active:.4f} -> {one.candidate:.4f}  x {ratio(one):.2f}  {between}  {one.cases} cases"


def ratio(one: Compared) -> float:
    """After over before."""
    return round(one.candidate / one.active, 3) if one.active else float("nan")


def sum_of(outcome: dict[str, Any]) -> float:
    """Seconds of a cycle: reading, tuning, building with its verdict."""
    return sum(seconds for name, seconds in outcome["seconds"].items() if name in ("read", "tune", "build"))


def _headwater(scratch: Path, *arguments: str) -> None:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("HEADWATER_") or k.startswith("HEADWATER_TRAIN")}
    environ |= {"HEADWATER_TRAIN_DIR": str(scratch / "train"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-m", "streams.cli", *arguments], check=True, env=environ, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
