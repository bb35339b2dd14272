"""The command `headwater compare` behind its arguments: progress, figures, files. Not the work (`export.compare`)."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from rich.console import Console

from engine.assess import Assessment, Listed, assess, differences
from engine.dataset import Dataset
from engine.errors import BadSettings, DatasetError, Problem
from engine.protocol import Table, stream
from engine.space import Floats
from export.baselines import METHODS
from export.baselines.course import Course
from export.compare import Kept, Outcome, Plan, compare, fingerprint
from export.compare_report import OURS, Compared, grid, page, plain
from export.plots import along_the_stream
from export.progress import Lines, Stages, bars

WIDTH = 150
"""Columns that the table takes in a file."""


def main(
    plan: Plan,
    dataset: Dataset,
    *,
    ours: Mapping[str, Listed] | None,
    seconds: Mapping[str, float],
    vectors: Floats | None,
    source: str,
    json_file: Path | None,
    report: Path | None,
    kept: Path | None,
) -> None:
    """Compare and report.

    Args:
        plan: what with.
        dataset: the plan's, read already.
        ours: our own lists by case, of all tables; None: the baselines are compared with each other only.
        seconds: table -> seconds of our own run, where it was made here.
        vectors: (I, D) unit rows for the lists' diversity.
        source: where our lists are from, in words.
        json_file: file for the figures.
        report: Markdown file; a picture goes beside it.
        kept: folder for the baselines' lists: those that are there are used again.

    Raises:
        BadSettings: a method is not known.
        DatasetError: our lists are of other cases.
    """
    if unknown := [name for name in plan.methods if name not in METHODS]:
        expected = ", ".join(METHODS)
        raise BadSettings([Problem("method", "bad_choice", repr(name), expected, "name one of these") for name in unknown])
    began = time.perf_counter()
    judged = {table: partial(assess, dataset, table, wanted=plan.wanted, repeats=plan.repeats, vectors=vectors) for table in plan.tables}
    own = {table: _own(judged[table], ours, table) for table in plan.tables}
    settings = fingerprint(dataset, plan)
    outcomes = _run(plan, dataset, Kept(kept, settings) if kept else None)
    found: dict[str, Compared] = {}
    for table in plan.tables:
        done = {o.method: (judged[table](o.lists), o) for o in outcomes if o.table == table}
        mine = own[table]
        less = {name: differences(theirs, mine) for name, (theirs, _) in done.items()} if mine else {}
        course = Course.of(dataset, table, wanted=plan.wanted, repeats=plan.repeats, every=plan.every)
        found[table] = Compared(mine, done, less, seconds.get(table), course.unlearned())
    console = Console(width=max(WIDTH, Console().width))
    for name, one in found.items():
        console.print(grid(f"{dataset.name}, table {name}", one))
    took = round(time.perf_counter() - began, 1)
    events = len(stream(dataset))
    facts = [
        f"{events} events",
        f"{len(dataset.items)} items",
        f"{OURS}: {source}",
        f"{took:.0f} s for the baselines, {plan.jobs} at a time",
    ]
    console.print(", ".join(facts), highlight=False)
    if json_file:
        whole = {"dataset": dataset.name, "events": events, "items": len(dataset.items), "source": source, "seconds": took}
        whole |= {"settings": settings, "tables": {table: plain(one) for table, one in found.items()}}
        json_file.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    if report:
        picture = report.with_suffix(".png")
        lines = {table: _lines(one) for table, one in found.items()}
        along_the_stream(picture, dataset.name, lines, bold=OURS)
        report.write_text(page(dataset.name, plan, found, picture.name, facts), encoding="utf-8")


def _own(judged: Callable[[Mapping[str, Listed]], Assessment], ours: Mapping[str, Listed] | None, table: Table) -> Assessment | None:
    if ours is None:
        return None
    found = judged(ours)
    if found.missing:
        expected = f"a list for each of {len(found.cases)} cases of table {table}"
        remedy = "make them of the same data set, with the same --evaluate and --repeats"
        raise DatasetError("other_cases", f"{found.missing} cases without a list", expected, remedy)
    return found


def _lines(one: Compared) -> dict[str, list[dict[str, float]]]:
    ours = {OURS: one.ours.along()} if one.ours else {}
    return {**ours, **{name: one.baselines[name][0].along() for name in one.names()}}


def _run(plan: Plan, dataset: Dataset, kept: Kept | None) -> list[Outcome]:
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        with bars(console) as shown:
            stages = Stages(shown, together=plan.jobs > 1)
            outcomes = list(compare(plan, dataset, kept, stages))
            stages.finish()
            return outcomes
    return list(compare(plan, dataset, kept, Lines(sys.stderr, together=plan.jobs > 1)))
