"""The command `headwater backfill`: arguments in, a bar and a summary out. The work is `streams.backfill`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from streams.arguments import Broker, late, settings_of


def backfill(
    context: typer.Context,
    until: Annotated[
        str, typer.Option(help="now: all events that there are; or events produced before a year, a date or an RFC 3339 time")
    ] = "now",
    lists: Annotated[
        float | None, typer.Option(help="in the end make a list for each user with an event in the last DAYS", metavar="DAYS", min=0)
    ] = None,
    accept_new_logs: Annotated[
        bool, typer.Option(help="go on although a source topic was made anew: its old offsets mean nothing")
    ] = False,
    broker: Broker = None,
) -> None:
    """Take in the events of the past at full speed, without lists for them; then start workers."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    rate_column = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(), rate_column, TimeRemainingColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, rate="")
            speed = bars.tasks[tasks[what]].finished_speed or bars.tasks[tasks[what]].speed
            bars.update(tasks[what], completed=done, total=total, rate=f"{speed:,.0f}/s" if speed else "")

        status, report = late("streams.backfill").main(
            settings_of(context, broker),
            until=until,
            days=lists,
            accept_new_logs=accept_new_logs,
            progress=progress,
            say=lambda text: print(text, file=sys.stderr, flush=True),
            quiet=console.is_terminal,
        )
    rate = report.events / max(report.seconds, 1e-9)
    print(
        f"{report.events:,} events in {report.seconds:.1f} s ({rate:,.0f}/s)"
        + (f"; {report.users:,} users, {report.items:,} items, {report.learned:,} examples learned" if report.complete else "")
        + (f"; {report.lists:,} lists" if lists is not None else "")
    )
    if not report.complete:
        print(f"stopped: {report.events:,} of {report.wanted:,} events; run it again, and it goes on from there", file=sys.stderr)
        raise typer.Exit(status or 1)
    when = "" if lists is not None else " (a user's list comes with the user's next event)"
    print(f"now start workers: headwater worker{when}", file=sys.stderr)
    raise typer.Exit(status)
