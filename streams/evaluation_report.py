"""How `headwater evaluate` shows its figures: on the terminal, as JSON, as a Markdown page. It computes none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table as Grid

from engine import markdown
from engine.assess import Assessment
from engine.bootstrap import Difference, rounded
from engine.evaluate import TableFigures
from engine.figures import Figures
from engine.markdown import decimal, interval

COLUMNS = ("", "NDCG@10", "± se", "HR@10", "MRR@10", "new users", "new items", "cases", "coverage")
MEANING = """- precision, recall, F1: of all that was new in the session (table `session`), of the target (table `next`)
- AUC: the target among what could be listed; below the list it is taken to stand anywhere with equal chance
- diversity: mean 1 - cosine of the text vectors over the pairs of the first ten
- novelty: mean -log2 of the items' shares of all uses so far, in bits
- ECE: calibration error of the probabilities, where lists have them
- ±: standard error, clustered by user; intervals: 95 %, paired bootstrap over users"""


@dataclass(frozen=True, slots=True)
class Judged:
    """One table: the list's figures; those of its channels, where the lists were made here; the difference to other lists, by slice of
    cases; quality along the stream, by name.
    """

    own: Assessment
    table: TableFigures | None
    against: Mapping[str, Difference]
    along: Mapping[str, Sequence[Figures]]


def plain(one: Judged) -> dict[str, Any]:
    """Figures as they stand in the JSON file."""
    parts: dict[str, Any] = {"list": one.own.figures, "more": one.own.more}
    if one.table:
        parts |= {"channels": dict(one.table.channels), "random": one.table.random}
    if one.against:
        parts["against"] = {name: rounded(difference) for name, difference in one.against.items()}
    return {**parts, "along": one.along}


def rows(one: Judged) -> Iterator[tuple[str, Figures]]:
    """The list first, then its channels, then chance."""
    yield "list", one.own.figures
    if one.table:
        yield from one.table.channels.items()
        yield "random", one.table.random


def grid(title: str, one: Judged) -> Grid:
    """Figures as a table for people."""
    out = Grid(title=title, title_justify="left")
    for n, column in enumerate(COLUMNS):
        out.add_column(column, justify="right" if n else "left")
    for name, figures in rows(one):
        cells = ("" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value) for value in cells_of(figures))
        out.add_row(name, *cells, style={"list": "bold", "random": "dim"}.get(name))
    return out


def cells_of(figures: Figures) -> Iterator[float | int | None]:
    """The columns after the name."""
    for name in ("NDCG@10", "se", "HR@10", "MRR@10"):
        yield figures.get(name)
    for name in ("new_users", "new_items"):
        yield figures[name].get("NDCG@10")
    yield figures["cases"]
    yield figures.get("coverage")


def words(one: Judged, against: Path | None) -> str:
    """The list's other figures, and how it differs from another one, in a line each."""
    lines = [", ".join(f"{name} {value:.4f}" for name, value in one.own.more.items())]
    if one.own.missing:
        lines.append(f"{one.own.missing} cases have no list, and count as misses")
    lines += [f"{name.replace('_', ' ')}, less {against}: {told}" for name, told in _told(one)]
    return "\n".join(lines)


def _told(one: Judged) -> Iterator[tuple[str, str]]:
    for name, difference in one.against.items():
        if difference.cases:
            ratio = f", × {difference.ratio:.3f} ({difference.ratio_low:.3f} to {difference.ratio_high:.3f})"
            shown = ratio if difference.ratio > 0 else ""
            text = f"{decimal(difference.one)} -> {decimal(difference.other)}, {interval(difference).replace('*', '')}{shown}"
            yield name, f"{text}, {difference.cases} cases of {difference.users} users"


def told_ratings(ratings: Figures) -> str:
    """Errors of predicted ratings, and what predicted them."""
    alone = ratings["mean alone"]
    return (
        f"ratings: MAE {ratings['MAE']:.4f}, MSE {ratings['MSE']:.4f} over {ratings['ratings']}; predicted by the {ratings['predictor']} "
        f"(the mean alone: {alone['MAE']:.4f}, {alone['MSE']:.4f}); lists are not made from them"
    )


def page(
    name: str,
    source: str,
    events: int,
    tables: Mapping[str, Judged],
    ratings: Figures | None,
    against: Path | None,
    picture: str,
) -> str:
    """The Markdown report."""
    parts = [f"# {name}: lists, test-then-train", f"{events} events; {source}.", f"![Quality along the stream]({picture})"]
    for table, one in tables.items():
        parts += [
            f"## Table {table}",
            markdown.table(COLUMNS, ((channel, *cells_of(figures)) for channel, figures in rows(one))),
            markdown.table(("list", *one.own.more), [("", *one.own.more.values())]),
        ]
        if one.against:
            lines = [f"- {slice_.replace('_', ' ')}: {told}" for slice_, told in _told(one)]
            parts += [f"Against {against}, NDCG@10:", "\n".join(lines)]
    if ratings:
        parts += ["## Ratings", told_ratings(ratings) + "."]
    return "\n\n".join([*parts, "## What the figures are", MEANING]) + "\n"
