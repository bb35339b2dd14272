"""The command `headwater explain`: why a user's list is as it is, in words. The work: `streams.explaining`, `engine.explain`."""

from __future__ import annotations

from time import time_ns
from typing import Annotated

import typer

from streams.arguments import Broker, late, settings_of


def explain(
    context: typer.Context,
    user: Annotated[str, typer.Argument(help="the user's id")],
    item: Annotated[str | None, typer.Argument(help="an item's id: why it is at its place, or why it is not in the list")] = None,
    surface: Annotated[str, typer.Option(help="the placement")] = "home",
    wait: Annotated[float, typer.Option(help="seconds to wait for the workers, at most", min=0)] = 10.0,
    broker: Broker = None,
) -> None:
    """Say in words why a user's standing list is as it is, or why an item is not in it."""
    told = late("streams.explaining").explain(settings_of(context, broker), user, item, surface, wait, time_ns() // 1_000_000)
    for line in told.lines:
        print(line)
    if not told.found:
        raise typer.Exit(1)
