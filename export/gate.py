"""Whether a new generation may serve: test-then-train on events that neither was trained on, paired with the active one. It makes neither.

Both generations go through the same events with the functions that serve live (`engine.evaluate`), and are asked the same cases among the
held-out ones. Two kinds of lists are compared: from text alone, which is what was trained, and as they are served.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.bootstrap import paired
from engine.dataset import Dataset
from engine.evaluate import Answer, Evaluation
from engine.figures import DIGITS, gain
from engine.manifest import Compared, Gate
from engine.objective import Objective
from engine.ranker import Ranker
from engine.space import Floats
from engine.user import Limits

TEXT, LIST = "text", "list"
UNUSED = "_new_items"
"""Added to these: only cases on items that nobody had used. Told, not judged by: they are few."""
CASES = 3_000
"""Cases at most: with three thousand the interval of a difference is some ± .003 wide."""
FEWEST = 100
"""With fewer cases nothing is said about a generation, and it does not serve."""
FEWEST_USERS = 30
"""As with cases. The interval is drawn by user, and says too much with few: of candidates that are no better 48 % would pass with one user,
8 % with five, 4 % with ten, some 3 % with 30 to 100, where 2.5 % is meant (simulated: 600 draws of normal gains, users' own and cases')."""
ONE_IN = 10
"""No user has more than one in so many cases: where a few users have most of them, they are few users. Simulated with Zipf's law, of
candidates that are no better pass without it, with it, and with one in 30: 300 users and 3,000 cases 4.8, 3.1, 2.4 %; 100 and 300 6.0, 4.5,
3.8 % (800 draws: ± .7). One in 30 leaves 40 to 65 % as many cases as one in ten: on 12,000 events of ifdb-played too few for a verdict."""
MARGIN = 0.05
"""How much worse lists as served may be for all that is known, as a share of the active one's NDCG: their other signals are the same, so a
better text must not make them worse; that they are better is not asked for, since text may weigh little in them."""
Watch = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdict, and the weights that the candidate's lists begin with: learned on all of the events, with its own features."""

    gate: Gate
    ranker: Ranker


@dataclass(frozen=True, slots=True)
class _Run:
    """What one generation's lists gained on each case."""

    users: tuple[str, ...]
    gains: dict[str, NDArray[np.float64]]
    unused: NDArray[np.bool_]
    ranker: Ranker


def judge(
    dataset: Dataset,
    active: Floats,
    candidate: Floats,
    *,
    against: str,
    start_ms: int,
    ranker: Ranker | None,
    limits: Limits,
    watch: Watch,
    cases: int = CASES,
    objective: Objective | None = None,
) -> Judged:
    """Compare two generations of vectors.

    Args:
        dataset: the events of the cycle, those held out last, and the catalogue.
        active: (N, D) centred unit rows by item of the dataset, of the generation that serves.
        candidate: (N, D') the same of the new one.
        against: the active one's id.
        start_ms: from this time on events are held out.
        ranker: the weights to begin with, for both.
        limits: of users' rows.
        watch: told of progress.
        cases: cases at most.
        objective: how much examples count for the weights; None: all alike.
    """
    runs = []
    for name, vectors in (("active", active), ("candidate", candidate)):

        def told(done: int, total: int, name: str = name) -> None:
            watch(f"judge the {name}", done, total)

        runs.append(_run(dataset, vectors, start_ms, ranker, limits, objective or Objective(), told, cases))
    one, other = runs
    lists = {}
    counted = evenly(one.users)
    for kind in (TEXT, LIST):
        for name, which in ((kind, counted), (kind + UNUSED, counted[one.unused[counted]])):
            lists[name] = compared([one.users[at] for at in which], one.gains[kind][which], other.gains[kind][which])
    held_out = sum(row.time * 1000 >= start_ms for row in dataset.rows)
    reasons = reasons_against(lists)
    gate = Gate(not reasons, against, reasons, lists, len(dataset.rows), held_out)
    return Judged(gate, other.ranker)


