"""`make cost`: what a list costs one core, step by step, and what it costs to learn, on a recorded stream. Prints a table; serves nobody.

Half of the stream is learned first. Then lists over the whole catalogue are made in batches, as a busy worker makes them, and one by one,
and examples are made and learned; each figure is the least of several rounds, since whatever else runs on the machine only ever adds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from time import perf_counter

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # one core: set before numpy is loaded

import numpy as np
from rich.console import Console
from rich.progress import track

from bench.recorded import opened
from engine import kernels
from engine.evaluate import Evaluation
from engine.features import PERSONAL, Taste, taste_of
from engine.markdown import table
from engine.model import Ask, Model
from engine.protocol import stream
from engine.stats import counts_of
from engine.user import Position
from engine.work import CANDIDATES
from streams.listmaker import LESSONS

HALF = 0.5
BATCH, USERS, ROUNDS = 64, 512, 7
"""Of lists; examples are made as many at once as a worker makes them (`streams.listmaker.LESSONS`)."""


def least(work: Callable[[], object], count: int, rounds: int = ROUNDS) -> float:
    """Microseconds for one of `count` of what `work` does."""
    work()
    return min(_timed(work) for _ in range(rounds)) / count * 1e6


def _timed(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return perf_counter() - began


def learned(run: Evaluation, share: float) -> None:
    """Learn the first part of the stream."""
    rows = stream(run.dataset)
    for row in track(rows[: int(len(rows) * share)], "learning", console=Console(stderr=True), transient=True):
        run.learn(row)


def tastes_of(run: Evaluation, users: int) -> list[Taste]:
    """Of users with at least one event, as of the newest event; the same ones each time."""
    names = sorted(run.users)[:: max(1, len(run.users) // users)][:users]
    return [taste_of(run.users[name], round(run.newest * 1000)) for name in names]


def steps(model: Model, tastes: Sequence[Taste]) -> dict[str, float]:
    """Microseconds of each step of a list of ten with reasons."""
    asks = [Ask(taste) for taste in tastes]
    batches = [asks[start : start + BATCH] for start in range(0, len(asks), BATCH)]
    count = len(asks)
    drafts = [draft for batch in batches for draft in model.drafts(batch)]
    found = {
        "whole": least(lambda: [model.rank(batch) for batch in batches], count),
        "draft": least(lambda: [list(model.drafts(batch)) for batch in batches], count),
        "features": 0.0,
        "strongest": 0.0,
        "networks": 0.0,
    }
    own = np.empty((len(PERSONAL), len(model.catalogue)), np.float32)
    every = np.arange(len(model.catalogue), dtype=np.int32)
    works = [draft.work for draft in drafts if draft.work is not None]

    def features() -> None:
        for work in works:
            world, some = work.world, work.tastes
            for b in range(len(some.now)):
                first, last = some.start[b], some.start[b + 1]
                recent, slots = some.recent[first:last], some.slot[first:last]
                kernels.personal(world, recent, slots, some.now[b], some.together[b], every, every, own)

    picked = [work.picked() for work in works]

    def pick() -> None:
        for work, one in zip(works, picked, strict=True):
            work.pick(one)

    found["features"] = least(features, count)
    found["strongest"] = least(pick, count) - found["features"]
    found["networks"] = least(lambda: [work.added(one) for work, one in zip(works, picked, strict=True)], count)
    plain = [[Ask(taste, reasons=False) for taste in tastes[start : start + BATCH]] for start in range(0, len(tastes), BATCH)]
    found["reasons"] = found["whole"] - least(lambda: [model.rank(batch) for batch in plain], count)
    found["choice and records"] = found["whole"] - sum(value for name, value in found.items() if name != "whole")
    return found


def alone(run: Evaluation, tastes: Sequence[Taste]) -> float:
    """Microseconds of a list of ten with reasons that is made by itself, after the counts of an item have changed: as it is live."""
    used = [(key, row) for key, row in zip(run.keys, run.rows, strict=True) if row.count]
    changed = [counts_of(*used[n % len(used)]) for n in range(len(tastes))]

    def turns() -> None:
        for taste, counts in zip(tastes, changed, strict=True):
            run.model.stats.put(counts)
            run.model.rank([Ask(taste)])

    return least(turns, len(tastes))


def lessons(model: Model, tastes: Sequence[Taste]) -> dict[str, float]:
    """Microseconds to make an example and to learn it."""
    rng = np.random.default_rng(0)
    pairs = []
    for taste in tastes:
        may = np.flatnonzero(model.open_for(taste))
        pairs.append((taste, int(model.catalogue.hashes[rng.choice(may)])))
    asked = [(taste, [item], [Position("events", 1, 0, n)]) for n, (taste, item) in enumerate(pairs)]
    batches = [asked[start : start + LESSONS] for start in range(0, len(asked), LESSONS)]
    made = [one for batch in batches for some in model.examples_of(batch) for one in some]
    ranker = deepcopy(model.ranker)

    def learn() -> None:
        for one in made:
            ranker.learn(one)

    return {
        "example made": least(lambda: [model.examples_of(batch) for batch in batches], len(pairs)),
        "example learned": least(learn, len(made)),
    }


def told(list_: Mapping[str, float], lesson: Mapping[str, float], by_itself: float) -> str:
    """Markdown: microseconds and shares of a list with one event learned, and of a list made by itself."""
    whole = list_["whole"] + sum(lesson.values())
    rows = [(f"list: {name}", value) for name, value in list_.items() if name != "whole"]
    rows += [("**list of ten, with reasons**", list_["whole"]), *lesson.items(), ("**list, and one event learned**", whole)]
    rows.append(("list of ten made by itself, the counts of an item just changed", by_itself))
    return table(["step", "µs", "share"], [[name, f"{value:.0f}", f"{100 * value / whole:.0f} %"] for name, value in rows])


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="?", default="ifdb-played", help="a data-set folder, or the name of one in data/")
    parser.add_argument("--share", type=float, default=HALF, help="of the stream that is learned first")
    parser.add_argument("--registry", default="", help="where the generation is; otherwise one of the data set's own")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    data, vectors = opened(args.dataset, args.registry)
    run = Evaluation(data, vectors)
    learned(run, args.share)
    tastes = tastes_of(run, USERS)
    list_, lesson, by_itself = steps(run.model, tastes), lessons(run.model, tastes), alone(run, tastes)
    sys.stdout.write(
        f"{data.name}: {len(data.items)} items, {len(tastes)} users in batches of {BATCH}, {CANDIDATES} candidates, "
        f"{np.mean([len(taste.recent) for taste in tastes]):.0f} items in a history on average\n\n{told(list_, lesson, by_itself)}\n"
    )
    if args.json:
        args.json.write_text(json.dumps({**list_, **lesson, "alone": by_itself}, indent=1))


if __name__ == "__main__":
    main()
