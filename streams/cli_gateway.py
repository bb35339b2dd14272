"""The command `headwater gateway`. Not the gateway (`streams.gateway`), which is imported when it runs."""

from __future__ import annotations

import typer

from streams.arguments import late, settings_of


def gateway(context: typer.Context) -> None:
    """Serve lists, events, items and rules over HTTP, and the page, until it is told to stop."""
    raise typer.Exit(late("streams.gateway.server").main(settings_of(context)))
