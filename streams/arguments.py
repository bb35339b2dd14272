"""What the commands share: the settings of a run, data sets by name, imports that come late, progress bars. No command of its own."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.errors import BadSettings, HeadwaterError, Problem
from streams.settings import ENV_PREFIX, Settings, load

DATA = Path(__file__).resolve().parent.parent / "data"
"""Data sets that come with the source, known by their names."""
EVERY = 100
"""Records between two moves of the progress bar."""

DataSet = Annotated[str, typer.Argument(help="a data-set folder, or the name of one in data/")]
Broker = Annotated[str | None, typer.Option(help="kafka://host:port, instead of the setting")]
Types = Annotated[list[str] | None, typer.Option("--type", help="own event type = contract's event type; may be given again")]


def settings_of(context: typer.Context, broker: str | None = None, **others: str | None) -> Settings:
    """The settings of this run; an argument (the broker, or another setting as text by its name) goes before the environment."""
    given = {f"{ENV_PREFIX}{name.upper()}": value for name, value in {"broker": broker, **others}.items() if value}
    return load(os.environ | given, context.obj)


def folder_of(name: str) -> Path:
    """The folder of a data set given by path or by name."""
    path = Path(name)
    return DATA / name if not path.exists() and (DATA / name).is_dir() else path


def mapping_of(types: list[str] | None) -> dict[str, str]:
    """Event types from `own=contract's` arguments.

    Raises:
        BadSettings: an argument has another form.
    """
    pairs = [text.partition("=") for text in types or []]
    wrong = [own for own, _, meant in pairs if not (own and meant)]
    if wrong:
        raise BadSettings([Problem("type", "bad_mapping", repr(text), "OWN=TYPE", "write --type played=click") for text in wrong])
    return {own: meant for own, _, meant in pairs}


def late(module: str) -> Any:
    """A module imported only now: a command's own, and what it needs.

    Raises:
        HeadwaterError: a package that only this command needs is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        of_module = dict.fromkeys(("export.compare", "export.compare_cli", "export.plots"), "compare")
        extra = of_module.get(module) or {"export": "export", "streams.gateway": "gateway"}.get(module.rpartition(".")[0])
        expected = f"what {module} needs"
        remedy = f"pip install 'headwater[{extra}]'" if extra else "run it from the source folder, after `make install`"
        raise HeadwaterError("not_installed", f"no module {error.name}", expected, remedy) from error


@contextmanager
def bar(what: str) -> Iterator[Any]:
    """A progress bar on standard error, as a callback for a replay."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as shown_bar:
        task = shown_bar.add_task(what, total=None)

        def progress(done: int, total: int) -> None:
            if done % EVERY == 0 or done == total:
                shown_bar.update(task, completed=done, total=total)

        yield progress
