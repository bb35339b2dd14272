"""`python -m bench.newcomers`: what places kept for new items cost the others, as a curve. Prints a table; serves nobody.

A list of ten keeps its last `reserved` places for the highest-ranked items that nobody has used yet, if it does not have as many already.
All lists come from one run over the stream, cut from its list of 100, so nothing learns from what was reserved.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from bench.recorded import opened
from engine.bootstrap import paired
from engine.evaluate import Evaluation
from engine.figures import DEPTH
from engine.markdown import table
from engine.protocol import TABLES, Table

RESERVED = (0, 1, 2, 3, 5)


@dataclass(frozen=True, slots=True)
class Told:
    """A case: whose, the rank of its target in each kind of list (None: not in it), whether nobody had used the target."""

    user: str
    ranks: tuple[int | None, ...]
    unused: bool


def reserved(listed: Sequence[str], new: Sequence[bool], places: int) -> list[str]:
    """The first ten, with so many places at least for new ones, which come last where they would not stand by themselves.

    >>> reserved([f"i{n}" for n in range(12)], [n >= 10 for n in range(12)], 1)[-2:]
    ['i8', 'i10']
    """
    top = list(range(min(DEPTH, len(listed))))
    missing = places - sum(new[at] for at in top)
    if missing > 0:
        others = [at for at in range(len(top), len(listed)) if new[at]][:missing]
        leaving = [at for at in reversed(top) if not new[at]][: len(others)]
        top = [at for at in top if at not in leaving] + others
    return [listed[at] for at in top]


def told(name: str, registry: str, which: Table, cases: int) -> list[Told]:
    """All cases of a table."""
    data, vectors = opened(name, registry)
    run = Evaluation(data, vectors)
    ids = [item.item_id for item in data.items]
    found = []
    used: set[str] = set()
    for answer in track(run.answers(which, cases), f"{data.name} {which}", console=Console(stderr=True), transient=True):
        used = {ids[at] for at in run.used} if len(run.used) != len(used) else used
        new = [item not in used for item in answer.items]
        lists = [reserved(answer.items, new, places) for places in RESERVED]
        target = ids[answer.case.target]
        ranks = tuple(one.index(target) if target in one else None for one in lists)
        found.append(Told(answer.case.user, ranks, answer.unused))
    return found


def gains(cases: Sequence[Told], at: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """NDCG@10 of each case (C,)."""
    return np.array([0.0 if (rank := one.ranks[at]) is None else 1.0 / np.log2(rank + 2.0) for one in cases])


def main(argv: Sequence[str] | None = None) -> None:
    """Run all, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="*", default=["ifdb-played", "online-retail"], help="data-set folders, or names in data/")
    parser.add_argument("--table", choices=TABLES, action="append")
    parser.add_argument("--cases", type=int, default=3_000)
    parser.add_argument("--registry", default="")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    rows, report = [], []
    for name in args.dataset:
        for which in args.table or TABLES:
            cases = told(name, args.registry, which, args.cases)
            users, unused = [one.user for one in cases], np.array([one.unused for one in cases])
            for at, places in enumerate(RESERVED):
                whole = paired(users, gains(cases, 0), gains(cases, at))
                new = float(gains(cases, at)[unused].mean()) if unused.any() else None
                rest = float(gains(cases, at)[~unused].mean())
                change = "" if not at else f"{100 * whole.difference / whole.one:+.1f} %"
                rows.append([f"{Path(name).name} {which}", places, whole.other, change, rest, new, int(unused.sum())])
                report.append(dict(zip(("table", "reserved", "ndcg", "change", "known", "new", "new_cases"), rows[-1], strict=True)))
    columns = ["", "places kept", "NDCG@10", "against none", "items known", "items new", "cases with a new item"]
    sys.stdout.write(table(columns, rows) + "\n")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
