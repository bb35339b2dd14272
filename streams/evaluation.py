"""The command `headwater evaluate`: a data set in, figures and lists out. The work is `engine.evaluate`, the order `engine.protocol`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as Grid

from engine.dataset import read
from engine.errors import ArtefactError
from engine.evaluate import Answer, Evaluation, TableFigures, figures_of
from engine.figures import Figures
from engine.generation import Generation
from engine.protocol import TABLES, Table, stream
from engine.registry import Registry
from engine.vectors import catalogue_vectors

WIDTH = 100
"""Columns that the table of figures takes: a terminal, or a file, has it whole."""
EVERY = 200
"""Events between two moves of the progress bar."""
_EXPORTERS = ("torch", "transformers", "optimum")


def main(
    folder: Path,
    *,
    registry: str,
    cache: Path,
    tables: Sequence[Table] = TABLES,
    wanted: int = 6000,
    predictions: Path | None = None,
    json_file: Path | None = None,
    types: Mapping[str, str] | None = None,
    generation: str | None = None,
) -> None:
    """Evaluate and report.

    Raises:
        DatasetError: the folder is no data set.
        ArtefactError: there is no generation and none can be made.
    """
    err = Console(stderr=True)
    console = Console(width=max(WIDTH, Console().width))
    dataset = read(folder, types=types)
    opened = open_generation(Registry(registry, cache), folder, generation, err)
    began = time.perf_counter()
    with _bar(err, "encode") as progress:
        vectors = catalogue_vectors(opened, dataset.items, cache, threads=os.cpu_count() or 1, progress=progress)
    found: dict[str, TableFigures] = {}
    out = predictions.open("w", encoding="utf-8") if predictions else None
    try:
        for table in tables:
            answers = []
            with _bar(err, table) as progress:
                for answer in Evaluation(dataset, vectors).answers(table, wanted, progress):
                    _write(out, answer)
                    answers.append(answer)
            found[table] = figures_of(dataset, answers)
    finally:
        if out:
            out.close()
    seconds = round(time.perf_counter() - began, 1)
    events = len(stream(dataset))
    for name, figures in found.items():
        console.print(grid(f"{dataset.name}, table {name}", figures))
    console.print(f"{events} events, {len(dataset.items)} items, generation {opened.id}, {seconds} s", highlight=False)
    if json_file:
        report = {"events": events, "items": len(dataset.items), "seconds": seconds, "generation": opened.id, "tables": plain(found)}
        json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def plain(tables: Mapping[str, TableFigures]) -> dict[str, Any]:
    """Figures as they stand in the JSON file."""
    return {name: {"list": t.list, "channels": dict(t.channels), "random": t.random} for name, t in tables.items()}


def open_generation(registry: Registry, folder: Path, wanted: str | None, console: Console) -> Generation:
    """The generation asked for, else the newest; where there is none, one is made of the default checkpoint.

    Raises:
        ArtefactError: there is none and none can be made.
    """
    found = wanted or registry.latest()
    if found is None:
        if any(find_spec(name) is None for name in _EXPORTERS):
            remedy = "pip install 'headwater[export]' and run `headwater export`, or name a registry that has one with --registry"
            raise ArtefactError("no_generation", f"nothing published in {registry.url}", "a generation", remedy)
        console.print(f"no generation in {registry.url}: exporting the default checkpoint for this catalogue", highlight=False)
        command = [sys.executable, "-m", "streams.cli", "export", "--catalogue", str(folder), "--registry", registry.url]
        done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)  # noqa: S603 - our own command
        found = registry.latest()
        if done.returncode or found is None:
            raise ArtefactError("export_failed", f"exit status {done.returncode}", "a generation", "run `headwater export` and see")
    return Generation.open(registry.fetch(found))


def grid(title: str, figures: TableFigures) -> Grid:
    """Figures as a table for people: the list first, then its channels, then chance."""
    out = Grid(title=title, title_justify="left")
    for n, column in enumerate(("", "NDCG@10", "± se", "HR@10", "MRR@10", "new users", "new items", "cases", "coverage")):
        out.add_column(column, justify="right" if n else "left")
    out.add_row("list", *_cells(figures.list), style="bold")
    for name, one in figures.channels.items():
        out.add_row(name, *_cells(one))
    out.add_row("random", *_cells(figures.random), style="dim")
    return out


def _cells(figures: Figures) -> Iterator[str]:
    for name in ("NDCG@10", "se", "HR@10", "MRR@10"):
        yield _decimal(figures.get(name))
    for name in ("new_users", "new_items"):
        yield _decimal(figures[name].get("NDCG@10"))
    yield str(figures["cases"])
    yield _decimal(figures.get("coverage"))


def _decimal(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _write(out: TextIO | None, answer: Answer) -> None:
    if out:
        out.write(json.dumps({"case": answer.case.id, "items": answer.items}, ensure_ascii=False) + "\n")


@contextmanager
def _bar(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task(what, total=None)

        def progress(done: int, total: int) -> None:
            if done % EVERY == 0 or done == total:
                shown.update(task, completed=done, total=total)

        yield progress
