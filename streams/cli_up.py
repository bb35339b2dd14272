"""The commands `headwater up` and `headwater lists`: to try things out, and to see what a user gets. The work is elsewhere."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from streams.arguments import Broker, late, settings_of


def up(context: typer.Context) -> None:
    """Start a broker in memory and a worker for trying things out with your own data; events, state and lists are gone at the end."""
    late("streams.up").main(os.environ, context.obj, lambda text: print(text, flush=True))


def lists(
    context: typer.Context,
    user: Annotated[str, typer.Argument(help="the user's id")],
    surface: Annotated[str, typer.Option(help="the placement")] = "home",
    wait: Annotated[float, typer.Option(help="seconds to wait for the first list", min=0)] = 10.0,
    broker: Broker = None,
) -> None:
    """Print the standing list of a user, with the two strongest reasons for each item."""
    settings = settings_of(context, broker)
    found = late("streams.standing").standing(settings, user, surface, wait)
    if found is None:
        print(f"no list for {user} on {surface}: one comes with the user's first event; the gateway makes one for anybody who asks")
        raise typer.Exit(1)
    trigger = found["trigger"]
    about = next((value for name, value in trigger.items() if name.endswith("_id")), "")
    made_after = f"{trigger['kind']} {about}".rstrip()
    print(f"{user}, {surface}: generation {found['generation'] or 'none'}, made after {made_after}")
    for item in found["items"]:
        reasons = ", ".join(" ".join(filter(None, (one["kind"], one.get("item_id")))) for one in item["reasons"][:2])
        print(f"{item['rank'] + 1:4}  {item['item_id']:24}  {item['score']:7.3f}  {reasons}")
    if note := found.get("note"):
        print(note)