def reasons_against(lists: dict[str, Compared]) -> tuple[str, ...]:
    """Why a generation may not serve; empty when it may.

    >>> sure = Compared(500, 0.1, 0.2, 0.08, 0.12, users=60)
    >>> reasons_against({"text": sure, "list": sure})
    ()
    >>> reasons_against({"text": Compared(500, 0.1, 0.1, -0.01, 0.01, users=60), "list": sure})
    ('lists from text alone are not better for certain: NDCG@10 .1000 -> .1000, difference -.0100 to .0100',)
    """
    text, served = lists[TEXT], lists[LIST]
    there = ((text.cases, FEWEST, "cases"), (text.users, FEWEST_USERS, "users"))
    if few := tuple(f"{count} {what} to compare on, {needed} needed" for count, needed, what in there if count < needed):
        return few
    found = []
    if not text.low > 0:  # a NaN fails too
        found.append(f"lists from text alone are not better for certain: {told(text)}")
    if not served.low >= -MARGIN * served.active:
        found.append(f"lists as served may be more than {MARGIN:.0%} worse: {told(served)}")
    return tuple(found)


def told(one: Compared) -> str:
    """A comparison in words.

    >>> told(Compared(500, 0.0523, 0.066, 0.0101, 0.0172))
    'NDCG@10 .0523 -> .0660, difference .0101 to .0172'
    """

    def short(value: float) -> str:
        return f"{value:.4f}".replace("0.", ".", 1)

    return f"NDCG@10 {short(one.active)} -> {short(one.candidate)}, difference {short(one.low)} to {short(one.high)}"


def evenly(users: Sequence[str]) -> NDArray[np.intp]:
    """Which cases count, given whose each is: of no user more than one in `ONE_IN` of them, drawn at random, the same each time.

    With fewer users all: nothing can be concluded then, and what is told is told of all.
    """
    _, own, counts = np.unique(np.array(users), return_inverse=True, return_counts=True)
    if len(counts) < FEWEST_USERS:
        return np.arange(len(own))
    most = max(n for n in range(1, counts.max() + 1) if n * ONE_IN <= np.minimum(counts, n).sum())
    left, kept = np.minimum(counts, most), []
    for case in np.random.default_rng(0).permutation(len(own)):
        if left[own[case]]:
            left[own[case]] -= 1
            kept.append(case)
    return np.sort(np.array(kept))


def compared(users: Sequence[str], active: NDArray[np.float64], candidate: NDArray[np.float64]) -> Compared:
    """Two generations' gains on the same cases, and the interval of their difference by a bootstrap over users (`engine.bootstrap`)."""
    found = paired(users, active, candidate)
    before, after, low, high = (round(value, DIGITS) for value in (found.one, found.other, found.low, found.high))
    return Compared(found.cases, before, after, low, high, found.users)


def _run(
    dataset: Dataset,
    vectors: Floats,
    start_ms: int,
    ranker: Ranker | None,
    limits: Limits,
    objective: Objective,
    told: Callable[[int, int], None],
    cases: int,
) -> _Run:
    run = Evaluation(dataset, vectors, limits, objective=objective)
    if ranker is not None:
        run.model.ranker = deepcopy(ranker)
    answers = list(run.answers("next", cases, told, start_ms / 1000))
    gains = {
        TEXT: np.array([gain(answer.ranks["text"]) for answer in answers]),
        LIST: np.array([gain(_place(answer, dataset)) for answer in answers]),
    }
    unused = np.array([answer.unused for answer in answers], bool)
    return _Run(tuple(answer.case.user for answer in answers), gains, unused, run.model.ranker)


def _place(answer: Answer, dataset: Dataset) -> int | None:
    wanted = dataset.items[answer.case.target].item_id
    return answer.items.index(wanted) if wanted in answer.items else None
