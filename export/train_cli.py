"""The command `headwater train` behind its arguments: runs a cycle with progress, and tells the outcome. Not the steps (`export.cycle`)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from engine.registry import Registry
from export.cycle import Bulletin, Cycle, Outcome, Plan
from export.feed import Feed
from export.gate import LIST, TEXT, UNUSED
from export.progress import Lines, Stages, bars

OWN = "cycle"
"""Folder inside the one that is given, which a cycle removes when it ends: the given one may hold other things."""
KINDS = {
    TEXT: "lists from text alone",
    TEXT + UNUSED: "  of these, new items",
    LIST: "lists as served",
    LIST + UNUSED: "  of these, new items",
}


def main(
    *,
    plan: Plan,
    registry: str,
    registry_cache: Path,
    work: Path,
    report: Path | None,
    source: tuple[Feed, Callable[[Registry], Bulletin]],
) -> None:
    """Run one cycle and print its outcome; the published id, if there is one, is the only line on standard output.

    Raises:
        HeadwaterError: the cycle failed; what it had done is kept.
    """
    own = work / OWN
    console = Console(stderr=True, highlight=False)
    store = Registry(registry, registry_cache)
    feed, bulletin = source
    if console.is_terminal:
        with bars(console) as shown:
            stages = Stages(shown)
            outcome = Cycle(store, feed, bulletin(store), plan, own, stages).run()
            stages.finish()
    else:
        outcome = Cycle(store, feed, bulletin(store), plan, own, Lines(sys.stderr)).run()
    tell(outcome, console)
    if report is not None:
        report.write_bytes(msgspec.json.format(msgspec.json.encode(outcome)) + b"\n")
    if outcome.published is not None:
        print(outcome.published)  # noqa: T201 - its interface


def tell(outcome: Outcome, console: Console) -> None:
    """The outcome for people."""
    if outcome.gate is not None:
        table = Table("", f"{outcome.parent}", f"{outcome.published}", "times", "difference, 95 %", "cases", "users", box=None)
        for kind, one in outcome.gate.lists.items():
            times = f"{one.candidate / one.active:.2f}" if one.active else ""
            between = f"{one.difference:+.4f}  {one.low:+.4f} to {one.high:+.4f}"
            table.add_row(
                KINDS.get(kind, kind), f"{one.active:.4f}", f"{one.candidate:.4f}", times, between, str(one.cases), str(one.users)
            )
        console.print("NDCG@10 on events that neither was trained on")
        console.print(table)
    took = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in outcome.seconds.items())
    console.print(f"{outcome.events} events; {took}; {outcome.peak_bytes / 1e6:.0f} MB at most", soft_wrap=True)
    if outcome.published is None:
        console.print(f"nothing was trained: {outcome.why}", soft_wrap=True)
    elif outcome.active:
        console.print(f"{outcome.published} is active")
    else:
        console.print(f"{outcome.published} is kept and not active: {outcome.why}", soft_wrap=True)
