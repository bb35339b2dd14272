"""Pictures of figures: quality along the stream. It computes nothing, and draws into files only, without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from engine.figures import Figures

PANEL_INCHES = (6.4, 4.4)
DPI = 110
MUTED = "0.6"
CHANCE = "random"


def along_the_stream(path: Path, title: str, tables: Mapping[str, Mapping[str, Sequence[Figures]]], *, bold: str = "list") -> None:
    """Draw NDCG@10 against the place in the stream: a panel for each table, a line for each name, one of them `bold` with its
    error; a name has one colour in all panels.

    `tables`: table -> name -> points as `Assessment.along` gives them. The format is that of the path's ending.
    """
    figure = Figure(figsize=(PANEL_INCHES[0] * max(1, len(tables)), PANEL_INCHES[1]), dpi=DPI, layout="constrained")
    names = list(dict.fromkeys(name for lines in tables.values() for name in lines))
    colours = {name: f"C{n}" for n, name in enumerate(name for name in names if name not in (bold, CHANCE))}
    drawn = {}
    for n, (table, lines) in enumerate(tables.items()):
        axes = figure.add_subplot(1, len(tables), n + 1)
        for name, points in lines.items():
            at = [100 * point["at"] for point in points]
            values = [point["NDCG@10"] for point in points]
            if name == bold:
                errors = [point["se"] for point in points]
                low = [value - error for value, error in zip(values, errors, strict=True)]
                high = [value + error for value, error in zip(values, errors, strict=True)]
                axes.fill_between(at, low, high, color="black", alpha=0.15, linewidth=0, zorder=2)
                drawn[name] = axes.plot(at, values, linewidth=2.4, color="black", zorder=3)[0]
            elif name == CHANCE:
                drawn[name] = axes.plot(at, values, linewidth=1.0, color=MUTED, linestyle="dotted")[0]
            else:
                drawn[name] = axes.plot(at, values, linewidth=1.2, color=colours[name])[0]
        axes.set_title(f"{title}, table {table}", fontsize=10)
        axes.set_xlabel("place in the stream, % of its events")
        axes.set_ylabel("NDCG@10")
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, alpha=0.25)
    figure.legend(list(drawn.values()), list(drawn), loc="outside lower center", ncols=max(1, len(drawn)), fontsize=8)
    figure.savefig(path)
