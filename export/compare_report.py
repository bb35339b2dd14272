"""How `headwater compare` shows what it found: JSON, a Markdown page, a table on the terminal. It fits nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table as Grid

from engine import markdown
from engine.assess import Assessment
from engine.bootstrap import Difference, rounded
from engine.figures import DIGITS, NEW_USER_EVENTS, Figures
from engine.markdown import interval
from export.baselines.tuning import CASES
from export.compare import Outcome, Plan

OURS = "Headwater"
COLUMNS = ("", "NDCG@10", "± se", "HR@10", "new users", "new items", "coverage", "trained, s", "ms a list", f"{OURS} less it (95 %)")
PAGE = """Test-then-train in the protocol's order, with its candidates. Each baseline: tuned on the first 30 % of the stream by {trials} or
more trials (fitted on the first 20 %, judged on about {cases} cases of the next 10 %; from 10 % on where these are too few), fitted anew on
all events so far after each {every:.0%} of the stream, and asked with the newest history of the user. {ours} learns event by event.

- trained: CPU seconds of all fits after tuning; ms a list: CPU time, in batches
- new users: with at most {few} learned events; new items: that nobody had used, which no baseline can know
- ±: standard error, clustered by user; intervals: 95 %, paired bootstrap over users; bold where zero is outside"""


@dataclass(frozen=True, slots=True)
class Compared:
    """One table: our lists, if there are any, and each baseline's with what it did; `seconds`: of our run, None where it was made
    elsewhere; `unlearned`: share of cases about items that nobody had used when a baseline was last fitted.
    """

    ours: Assessment | None
    baselines: Mapping[str, tuple[Assessment, Outcome]]
    differences: Mapping[str, Mapping[str, Difference]] = field(default_factory=dict)
    seconds: float | None = None
    unlearned: float = 0.0

    def best(self) -> str:
        """The baseline with the highest NDCG@10."""
        return max(self.baselines, key=lambda name: float(self.baselines[name][0].figures.get("NDCG@10", 0)))

    def names(self) -> list[str]:
        """Baselines, best first."""
        return sorted(self.baselines, key=lambda name: -float(self.baselines[name][0].figures.get("NDCG@10", 0)))


def plain(one: Compared) -> dict[str, Any]:
    """As it stands in the JSON file."""
    baselines = {}
    for name in one.names():
        found, outcome = one.baselines[name]
        baselines[name] = {
            "list": found.figures,
            "more": found.more,
            "fits": outcome.fits,
            "training_s": round(outcome.training_s, 2),
            "ms_per_list": round(outcome.ms_per_list, 3),
            "tuned": asdict(outcome.tuned),
            "along": found.along(),
        }
        if name in one.differences:
            baselines[name]["difference"] = {part: rounded(value) for part, value in one.differences[name].items()}
    ours = {"list": one.ours.figures, "more": one.ours.more, "seconds": one.seconds, "along": one.ours.along()} if one.ours else None
    return {"ours": ours, "unlearned": round(one.unlearned, DIGITS), "best": one.best() if baselines else None, "baselines": baselines}


def rows(one: Compared) -> Iterator[tuple[object, ...]]:
    """Our lists first, then the baselines, best first; as COLUMNS."""
    if one.ours:
        learning = "as it goes" if one.seconds is None else f"as it goes, lists included: {one.seconds:.0f}"
        yield (OURS, *_cells(one.ours.figures), learning, None, None)
    for name in one.names():
        found, outcome = one.baselines[name]
        difference = one.differences.get(name, {}).get("all")
        times = (f"{outcome.training_s:.1f}", f"{outcome.ms_per_list:.2f}")
        yield (name, *_cells(found.figures), *times, interval(difference) if difference else None)


def _cells(figures: Figures) -> Iterator[float | None]:
    for name in ("NDCG@10", "se", "HR@10"):
        yield figures.get(name)
    for name in ("new_users", "new_items"):
        yield figures[name].get("NDCG@10")
    yield figures["coverage"]


def grid(title: str, one: Compared) -> Grid:
    """For the terminal."""
    out = Grid(title=title, title_justify="left")
    for n, column in enumerate(COLUMNS):
        out.add_column(column, justify="right" if n else "left")
    for row in rows(one):
        cells = ("" if cell is None else markdown.decimal(cell) if isinstance(cell, float) else str(cell).replace("*", "") for cell in row)
        out.add_row(*cells, style="bold" if row[0] == OURS else None)
    return out


def page(name: str, plan: Plan, tables: Mapping[str, Compared], picture: str, facts: Sequence[str]) -> str:
    """The Markdown report."""
    parts = [f"# {name}: compared with recommenders retrained in batch", "; ".join(facts) + "."]
    parts.append(f"![Quality along the stream]({picture})")
    for table, one in tables.items():
        parts += [f"## Table {table}", markdown.table(COLUMNS, rows(one))]
        if one.ours and one.baselines:
            best = one.best()
            parts.append(f"Against the best of them, {best}:\n\n" + "\n".join(_against(one.differences[best])))
        parts.append(f"{one.unlearned:.1%} of the cases are about an item that nobody had used when the baselines were last fitted.")
        parts.append("Parameters found:\n\n" + "\n".join(f"- {name}: {_params(one.baselines[name][1])}" for name in one.names()))
    about = PAGE.format(trials=plan.trials, every=plan.every, cases=f"{CASES:,}", ours=OURS, few=NEW_USER_EVENTS)
    return "\n\n".join([*parts, "## How it was measured", about]) + "\n"


def _against(differences: Mapping[str, Difference]) -> Iterator[str]:
    for part, one in differences.items():
        if one.cases:
            ratio = f", × {one.ratio:.3f} ({one.ratio_low:.3f} to {one.ratio_high:.3f})" if one.ratio > 0 else ""
            yield f"- {part.replace('_', ' ')}: {interval(one)}{ratio}, {one.cases} cases of {one.users} users"


def _params(outcome: Outcome) -> str:
    tuned = outcome.tuned
    values = (f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in tuned.params.items())
    found = f"{', '.join(values)} (NDCG@10 {markdown.decimal(tuned.quality)} on {tuned.cases} cases, {tuned.trials} trials"
    return f"{found}, {tuned.seconds:.0f} s)"
