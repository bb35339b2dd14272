"""The demo's training cycle: `headwater train` beside the worker while events go on, and what came of it. It trains nothing itself."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.dataset import Row
from engine.errors import HeadwaterError
from streams.outside import Outside
from streams.pacing import Pace
from streams.processes import Children, tail

SETTINGS = {"HEADWATER_TRAIN_EVENTS": "10000", "HEADWATER_TRAIN_HELD_OUT": "0.2", "HEADWATER_TRAIN_PRECISION": "fp32"}
"""The newest of the events so far, and no further look for a quantized form: a cycle takes three to four minutes.

Of so few events a tenth is too little to judge by: with 8,000 of them one run passed and the next did not.
"""
PER_S = 3.0
"""Events while it trains: people go on."""
LONGEST_S = 420.0
SWAP_S = 30.0


def train(
    children: Children,
    environ: Mapping[str, str],
    folder: Path,
    log: Path,
    pace: Pace,
    outside: Outside,
    rows: Sequence[Row],
    stage: Callable[[str], None],
) -> dict[str, Any]:
    """Run a cycle while `rows` go out; the outcome, with the freshness of lists meanwhile.

    Args:
        children: whose child the cycle is.
        environ: the installation's settings.
        folder: for its work and report.
        log: for its output.
        pace: sends rows.
        outside: reads lists.
        rows: what is sent meanwhile; all of it is sent in the end.
        stage: told of each stage that begins.

    Raises:
        HeadwaterError: the cycle failed or takes too long, or lists stop coming.
    """
    report, measured = folder / "report.json", len(outside.freshness)
    began = time.perf_counter()
    own = {**environ, **SETTINGS, "HEADWATER_TRAIN_DIR": str(folder / "train")}
    child = children.start("the trainer", ["train", "--report", str(report)], own, log)
    told, sent = "", 0
    while (code := child.process.poll()) is None:
        if time.perf_counter() - began > LONGEST_S:
            raise HeadwaterError("training_too_long", f"more than {LONGEST_S:g} s", "a cycle of some minutes", f"read {log}")
        if sent < len(rows):
            pace.at_rate(rows[sent : sent + 1], PER_S)
            sent += 1
        due = time.perf_counter() + 1 / PER_S
        while (left := due - time.perf_counter()) > 0:
            outside.read(left)
        if (now := stage_of(log)) != told:
            told = now
            stage(now)
    children.forget(child)
    if code:
        raise HeadwaterError("training_failed", f"`headwater train` ended with {code}\n{tail(log)}", "exit status 0", f"read {log}")
    pace.at_rate(rows[sent:], 20 * PER_S)
    pace.drain()
    outcome: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    fresh = np.array(outside.freshness[measured:]) * 1000
    outcome["total_s"] = round(time.perf_counter() - began, 1)
    outcome["freshness_ms"] = {f"p{p}": round(float(np.percentile(fresh, p)), 2) if len(fresh) else None for p in (50, 99)}
    return outcome


def stage_of(log: Path) -> str:
    """The stage that a cycle is at, by its own lines; "" before the first."""
    found = re.findall(r"^ *[0-9.]+ s  ([^,\n]+)", log.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return found[-1] if found else ""


def until_served(watch: Callable[[], None], metrics: str, generation_id: str) -> float:
    """Wait until the worker serves a generation; the seconds that its switch took, by its own account.

    Raises:
        HeadwaterError: it does not.
    """
    late = time.perf_counter() + SWAP_S
    while time.perf_counter() < late:
        watch()
        with urllib.request.urlopen(metrics, timeout=5) as answer:  # noqa: S310 - our own address
            text = answer.read().decode()
        if f'headwater_generation_info{{generation="{generation_id}"}} 1' in text:
            took = re.search(r"^headwater_generation_swap_seconds (\S+)", text, re.MULTILINE)
            return float(took[1]) if took else 0.0
        time.sleep(0.1)
    raise HeadwaterError(
        "not_served", f"{generation_id} does not serve after {SWAP_S:g} s", "a switch", "read the worker's log: it says why"
    )
