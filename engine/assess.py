"""All figures of the lists of one table, whoever made them: the protocol is gone through beside them. It makes no lists.

What a list is judged by, besides its target: in the table `session` everything new that the user took in that session is relevant to
precision, recall and F1; how much an item had been used is counted as it had been learned when the list was asked for.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.bootstrap import Difference, paired
from engine.dataset import Dataset
from engine.errors import DatasetError, shorten
from engine.figures import DEPTH, DIGITS, NEW_USER_EVENTS, Figures, coverage, gain, summary
from engine.metrics import Array, auc, expected_calibration_error, expected_rank, intra_list_diversity, novelty, precision_recall_f1
from engine.protocol import WANTED, Case, Learn, Table, open_items, operations, sessions, stream
from engine.space import Floats

MEANS = ("precision@10", "recall@10", "F1@10", "AUC", "diversity@10", "novelty@10")
"""Figures that are means over cases: of those that have one."""
POINTS = 20
"""Points of quality along the stream, of equally many cases each."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A list, best first, and per item the probability that the user takes it next, where whoever made it says so."""

    items: tuple[str, ...]
    scores: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Assessment:
    """Lists of one table, judged: by case (C,), in the stream's order.

    `places`: the case's place in the stream, as a share of its events; `ranks`: of the target from 0, None where it is not in the list;
    `gains`: NDCG@10; `values`: figure -> (C,), NaN where a case has none; `unused`: ids of cases whose target nobody had used.
    """

    cases: tuple[Case, ...]
    places: Array
    ranks: Mapping[str, int | None]
    gains: Array
    values: Mapping[str, Array]
    unused: frozenset[str]
    missing: int
    coverage: float
    calibration: float

    @property
    def users(self) -> list[str]:
        """Whose each case is."""
        return [case.user for case in self.cases]

    @property
    def figures(self) -> Figures:
        """As the protocol's scorer prints them."""
        return {**summary(self.cases, self.ranks, self.unused), "missing": self.missing, "coverage": self.coverage}

    @property
    def more(self) -> Figures:
        """The other figures; those that nothing is known of are left out."""
        means = {name: _mean(values) for name, values in self.values.items()}
        found = {**means, "ECE": self.calibration}
        return {name: round(value, DIGITS) for name, value in found.items() if np.isfinite(value)}

    def along(self, points: int = POINTS, ranks: Mapping[str, int | None] | None = None) -> list[Figures]:
        """Quality along the stream: NDCG@10 with its error, in parts of equally many cases; `at`: the middle, as a share of the stream.

        `ranks`: of the targets of the same cases in other lists, instead of these.
        """
        found = []
        for part in np.array_split(np.arange(len(self.cases)), min(points, len(self.cases)) or 1):
            if len(part):
                some = [self.cases[n] for n in part]
                figures = summary(some, self.ranks if ranks is None else ranks, ())
                at = round(float(self.places[part].mean()), DIGITS)
                found.append({"at": at, "cases": len(part), "NDCG@10": figures["NDCG@10"], "se": figures["se"]})
        return found


def _mean(values: Array) -> float:
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else float("nan")


