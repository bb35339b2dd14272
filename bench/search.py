"""`make search`: how well known items are found by words, by meaning, by both, and with the user's taste. Prints tables; serves nobody.

A case of the protocol's table `next` is someone about to use an item. Here the user remembers words of its text, some left out, some
mistyped (`engine.known_item`), and searches. Lists as served come from `Model.rank`, after learning all that came before; no list has what
the user has used already. `--tune` compares constants on the cases between 10 and 30 % of the stream, which no other figure is of.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as Grid

from engine.dataset import Dataset, read
from engine.evaluate import Evaluation
from engine.features import Taste, taste_of
from engine.figures import DEPTH, NEW_USER_EVENTS, figures, gain
from engine.generation import Generation
from engine.known_item import LENGTHS, TYPOS, KnownItems
from engine.model import Ask
from engine.partition import hash64
from engine.protocol import Ask as Step
from engine.protocol import Case, operations, stream
from engine.registry import Registry
from engine.search import Mix
from engine.vectors import catalogue_vectors
from export.gate import compared
from streams.arguments import folder_of
from streams.evaluation import open_generation

ROOT = Path(__file__).resolve().parent.parent
CASES = 2_000
TUNED = (0.1, 0.3)
"""Shares of the stream between which constants are chosen."""
TUNED_CASES = 1_500
LEXICAL, VECTOR, MIX, KNOWN, PERSONAL = "lexical", "vector", "mix", "mix and popularity", "personalised"
SYSTEMS = (LEXICAL, VECTOR, MIX, KNOWN, PERSONAL)
GRID = (
    *(Mix(words=words) for words in (6.0, 12.0, 18.0, 24.0, 36.0, 48.0)),
    *(Mix(meaning=meaning, doubt=doubt) for meaning in (0.0, 6.0, 12.0, 24.0) for doubt in (1.0, 3.0)),
)


@dataclass(frozen=True, slots=True)
class Found:
    """Where each system listed the item that was looked for (from 0; None: not in its ten)."""

    case: Case
    length: int
    ranks: Mapping[str, int | None]


class Searches:
    """A run over the stream in which each case is a few searches."""

    def __init__(self, data: Dataset, generation: Generation, field: str, cases: Sequence[Case], cache: Path) -> None:
        self._data, self._cases = data, {case.id for case in cases}
        threads = os.cpu_count() or 1
        self.run = Evaluation(data, catalogue_vectors(generation, data.items, cache, threads=threads))
        known = KnownItems(data.items, field)
        self.queries = {(case.id, length): known.query(case.target, length, case.id) for case in cases for length in LENGTHS}
        texts = [text for text in dict.fromkeys(self.queries.values()) if text]
        self._vectors = dict(zip(texts, generation.encoder(threads=threads).encode(texts), strict=True))

    def searches(self, start: float | None, stop: float | None) -> Iterator[tuple[Case, int, str, Any]]:
        """Each case's searches when their time has come: case, words, query, its vector."""
        rows = stream(self._data)
        for step in operations(rows, "next", len(rows), start):
            if not isinstance(step, Step):
                self.run.learn(step.events[0])
                continue
            if stop is not None and step.case.time >= stop:
                return
            if step.case.id in self._cases:
                for length in LENGTHS:
                    if text := self.queries[step.case.id, length]:
                        yield step.case, length, text, self._vectors[text]

    def found(self, start: float | None) -> Iterator[Found]:
        """What each system lists."""
        model = self.run.model
        for case, length, text, vector in self.searches(start, None):
            taste = taste_of(self.run.users.get(case.user), round(case.time * 1000))
            nobody = Taste((), (), taste.seen, taste.now, 0, 0)
            open_, draw = model.open_for(taste), np.random.default_rng(hash64(f"{case.id}:{length}")).random(len(self._data.items))
            rows = {
                LEXICAL: model.search.index.fit(text, len(draw)).scores,
                VECTOR: model.catalogue.space.vectors[: len(draw)] @ vector,
                MIX: model.search.row(text, vector, known=True),
            }
            ranks = {name: place(row, open_, case.target, draw) for name, row in rows.items()}
            ranks[PERSONAL] = self.listed(case, Ask(taste, DEPTH, query=vector, text=text, reasons=False))
            model.search.mix = replace(model.search.mix, alone=1.0)
            ranks[KNOWN] = self.listed(case, Ask(nobody, DEPTH, query=vector, text=text, reasons=False))
            model.search.mix = Mix()
            yield Found(case, length, ranks)

    def listed(self, case: Case, ask: Ask) -> int | None:
        """The place of the case's item in a list as served."""
        with self.run.peek(ask.taste):
            names = [one.item_id for one in self.run.model.rank([ask])[0].items]
        wanted = self._data.items[case.target].item_id
        return names.index(wanted) if wanted in names else None


def place(row: Any, open_: Any, target: int, draw: Any) -> int | None:
    """The place of the target among what is open, equal scores by chance; None beyond the first ten."""
    before = (row > row[target]) | ((row == row[target]) & (draw > draw[target]))
    rank = int((before & open_).sum())
    return rank if open_[target] and rank < DEPTH else None


