"""`make ablation`: what each group of features, the networks and the diversity step are worth. Prints a table; serves nobody.

Each is left out (or turned on) for a whole run, so everything else may learn to do without it. Constants are chosen and these tables made
on the first 30 % of each stream, cases from 10 % on: no figure of `headwater evaluate` is of those cases.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from bench.recorded import kept, renamed
from engine.bootstrap import Difference, paired
from engine.dataset import Dataset, read
from engine.evaluate import Evaluation
from engine.features import NAMES
from engine.figures import DEPTH
from engine.markdown import table
from engine.network import Network
from engine.policy import Variety
from engine.protocol import TABLES, Table, stream
from engine.ranker import Example, Ranker
from engine.space import Floats

SHARE, WARM = 0.3, 0.1
"""Of the stream: where it is cut, and where the cases begin."""
CASES = 3_000
GROUPS: Mapping[str, tuple[str, ...]] = {
    "popularity": ("trending", "popular", "known", "rising", "popularity_gap"),
    "age and use": (
        "new",
        "recent",
        "unused",
        "untried",
        "released",
        "released_year",
        "dated",
        "used_week",
        "used_season",
        "date",
        "date_last",
    ),
    "together, lasting": ("together", "together_last", "together_near", "together_most", "linked"),
    "together, this season": ("lately", "lately_last"),
    "together, what comes after": ("after", "after_last"),
    "together, in a session": ("session", "session_most", "basket", "chance", "session_linked"),
    "together, all of it": (),
    "text": ("text", "text_last", "text_most", "text_cold"),
    "words of titles": ("words", "words_last", "words_cold"),
    "creators, categories, tags": ("creator", "creator_last", "creator_cold", "tags", "tags_last", "tags_cold"),
    "text where nobody has been": ("text_cold", "words_cold", "creator_cold", "tags_cold"),
}
"""What is left out, and its features."""
TOGETHER = tuple(name for group, names in GROUPS.items() if group.startswith("together") for name in names)
NETWORKS, CONTEXT = "the networks", "what is known of the user"
VARIETIES: Mapping[str, Variety] = {
    "diversity 0.5": Variety(0.5),
    "diversity 2": Variety(2.0),
    "two of a creator": Variety(per_creator=2),
    "three of a category": Variety(per_category=3),
}
WHOLE, RENAMED = "everything", "all ids drawn anew"
NAMES_OF_RUNS = (WHOLE, *GROUPS, CONTEXT, NETWORKS, *VARIETIES, RENAMED)


class Without(Ranker):
    """A ranker that does not see some features, nor, where `context` is false, what is known of the user."""

    def __init__(self, names: Sequence[str], *, context: bool) -> None:
        self.off = np.isin(NAMES, names)
        self.context = context
        super().__init__(network=Blind(self.off, context=context))
        self.common[self.off] = 0.0

    def learn(self, example: Example) -> None:
        """As a ranker learns, with zeros for what is not seen."""
        rows = example.matrix().copy()
        rows[:, :-1][:, self.off] = 0.0
        blank = {} if self.context else {"situation": 0, "context": (0.0,) * len(example.context)}
        super().learn(_changed(example, features=rows.tobytes(), **blank))

    def weights(self) -> NDArray[np.float64]:
        """(SITUATIONS, F)."""
        found = super().weights()
        return found if self.context else np.tile(found[:1], (len(found), 1))


class Blind(Network):
    """Networks that do not see some inputs."""

    def __init__(self, off: NDArray[np.bool_], *, context: bool) -> None:
        super().__init__(**vars(Network.new()))
        known = np.full(len(self.net.scale) - len(off), not context)
        self.off = np.concatenate([off, known])
        self.net.scale[self.off] = 0.0
        if not context:
            self.net.first[len(self.off) :] = 0.0

    def learn(self, features: Floats, base: Floats, context: Sequence[float], situation: int, weight: float) -> None:
        """As networks learn; where what is known of the user is not seen, nothing is learned of situations."""
        super().learn(features, base, context, situation, weight)
        if self.off[-1]:
            self.net.first[len(self.off) :] = 0.0

    def _look_at(self, x: Floats) -> None:
        super()._look_at(x)
        self.net.scale[self.off] = 0.0


class Silent(Network):
    """Networks that are never trusted."""

    trusted = False


def _changed(example: Example, **fields: Any) -> Example:
    return Example(**{name: fields.get(name, getattr(example, name)) for name in example.__struct_fields__})


@dataclass(frozen=True, slots=True)
class Job:
    """One run: what is different in it, and over what."""

    name: str
    dataset: str
    vectors: str
    table: Table
    share: float
    cases: int


def evaluation(job: Job) -> Evaluation:
    """A run's state before its first event."""
    data, vectors = _read(job.dataset), np.load(job.vectors)
    rows = stream(data)
    data = replace(data, rows=tuple(rows[: int(len(rows) * job.share)]))
    run = Evaluation(renamed(data, 1) if job.name == RENAMED else data, np.asarray(vectors, np.float32))
    if job.name in GROUPS:
        run.model.ranker = Without(GROUPS[job.name] or TOGETHER, context=True)
    elif job.name == CONTEXT:
        run.model.ranker = Without((), context=False)
    elif job.name == NETWORKS:
        run.model.ranker.network = Silent(**vars(Network.new()))
    else:
        run.model.variety = VARIETIES.get(job.name, Variety())
    return run