def assess(
    dataset: Dataset,
    table: Table,
    lists: Mapping[str, Listed],
    *,
    wanted: int = WANTED,
    repeats: bool = False,
    vectors: Floats | None = None,
) -> Assessment:
    """Judge lists by case id; a case without one has an empty list.

    Args:
        dataset: the stream and the catalogue.
        table: which cases.
        lists: case id -> list; those of other cases are ignored.
        wanted: about how many cases were asked for.
        repeats: whether items that the user had before counted.
        vectors: (I, D) unit rows that diversity is measured with, zeros for an item without one; None: it is not measured.
    """
    events = stream(dataset)
    session_of = {step[0].row: step for step in sessions(events)} if table == "session" else {}
    available = np.array([-np.inf if since is None else since for since in dataset.available_from])
    used = np.zeros(len(dataset.items), bool)
    uses: Counter[int] = Counter()
    own: defaultdict[str, set[int]] = defaultdict(set)
    learned = 0
    cases: list[Case] = []
    places: list[float] = []
    ranks: dict[str, int | None] = {}
    values: dict[str, list[float]] = {name: [] for name in MEANS}
    unused: set[str] = set()
    said: list[tuple[float, bool]] = []
    shown: list[tuple[str, ...]] = []
    missing = 0
    for step in operations(events, table, wanted, repeats=repeats):
        if isinstance(step, Learn):
            for event in step.events:
                used[event.item] = True
                uses[event.item] += 1
                own[event.user].add(event.item)
            learned += len(step.events)
            continue
        case = step.case
        given = lists.get(case.id)
        missing += given is None
        given = given or Listed(())
        name = dataset.items[case.target].item_id
        rank = given.items.index(name) if name in given.items else None
        open_ = open_items(available, used, case.time)
        if not repeats:
            open_[list(own[case.user])] = False
        relevant = {name}
        if table == "session":
            rows = session_of[int(case.id.partition(":")[2])]
            relevant = {dataset.items[e.item].item_id for e in rows if repeats or e.item not in own[case.user]}
        first = [at for item in given.items[:DEPTH] if (at := dataset.index.get(item)) is not None]
        found = (
            *precision_recall_f1(given.items, relevant),
            _auc(rank, open_, case.target, len(given.items)),
            intra_list_diversity(vectors[first]) if vectors is not None else float("nan"),
            novelty([uses[at] for at in first], learned, len(dataset.items)),
        )
        for figure, value in zip(MEANS, found, strict=True):
            values[figure].append(value)
        said += [(score, item in relevant) for item, score in zip(given.items[:DEPTH], given.scores, strict=False)]
        cases.append(case)
        places.append(learned / len(events))
        ranks[case.id] = rank
        shown.append(given.items)
        if not used[case.target]:
            unused.add(case.id)
    return Assessment(
        tuple(cases),
        np.array(places),
        ranks,
        np.array([gain(ranks[case.id]) for case in cases]),
        {name: np.array(column) for name, column in values.items()},
        frozenset(unused),
        missing,
        coverage(shown, len(dataset.items)),
        expected_calibration_error(np.array([score for score, _ in said]), np.array([hit for _, hit in said], bool)),
    )


def differences(one: Assessment, other: Assessment) -> dict[str, Difference]:
    """NDCG@10 of `other` less that of `one` with intervals: over all cases, and over those of new users and of new items.

    Raises:
        ValueError: these are not the same cases.
    """
    if [case.id for case in one.cases] != [case.id for case in other.cases]:
        raise ValueError(f"found {len(one.cases)} and {len(other.cases)} cases that are not the same, expected one table of one data set")
    slices = {
        "all": np.ones(len(one.cases), bool),
        "new_users": np.array([case.earlier <= NEW_USER_EVENTS for case in one.cases], bool),
        "new_items": np.array([case.id in one.unused for case in one.cases], bool),
    }
    users = np.array(one.users, dtype=np.str_)
    return {name: paired(users[mask].tolist(), one.gains[mask], other.gains[mask]) for name, mask in slices.items()}


def _auc(rank: int | None, open_: NDArray[np.bool_], target: int, listed: int) -> float:
    """AUC of the target among what is open; one below the list is taken to stand anywhere there with equal chance."""
    candidates = int(open_.sum())
    if not open_[target]:
        return auc(None, candidates)
    return auc(expected_rank(min(listed, candidates - 1), candidates) if rank is None else rank, candidates)


def read_lists(path: Path) -> dict[str, Listed]:
    """Case id -> list, of a file of one JSON object a line, `.gz` or not: {"case": id, "items": [...], "scores": [...] if it has them}.

    Raises:
        DatasetError: a line is no such object.
        OSError: the file cannot be read.
    """
    found = {}
    for n, line in enumerate(_lines(path), 1):
        try:
            record = json.loads(line)
            found[str(record["case"])] = Listed(tuple(record["items"]), tuple(record.get("scores", ())))
        except (ValueError, KeyError, TypeError, AttributeError):
            expected = '{"case": ID, "items": [item_id, ...]}'
            raise DatasetError("bad_list", f"{path}, line {n}: {shorten(line)}", expected, "write one such object a line") from None
    return found


def _lines(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        yield from file


def line_of(case: str, items: Sequence[str], scores: Sequence[float] = ()) -> str:
    r"""One line of such a file.

    >>> line_of("next:7", ["a", "b"])
    '{"case": "next:7", "items": ["a", "b"]}\n'
    """
    record = {"case": case, "items": items, **({"scores": scores} if scores else {})}
    return json.dumps(record, ensure_ascii=False) + "\n"
