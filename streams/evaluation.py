"""The command `headwater evaluate`: a data set in, figures and lists out. The work is `engine.evaluate`, the order `engine.protocol`, the
figures `engine.assess`, and how they are shown `streams.evaluation_report`.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from engine.assess import Assessment, Listed, assess, differences, line_of, read_lists
from engine.dataset import Dataset, read
from engine.errors import ArtefactError
from engine.evaluate import Answer, Evaluation, TableFigures, figures_of
from engine.figures import Figures
from engine.generation import Generation
from engine.learning import Delays
from engine.objective import Objective
from engine.protocol import TABLES, Table, stream
from engine.ratings import rating_errors
from engine.registry import Registry
from engine.space import Floats
from engine.vectors import catalogue_vectors
from streams.arguments import late
from streams.evaluation_report import Judged, grid, page, plain, told_ratings, words

WIDTH = 100
"""Columns that the table of figures takes: a terminal, or a file, has it whole."""
EVERY = 200
"""Events between two moves of the progress bar."""
IN_TIME = Delays()
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
    repeats: bool = False,
    calibrated: bool = True,
    objective: Objective | None = None,
    lists: Path | None = None,
    against: Path | None = None,
    report: Path | None = None,
    delays: Delays = IN_TIME,
) -> None:
    """Evaluate and report.

    Args:
        folder: the data set.
        registry: where generations are.
        cache: for vectors.
        tables: which tables.
        wanted: cases per table, about.
        predictions: file for the lists; packed if it ends in .gz.
        json_file: file for the figures.
        types: own event type -> the contract's.
        generation: its id; None: the newest.
        repeats: items that a user had before are targets and candidates too.
        calibrated: lists say calibrated probabilities; else shares of the softmax.
        objective: how much examples count, by type and value; None: all alike.
        lists: judge the lists of this file instead of making any.
        against: lists of the same cases that these are compared with.
        report: Markdown file for all figures; a picture of quality along the stream goes beside it.
        delays: how late lists know what others learned.

    Raises:
        DatasetError: the folder is no data set, or a file of lists has something else.
        ArtefactError: there is no generation and none can be made.
        HeadwaterError: a picture is wanted, and matplotlib is not installed.
    """
    err = Console(stderr=True)
    console = Console(width=max(WIDTH, Console().width))
    draw = late("export.plots").along_the_stream if report else None  # before the work, lest it fail after it
    dataset = read(folder, types=types)
    others = read_lists(against) if against else None
    began = time.perf_counter()
    if lists:
        made = Made({"": read_lists(lists)}, f"lists of {lists}")
    else:
        with writing(predictions) as out:
            opened = open_generation(Registry(registry, cache), folder, generation, err)
            made = make_lists(
                dataset,
                opened,
                cache,
                tables=tables,
                wanted=wanted,
                repeats=repeats,
                calibrated=calibrated,
                objective=objective,
                out=out,
                console=err,
                delays=delays,
            )
    found: dict[str, Judged] = {}
    for table in tables:
        judged = partial(assess, dataset, table, wanted=wanted, repeats=repeats, vectors=made.vectors)
        own = judged(made.lists.get(table, made.lists.get("", {})))
        rival = differences(judged(others), own) if others is not None else {}
        found[table] = Judged(own, made.figures.get(table), rival, _along(own, made.answers.get(table, ())))
    ratings = rating_errors(dataset.rows)
    seconds = round(time.perf_counter() - began, 1)
    events = len(stream(dataset))
    for name, one in found.items():
        console.print(grid(f"{dataset.name}, table {name}", one))
        console.print(words(one, against), highlight=False)
    if ratings:
        console.print(told_ratings(ratings), highlight=False)
    console.print(f"{events} events, {len(dataset.items)} items, {made.source}, {seconds} s", highlight=False)
    about: dict[str, Any] = {
        "events": events,
        "items": len(dataset.items),
        "seconds": seconds,
        "generation": made.generation,
        "repeats": repeats,
    }
    if delays != IN_TIME:
        about["learning_delay"] = asdict(delays)
    if json_file:
        whole = {**about, "tables": {name: plain(one) for name, one in found.items()}, **({"ratings": ratings} if ratings else {})}
        json_file.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    if report and draw:
        picture = report.with_suffix(".png")
        draw(picture, dataset.name, {name: one.along for name, one in found.items()})
        report.write_text(
            page(dataset.name, f"{made.source}, {seconds} s", events, found, ratings, against, picture.name), encoding="utf-8"
        )


@dataclass(frozen=True, slots=True)
class Made:
    """Lists to judge: table -> case -> list ("" for all tables in one); `vectors` (I, D) for their diversity; `seconds` that each table
    took.
    """

    lists: Mapping[str, Mapping[str, Listed]]
    source: str
    generation: str | None = None
    vectors: Floats | None = None
    answers: Mapping[str, Sequence[Answer]] = field(default_factory=dict)
    figures: Mapping[str, TableFigures] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


def make_lists(
    dataset: Dataset,
    generation: Generation,
    cache: Path,
    *,
    tables: Sequence[Table],
    wanted: int,
    repeats: bool,
    calibrated: bool = True,
    objective: Objective | None = None,
    out: TextIO | None,
    console: Console,
    delays: Delays = IN_TIME,
) -> Made:
    """Evaluate: the lists of each table as they are made, also written to `out`.

    Raises:
        ArtefactError: the generation's encoder cannot be opened.
    """
    with bar(console, "encode") as progress:
        vectors = catalogue_vectors(generation, dataset.items, cache, threads=os.cpu_count() or 1, progress=progress)
    answers: dict[str, list[Answer]] = {}
    seconds: dict[str, float] = {}
    for table in tables:
        answers[table] = []
        began = time.perf_counter()
        with bar(console, table) as progress:
            goal = objective or Objective()
            run = Evaluation(dataset, vectors, repeats=repeats, objective=goal, calibrated=calibrated, delays=delays)
            for answer in run.answers(table, wanted, progress):
                if out:
                    out.write(line_of(answer.case.id, answer.items, answer.scores))
                answers[table].append(answer)
        seconds[table] = round(time.perf_counter() - began, 1)
    lists = {table: {a.case.id: Listed(a.items, a.scores) for a in some} for table, some in answers.items()}
    figures = {table: figures_of(dataset, some) for table, some in answers.items()}
    return Made(lists, f"generation {generation.id}", generation.id, vectors, answers, figures, seconds)


def _along(own: Assessment, answers: Sequence[Answer]) -> dict[str, list[Figures]]:
    """Quality along the stream, of the list and of its channels."""
    names = list(answers[0].ranks) if answers else []
    return {"list": own.along(), **{name: own.along(ranks={a.case.id: a.ranks[name] for a in answers}) for name in names}}


@contextmanager
def writing(path: Path | None) -> Iterator[TextIO | None]:
    """The file for lists, packed if its name ends in .gz; None without a path."""
    if path is None:
        yield None
        return
    with gzip.open(path, "wt", encoding="utf-8") if path.suffix == ".gz" else path.open("w", encoding="utf-8") as file:
        yield cast("TextIO", file)


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


@contextmanager
def bar(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar of the command's own width, as a callback."""
    columns = (TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task(what, total=None)

        def progress(done: int, total: int) -> None:
            if done % EVERY == 0 or done == total:
                shown.update(task, completed=done, total=total)

        yield progress
