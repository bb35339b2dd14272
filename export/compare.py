"""The work of `headwater compare`: each baseline tuned, refitted along the stream and asked, for each table; several at a time, and kept.

It makes none of our own lists, and computes no figures (`engine.assess`, `export.compare_report`).
"""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from multiprocessing import get_context
from pathlib import Path
from queue import Empty
from typing import Any

from engine.assess import Listed, line_of, read_lists
from engine.dataset import Dataset, read
from engine.protocol import TABLES, WANTED, Table, stream
from export.baselines import METHODS, Context
from export.baselines.course import EVERY, Course, run
from export.baselines.log import DAY_S
from export.baselines.tuning import TRIALS, Tuned, course_for, tune

FORMAT = 1
"""Counted up when a baseline changes: what was kept of before is made anew."""
SLOWEST = ("SASRec", "BPR", "item-kNN", "EASE", "ALS", "popularity")
"""Begun in this order, so that the last of several at a time ends soon after the others."""
POLL_S = 0.2
Watch = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compared on. `types`: own event type -> the contract's; `trials`: the least number for tuning; `jobs`: how many
    baselines at a time; `every`: share of the stream between two fits.
    """

    folder: Path
    tables: tuple[Table, ...] = TABLES
    methods: tuple[str, ...] = tuple(METHODS)
    wanted: int = WANTED
    trials: int = TRIALS
    repeats: bool = False
    seed: int = 0
    types: tuple[tuple[str, str], ...] = ()
    jobs: int = 1
    every: float = EVERY

    def read(self) -> Dataset:
        """The data set.

        Raises:
            DatasetError: it is none.
        """
        return read(self.folder, types=dict(self.types))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one baseline did on one table. `training_s`: CPU time of all fits after tuning; `ms_per_list`: CPU time, in batches."""

    table: Table
    method: str
    lists: Mapping[str, Listed]
    tuned: Tuned
    fits: int
    training_s: float
    ms_per_list: float


def fingerprint(dataset: Dataset, plan: Plan) -> dict[str, Any]:
    """What decides a baseline's lists: when it is the same, they are."""
    digest = blake2b(digest_size=16)
    for row in stream(dataset):
        digest.update(f"{row.time}|{row.user}|{row.item_id}|{row.session}\n".encode())
    for item, since in zip(dataset.items, dataset.available_from, strict=True):
        digest.update(f"{item.item_id}|{since}\n".encode())
    return {
        "format": FORMAT,
        "events": digest.hexdigest(),
        "wanted": plan.wanted,
        "trials": plan.trials,
        "repeats": plan.repeats,
        "seed": plan.seed,
        "refit every": plan.every,
    }


@dataclass(frozen=True, slots=True)
class Kept:
    """A folder with the outcomes of before: a file of lists and one of facts for each table and method."""

    folder: Path
    settings: Mapping[str, Any]

    def _paths(self, table: Table, method: str) -> tuple[Path, Path]:
        return self.folder / f"{table}-{method}.jsonl.gz", self.folder / f"{table}-{method}.json"

    def load(self, table: Table, method: str) -> Outcome | None:
        """What was kept, if it was made with the same settings."""
        lists, facts = self._paths(table, method)
        if not (lists.exists() and facts.exists()):
            return None
        found = json.loads(facts.read_text(encoding="utf-8"))
        if found["settings"] != dict(self.settings):
            return None
        return Outcome(table, method, read_lists(lists), Tuned(**found["tuned"]), found["fits"], found["training_s"], found["ms_per_list"])

    def save(self, outcome: Outcome) -> None:
        """Keep an outcome: the lists first, then what vouches for them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lists, facts = self._paths(outcome.table, outcome.method)
        facts.unlink(missing_ok=True)
        with gzip.open(lists, "wt", encoding="utf-8") as file:
            file.writelines(line_of(case, one.items) for case, one in outcome.lists.items())
        told: dict[str, Any] = {"settings": dict(self.settings), "tuned": asdict(outcome.tuned)}
        told |= {"fits": outcome.fits, "training_s": outcome.training_s, "ms_per_list": outcome.ms_per_list}
        facts.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def one(plan: Plan, dataset: Dataset, table: Table, method: str, watch: Watch) -> Outcome:
    """Tune one baseline on the first 30 % of the stream, then take it through all of it."""
    tuning = course_for(dataset, table, repeats=plan.repeats, every=plan.every)
    span_d = max(1.0, (tuning.events[-1].time - tuning.events[0].time) / DAY_S) if tuning.events else 1.0
    context = Context(table, span_d, tuning.first_fit(), plan.repeats, plan.seed)
    stage = f"{table}, {method}"
    tuned = tune(METHODS[method], context, tuning, plan.trials, lambda done, total: watch(f"{stage}: tune", done, total))
    course = Course.of(dataset, table, wanted=plan.wanted, repeats=plan.repeats, every=plan.every)
    baseline = METHODS[method].make(tuned.params, context)
    ran = run(baseline, course, lambda done, total: watch(f"{stage}: refit", done, total))
    names = [item.item_id for item in dataset.items]
    lists = {case: Listed(tuple(names[at] for at in items.tolist())) for case, items in ran.lists.items()}
    return Outcome(table, method, lists, replace(tuned, seconds=round(tuned.seconds, 1)), ran.fits, ran.fit_s, ran.ms_per_list)


def compare(plan: Plan, dataset: Dataset, kept: Kept | None, watch: Watch) -> Iterator[Outcome]:
    """All baselines on all tables, each as it is ready; those that were kept come first."""
    left = []
    for method in sorted(plan.methods, key=lambda name: SLOWEST.index(name) if name in SLOWEST else len(SLOWEST)):
        for table in plan.tables:
            known = kept.load(table, method) if kept else None
            if known is not None:
                yield known
            else:
                left.append((table, method))
    made = _in_turn(plan, dataset, left, watch) if plan.jobs == 1 else _at_a_time(plan, left, watch)
    for outcome in made:
        if kept:
            kept.save(outcome)
        yield outcome


def _in_turn(plan: Plan, dataset: Dataset, left: Sequence[tuple[Table, str]], watch: Watch) -> Iterator[Outcome]:
    for table, method in left:
        yield one(plan, dataset, table, method, watch)


def _at_a_time(plan: Plan, left: Sequence[tuple[Table, str]], watch: Watch) -> Iterator[Outcome]:
    """Processes of one thread each: these methods gain more from it than from threads."""
    spawn = get_context("spawn")  # torch and BLAS have threads: a fork would copy their locks
    told = spawn.Queue()
    with ProcessPoolExecutor(plan.jobs, mp_context=spawn, initializer=_begin, initargs=(told, plan)) as pool:
        running = {pool.submit(_task, table, method) for table, method in left}
        try:
            while running:
                done, running = wait(running, POLL_S, FIRST_COMPLETED)
                _pass_on(told, watch)
                for future in done:
                    yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _pass_on(told: Any, watch: Watch) -> None:
    while True:
        try:
            watch(*told.get_nowait())
        except Empty:
            return


class _Here:
    """What a process of the pool was given."""

    told: Any = None
    plan: Plan
    dataset: Dataset


def _begin(told: Any, plan: Plan) -> None:
    _Here.told, _Here.plan, _Here.dataset = told, plan, plan.read()


def _task(table: Table, method: str) -> Outcome:
    last = 0.0

    def watch(stage: str, done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > POLL_S:
            last = time.monotonic()
            _Here.told.put((stage, done, total))

    return one(_Here.plan, _Here.dataset, table, method, watch)
