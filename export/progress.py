"""How far a build or a cycle is: bars on a terminal, a line for each stage elsewhere. It watches nothing by itself."""

from __future__ import annotations

from contextlib import AbstractContextManager
from time import perf_counter
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class Stages:
    """A bar for each stage; `together`: several go on at a time, else a new one ends those before it."""

    def __init__(self, bars: Progress, *, together: bool = False) -> None:
        self._bars, self._together = bars, together
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int, /) -> None:
        """Show it."""
        if stage not in self._tasks:
            if not self._together:
                self.finish()
            self._tasks[stage] = self._bars.add_task(stage, total=None)
        self._bars.update(self._tasks[stage], completed=done, total=total or None)

    def finish(self) -> None:
        """Show every stage begun so far as done."""
        for task in self._bars.tasks:
            if not task.finished:
                total = task.total or 1
                self._bars.update(task.id, total=total, completed=total)


class Lines:
    """A line when a stage begins, with the seconds so far; `together`: several go on at a time, so that none begins twice."""

    def __init__(self, out: TextIO, *, together: bool = False) -> None:
        self._out, self._together, self._began = out, together, perf_counter()
        self._known: set[str] = set()

    def __call__(self, stage: str, _done: int, total: int, /) -> None:
        """Say so where it is a new one."""
        if stage not in self._known:
            self._known = {*self._known, stage} if self._together else {stage}
            of = f", {total} to do" if total else ""
            print(f"{perf_counter() - self._began:7.1f} s  {stage}{of}", file=self._out, flush=True)

    def finish(self) -> None:
        """Nothing is left to be said."""


def bars(console: Console) -> AbstractContextManager[Progress]:
    """Progress bars as all our commands have them."""
    columns = (SpinnerColumn(), TextColumn("{task.description:22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)
