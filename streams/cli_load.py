"""The commands `headwater items load` and `headwater events load`: arguments in, bad rows and a summary out. See `streams.loading`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from engine.errors import BadSettings, Problem
from streams.arguments import Broker, bar, late, mapping_of, settings_of

if TYPE_CHECKING:
    from engine.filerecords import Recipe
    from streams.settings import Settings

items_app = typer.Typer(help="The catalogue.", no_args_is_help=True)
events_app = typer.Typer(help="What users did.", no_args_is_help=True)

File = Annotated[str, typer.Argument(help="CSV, TSV or JSON lines, .gz too; - for standard input")]
Own = Annotated[list[str] | None, typer.Option("--map", help="own column = field of the contract; may be given again")]
Strict = Annotated[bool, typer.Option(help="send nothing when one row cannot be used")]
Dry = Annotated[bool, typer.Option("--dry-run", help="check the file, and print the first records instead of sending any")]
Most = Annotated[int, typer.Option("--named", help="rows that cannot be used and are named, at most", min=0)]


@items_app.command("load")
def load_items(
    context: typer.Context,
    file: File,
    own: Own = None,
    strict: Strict = False,
    dry_run: Dry = False,
    named: Most = 20,
    broker: Broker = None,
) -> None:
    """Send a catalogue to the topic items: item_id and title, and what else the contract has; other columns become attributes."""
    from engine.columns import ITEMS, own_columns
    from engine.filerecords import Recipe

    settings = settings_of(context, broker)
    recipe = Recipe(ITEMS, own_columns(ITEMS, own or ()), max_bytes=settings.max_record_bytes)
    _load(settings, recipe, file, strict=strict, dry_run=dry_run, named=named)


@events_app.command("load")
def load_events(
    context: typer.Context,
    file: File,
    own: Own = None,
    kind: Annotated[
        list[str] | None, typer.Option("--type", help="type of rows without one, or own type = contract's type; may be given again")
    ] = None,
    strict: Strict = False,
    dry_run: Dry = False,
    named: Most = 20,
    broker: Broker = None,
) -> None:
    """Send events to the topic events: user_id, item_id, timestamp and type; other columns become context."""
    from engine.columns import EVENTS, own_columns
    from engine.filerecords import Recipe

    settings = settings_of(context, broker)
    plain = [one for one in kind or () if "=" not in one]
    if len(plain) > 1:
        raise BadSettings([Problem("type", "bad_choice", ", ".join(plain), "one type for rows without one", "give --type once without =")])
    types = mapping_of([one for one in kind or () if "=" in one])
    default = plain[0] if plain else ""
    recipe = Recipe(EVENTS, own_columns(EVENTS, own or ()), types, default, settings.event_weights, settings.max_record_bytes)
    _load(settings, recipe, file, strict=strict, dry_run=dry_run, named=named)


def _load(settings: Settings, recipe: Recipe, path: str, *, strict: bool, dry_run: bool, named: int) -> None:
    loading = late("streams.loading")
    kind = recipe.kind.name

    def counted(count: int) -> str:
        return f"{count:,} {kind if count != 1 else kind.removesuffix('s')}"

    with loading.opened(path) as (stream, name):
        found = loading.check(stream, name, recipe, named)
        if found.columns:
            print(f"columns: {found.columns}", file=sys.stderr)
        for one in found.bad:
            for problem in one.problems:
                print(f"line {one.line}: {problem}", file=sys.stderr)
        if (more := found.left_out - len(found.bad)) > 0:
            print(f"... and {more:,} rows more (--named says how many are named)", file=sys.stderr)
        if found.backwards:
            print(
                f"note: time goes back in {found.backwards:,} of the rows: what is learned is learned in the file's order", file=sys.stderr
            )
        loading.refuse(found, name, strict=strict)
        left_out = f"; {found.left_out:,} of {found.rows:,} rows left out" if found.left_out else ""
        if dry_run:
            for one in found.first:
                print(one.key.decode(), one.value.decode())
            print(f"{name}: {counted(found.good)} would be sent{left_out}")
            return
        from streams.topics import Names

        topic = getattr(Names.under(settings.prefix), kind)
        with bar(kind) as progress:
            seconds = loading.send(stream, name, recipe, found.good, settings, topic, progress)
    print(f"{name}: {counted(found.good)} in {seconds:.1f} s ({found.good / max(seconds, 1e-9):,.0f}/s){left_out}")
