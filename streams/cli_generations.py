"""The commands `headwater generations …`: what there is, which serves, and changing that. The work is in `streams.generations`."""

from __future__ import annotations

import json
from time import time_ns
from typing import Annotated, Any

import typer

from streams.arguments import Broker, settings_of

app = typer.Typer(help="The generations of the model.", no_args_is_help=True)
BY = "headwater generations"
Reason = Annotated[str, typer.Option(help="why, for the record")]


@app.command("list")
def list_generations(context: typer.Context, broker: Broker = None) -> None:
    """Print what the registry holds, oldest first, and which of it serves."""
    from engine.errors import BrokerError
    from streams.generations import Board

    board = Board(settings_of(context, broker))
    try:
        active = board.active()
    except BrokerError as error:  # the registry can be read without a broker
        typer.echo(f"which one serves is not known: {error}", err=True)
        active = None
    for manifest in map(board.registry.manifest, board.registry.ids()):
        mark = "*" if active is not None and active.id == manifest.id else " "
        gate = "not compared" if manifest.gate is None else "accepted" if manifest.gate.passed else "refused"
        print(
            f"{mark} {manifest.id}  {manifest.serving}  {manifest.items} items  {manifest.dims} dimensions  "
            f"parent {manifest.parent or 'none'}  {gate}"
        )
    if not board.registry.ids():
        typer.echo(f"nothing in {board.registry.url}: `headwater export` makes a generation", err=True)
    if active is not None:
        held = ", held: no trainer puts another in its place" if active.hold else ""
        print(f"{active.id} serves, said by {active.by or 'nobody'}: {active.reason or 'no reason given'}{held}")


@app.command("show")
def show_generation(
    context: typer.Context,
    generation: Annotated[str | None, typer.Argument(help="its id; the newest in the registry if none")] = None,
) -> None:
    """Print a generation's manifest, as JSON: its parent, files and sums, figures, and the gate's verdict."""
    import msgspec

    from engine.registry import Registry

    settings = settings_of(context)
    registry = Registry(settings.registry, settings.registry_cache)
    manifest = registry.manifest(generation or _newest(registry))
    print(json.dumps(msgspec.to_builtins(manifest), indent=1, ensure_ascii=False))


@app.command("activate")
def activate_generation(
    context: typer.Context,
    generation: Annotated[str | None, typer.Argument(help="its id; the newest in the registry if none")] = None,
    reason: Reason = "",
    force: Annotated[bool, typer.Option(help="also one that its gate refused, or that was never compared")] = False,
    if_none: Annotated[bool, typer.Option("--if-none", help="only while none is active: for what runs at each start")] = False,
    broker: Broker = None,
) -> None:
    """Announce a generation as the active one; workers verify it and switch."""
    from streams.generations import Board, activate

    settings = settings_of(context, broker)
    if if_none and (now := Board(settings).active()) is not None:
        print(f"{now.id} is active; nothing announced")
        return
    manifest = activate(settings, generation, by=f"{BY} activate", reason=reason, at_ms=time_ns() // 1_000_000, force=force)
    print(f"announced {manifest.id}")


@app.command("rollback")
def rollback_generation(
    context: typer.Context,
    reason: Reason = "",
    hold: Annotated[bool, typer.Option(help="trainers wait with the next one until somebody activates one by hand")] = True,
    broker: Broker = None,
) -> None:
    """Make the parent of the active generation serve again."""
    from streams.generations import Board

    board = Board(settings_of(context, broker))
    manifest = board.rollback(by=f"{BY} rollback", reason=reason, at_ms=time_ns() // 1_000_000, hold=hold)
    print(f"announced {manifest.id}" + (", held until one is activated by hand" if hold else ""))


@app.command("prune")
def prune_generations(
    context: typer.Context,
    keep: Annotated[int, typer.Option(min=1, help="the newest so many stay, beside the active one and its parent")] = 5,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be removed")] = False,
    broker: Broker = None,
) -> None:
    """Remove old generations from the registry: each takes as much as the encoder twice, and the vectors."""
    from streams.generations import Board

    removed = Board(settings_of(context, broker)).prune(keep, dry=dry_run)
    for gone in removed:
        print(f"{'would remove' if dry_run else 'removed'} {gone}")
    if not removed:
        typer.echo("nothing to remove", err=True)


def _newest(registry: Any) -> str:
    from engine.errors import ArtefactError

    newest: str | None = registry.latest()
    if newest is None:
        raise ArtefactError("no_generation", f"nothing in {registry.url}", "a published generation", "run `headwater export` first")
    return newest