def gains(job: Job) -> tuple[list[str], list[float], list[float]]:
    """Whose each case is, its NDCG@10, and how different its first ten are: the mean of 1 - cosine of the texts over their pairs."""
    rows = stream(_read(job.dataset))
    run, start = evaluation(job), rows[int(len(rows) * WARM)].time
    index, vectors = run.dataset.index, run.vectors
    users, found, unlike = [], [], []
    for answer in run.answers(job.table, job.cases, start=start):
        target, shown = run.dataset.items[answer.case.target].item_id, answer.items[:DEPTH]
        users.append(answer.case.user)
        own = vectors[[index[item] for item in shown]]
        unlike.append(1.0 - (float((own @ own.T).sum()) - len(own)) / max(1, len(own) * (len(own) - 1)))
        found.append(1.0 / np.log2(shown.index(target) + 2.0) if target in shown else 0.0)
    return users, found, unlike


@cache
def _read(folder: str) -> Dataset:
    return read(Path(folder))


def compare(results: Mapping[tuple[str, str], tuple[list[str], list[float], list[float]]]) -> Iterator[tuple[str, str, Difference]]:
    """Each run against the whole: column, name, difference."""
    for (name, column), (users, found, _) in results.items():
        whole = results[WHOLE, column][1]
        yield column, name, paired(users, np.array(whole), np.array(found))


def told(results: Mapping[tuple[str, str], tuple[list[str], list[float], list[float]]]) -> str:
    """The Markdown table: NDCG@10 of the whole, and what changes; bold where the 95 % interval leaves 0 out."""
    columns = list(dict.fromkeys(column for _, column in results))
    cells: dict[tuple[str, str], str] = {}
    for column, name, one in compare(results):
        change = f"{100 * one.difference / one.one:+.1f} %" if one.one else "-"
        cells[name, column] = f"{one.one:.4f} ({one.cases})" if name == WHOLE else f"**{change}**" if one.sure else change
    rows = [[name, *(cells.get((name, column), "") for column in columns)] for name in NAMES_OF_RUNS if (name, columns[0]) in cells]
    return table(["without, or with", *columns], rows) + "\n\n" + told_variety(results, columns)


def told_variety(results: Mapping[tuple[str, str], tuple[list[str], list[float], list[float]]], columns: Sequence[str]) -> str:
    """The Markdown table of how different the items of a list are, mean over the cases."""
    names = [name for name in (WHOLE, *VARIETIES) if (name, columns[0]) in results]
    rows = [[name, *(float(np.mean(results[name, column][2])) for column in columns)] for name in names]
    return table(["how different the items of a list are", *columns], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Run all, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="*", default=["ifdb-played", "online-retail"], help="data-set folders, or names in data/")
    parser.add_argument("--table", choices=TABLES, action="append")
    parser.add_argument("--only", choices=NAMES_OF_RUNS, action="append", help="these runs, and the whole")
    parser.add_argument("--share", type=float, default=SHARE)
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="file for the differences")
    parser.add_argument("--gains", type=Path, help="file for run, table, users, NDCG@10 of each case, and how different its list is")
    args = parser.parse_args(argv)
    names = NAMES_OF_RUNS if not args.only else tuple(dict.fromkeys((WHOLE, *args.only)))
    opened = [kept(one) for one in args.dataset]
    tables = args.table or TABLES
    jobs = [Job(name, *one, which, args.share, args.cases) for name in names for one in opened for which in tables]
    results: dict[tuple[str, str], tuple[list[str], list[float], list[float]]] = {}
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        waiting = {pool.submit(gains, job): job for job in jobs}
        for done in track(as_completed(waiting), "runs", total=len(jobs), console=Console(stderr=True)):
            job = waiting[done]
            results[job.name, f"{Path(job.dataset).name} {job.table}"] = done.result()
    ordered = {(job.name, f"{Path(job.dataset).name} {job.table}"): None for job in jobs}
    results = {key: results[key] for key in ordered}
    if args.gains:
        args.gains.write_text(json.dumps([[*key, *found] for key, found in results.items()]))
    if args.json:
        found = [{"table": column, "run": name, **asdict(one)} for column, name, one in compare(results)]
        args.json.write_text(json.dumps(found, indent=1))
    sys.stdout.write(told(results) + "\n")


if __name__ == "__main__":
    main()