def main(arguments: Sequence[str]) -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(prog="make search", description=__doc__)
    parser.add_argument("dataset", nargs="?", default="ifdb-played", help="a data-set folder, or the name of one in data/")
    parser.add_argument("--field", choices=("description", "title"), help="only words of this text")
    parser.add_argument("--cases", type=int, default=CASES, help="cases, about; each is a search of each length")
    parser.add_argument(
        "--registry", default=str(ROOT / "var" / "search-registry"), help="where the generation is; made there if there is none"
    )
    parser.add_argument("--tune", action="store_true", help="compare constants on the first 30 %% of the stream")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args(arguments)
    data = read(folder_of(options.dataset))
    cache = ROOT / "var" / "search-cache"
    generation = open_generation(Registry(options.registry, cache), folder_of(options.dataset), None, Console(stderr=True))
    if options.tune:
        tune(data, generation, cache)
        return 0
    report = {}
    for field in [options.field] if options.field else ["description", "title"]:
        cases = [step.case for step in operations(stream(data), "next", options.cases) if isinstance(step, Step)]
        report[field] = told(list(Searches(data, generation, field, cases, cache).found(None)), f"{data.name}, words of the {field}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def told(results: Sequence[Found], title: str) -> dict[str, Any]:
    """Print the tables of some searches; the figures."""
    groups: dict[str, list[Found]] = {
        "all": list(results),
        "history": [one for one in results if one.case.earlier > NEW_USER_EVENTS],
        "new users": [one for one in results if one.case.earlier <= NEW_USER_EVENTS],
        **{f"{length} words": [one for one in results if one.length == length] for length in LENGTHS},
    }
    console = Console(width=140)
    report: dict[str, Any] = {"typos": TYPOS, "groups": {}, "differences": {}}
    for measure in ("NDCG@10", "MRR@10", "HR@10"):
        grid = Grid(title=f"{title}, {TYPOS:.0%} of the words mistyped: {measure}", title_justify="left")
        for n, column in enumerate(("", *(f"{name} ({len(some)})" for name, some in groups.items()))):
            grid.add_column(column, justify="right" if n else "left")
        for system in SYSTEMS:
            of = {name: figures((one.case.user, one.ranks[system]) for one in some) for name, some in groups.items()}
            report["groups"].setdefault(system, of)
            grid.add_row(system, *(f"{figure[measure]:.4f}" if figure["cases"] else "" for figure in of.values()))
        console.print(grid)
    better = max((LEXICAL, VECTOR), key=lambda system: report["groups"][system]["all"]["NDCG@10"])
    for group, against in (("all", better), ("all", MIX), ("history", better), ("history", MIX), ("history", KNOWN), ("new users", MIX)):
        for name, worth in (("NDCG@10", gain), ("MRR@10", reciprocal)):
            some = groups[group]
            one, other = (np.array([worth(found.ranks[system]) for found in some]) for system in (against, PERSONAL))
            result = compared([found.case.user for found in some], one, other)
            report["differences"][f"{group}, {against}, {name}"] = [result.candidate - result.active, result.low, result.high]
            difference = f"{result.candidate - result.active:+.4f} (95 % {result.low:+.4f} to {result.high:+.4f})"
            console.print(f"{group}: personalised over {against}, {name}: {difference}, {result.users} users", highlight=False)
    return report


def reciprocal(rank: int | None) -> float:
    """What an item at a rank (from 0) adds to MRR@10."""
    return 0.0 if rank is None else 1.0 / (rank + 1)


def tune(data: Dataset, generation: Generation, cache: Path) -> None:
    """Print NDCG@10 of personalised search for some constants, on the cases in the share TUNED of the stream."""
    rows = stream(data)
    start, stop = (rows[int(len(rows) * share)].time for share in TUNED)
    steps = (step.case for step in operations(rows, "next", len(rows), start) if isinstance(step, Step))
    every = [case for case in steps if case.time < stop]
    cases = every[:: max(1, len(every) // TUNED_CASES)]
    run = Searches(data, generation, "description", cases, cache)
    gains: dict[Mix, list[tuple[int, float]]] = {mix: [] for mix in GRID}
    for case, length, text, vector in run.searches(start, stop):
        taste = taste_of(run.run.users.get(case.user), round(case.time * 1000))
        for mix, found in gains.items():
            run.run.model.search.mix = mix
            rank = run.listed(case, Ask(taste, DEPTH, query=vector, text=text, reasons=False))
            found.append((length, gain(rank)))
    print(f"{len(cases)} cases; NDCG@10 of personalised search: all, then by words {LENGTHS}")
    for mix, found in gains.items():
        by_length = (np.mean([value for length, value in found if length == wanted]) for wanted in LENGTHS)
        print(f"{mix}: {np.mean([value for _, value in found]):.4f}  {'  '.join(f'{value:.4f}' for value in by_length)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
