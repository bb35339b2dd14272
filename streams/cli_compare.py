"""The command `headwater compare`: our lists, made here or read from a file, beside baselines. Their work is in `export`, imported late."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from engine.errors import BadSettings, Problem
from streams.arguments import DataSet, Types, folder_of, late, mapping_of, settings_of


def compare(
    dataset: DataSet,
    context: typer.Context,
    ours: Annotated[Path | None, typer.Option(help="our lists, as `evaluate --predictions` writes them; made here if none")] = None,
    alone: Annotated[bool, typer.Option("--alone", help="no lists of ours: the baselines only")] = False,
    method: Annotated[list[str] | None, typer.Option(help="only this baseline; may be given again")] = None,
    table: Annotated[str, typer.Option(help="next, session or both")] = "both",
    wanted: Annotated[int, typer.Option("--evaluate", help="cases per table, about", min=1)] = 6000,
    trials: Annotated[int, typer.Option(help="trials for tuning, of the slowest; quicker ones get more", min=1)] = 20,
    repeats: Annotated[bool, typer.Option("--repeats", help="items that a user had before are targets and candidates too")] = False,
    seed: Annotated[int, typer.Option(help="of all that is drawn")] = 0,
    refit: Annotated[float, typer.Option(help="share of the stream between two fits of a baseline", min=0.001, max=1.0)] = 0.05,
    jobs: Annotated[int, typer.Option(help="baselines at a time; 0: as many as cores", min=0)] = 0,
    kept: Annotated[Path | None, typer.Option(help="folder for the baselines' lists; those of the same settings are taken again")] = None,
    json: Annotated[Path | None, typer.Option(help="file for the figures")] = None,
    report: Annotated[Path | None, typer.Option(help="Markdown file; quality along the stream as PNG beside it")] = None,
    registry: Annotated[str | None, typer.Option(help="where generations are, instead of the setting")] = None,
    generation: Annotated[str | None, typer.Option(help="a generation's id; the newest if none")] = None,
    types: Types = None,
) -> None:
    """Item-kNN, ALS, BPR, EASE and SASRec, tuned and refitted along the stream, in the protocol of `evaluate`; and how ours differ."""
    from rich.console import Console

    from engine.assess import read_lists
    from engine.protocol import TABLES
    from engine.registry import Registry
    from streams.evaluation import Made, make_lists, open_generation

    tables = tuple(t for t in TABLES if table in (t, "both"))
    if not tables:
        raise BadSettings([Problem("table", "bad_choice", repr(table), "next, session or both", "choose one of them")])
    work, command = late("export.compare"), late("export.compare_cli")
    plan = work.Plan(
        folder=folder_of(dataset),
        tables=tables,
        methods=tuple(method or work.METHODS),
        wanted=wanted,
        trials=trials,
        repeats=repeats,
        seed=seed,
        types=tuple(mapping_of(types).items()),
        jobs=jobs or os.cpu_count() or 1,
        every=refit,
    )
    data = plan.read()
    if alone:
        made = Made({}, "none")
    elif ours:
        made = Made({"": read_lists(ours)}, f"lists of {ours}")
    else:
        settings, console = settings_of(context), Console(stderr=True)
        opened = open_generation(Registry(registry or settings.registry, settings.registry_cache), plan.folder, generation, console)
        made = make_lists(data, opened, settings.registry_cache, tables=tables, wanted=wanted, repeats=repeats, out=None, console=console)
    lists = None if alone else {case: one for some in made.lists.values() for case, one in some.items()}
    command.main(
        plan, data, ours=lists, seconds=made.seconds, vectors=made.vectors, source=made.source, json_file=json, report=report, kept=kept
    )
