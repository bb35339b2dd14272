"""Baselines: closed forms, no look ahead, what is new is used, and the command from a data set to its report. Not how good they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from implicit.nearest_neighbours import BM25Recommender, TFIDFRecommender
from numpy.typing import NDArray
from optuna.trial import FixedTrial
from typer.testing import CliRunner

from engine.assess import Listed, line_of
from engine.dataset import Dataset, read
from engine.errors import BadSettings, DatasetError
from engine.protocol import TABLES, Ask, Learn, Table, stream
from export.baselines import METHODS, Asked, Baseline, Context, Log, Past, Weighting
from export.baselines.course import Course, best, quality, run
from export.baselines.ease import solve
from export.baselines.itemknn import ItemKNN
from export.baselines.log import DAY_S
from export.baselines.popularity import Popularity
from export.baselines.rows import cooccurrence, interactions
from export.baselines.sasrec import SASRec, sequences
from export.baselines.tuning import course_for, tune
from export.compare import Kept, Plan, compare, fingerprint
from export.compare_cli import main
from streams.cli import app
from tests.test_evaluate import write

QUICK: dict[str, dict[str, Any]] = {
    "popularity": {"half_life_d": 30.0},
    "item-kNN": {"unit": "history", "neighbours": 20, "proximity": 0.8},
    "ALS": {"factors": 8, "iterations": 3},
    "BPR": {"factors": 8, "iterations": 10, "steps": 3},
    "EASE": {"l2": 20.0, "dropout": 0.2},
    "SASRec": {"width": 8, "length": 10, "layers": 1, "heads": 1, "epochs": 4.0, "start": "history"},
}


def made(name: str, **more: Any) -> Baseline:
    """A small one of its kind."""
    return METHODS[name].make({**QUICK[name], **more}, Context("next", 100.0))


def times(events: int, apart_s: int) -> NDArray[np.float64]:
    """One event after the other."""
    return (np.arange(events) * apart_s).astype(np.float64)


def made_log(events: int = 400, users: int = 30, items: int = 20) -> Log:
    """A log at random, an event an hour, sessions of four."""
    rng = np.random.default_rng(0)
    of = np.sort(rng.integers(0, users, events))
    return Log(of, rng.integers(0, items, events), np.arange(events) // 4, times(events, 3600), items)


def silent(stage: str, done: int, total: int) -> None:
    """Watch nothing."""


def test_ease_is_its_closed_form() -> None:
    """Rule: the weights are those of the paper: the inverse by another way, and no item that is left out of its own row does better."""
    rng = np.random.default_rng(1)
    x = (rng.random((60, 12)) < 0.3).astype(np.float64)
    gram = x.T @ x
    inverse = np.linalg.inv(gram + 7.0 * np.eye(12))
    expected = np.eye(12) - inverse / np.diag(inverse)
    found = solve(gram.astype(np.float32), 7.0)
    assert found == pytest.approx(expected, abs=1e-4)
    assert np.diag(found).tolist() == [0.0] * 12

    def loss(weights: Any) -> float:
        return float(((x - x @ weights) ** 2).sum() + 7.0 * (weights**2).sum())

    for _ in range(5):
        other = expected + rng.normal(0, 0.01, expected.shape)
        np.fill_diagonal(other, 0)
        assert loss(expected) < loss(other)


def test_dropout_regularises_by_use() -> None:
    """Rule: EDLAE's share p adds p / (1 - p) times an item's uses to its own regularisation."""
    rng = np.random.default_rng(2)
    x = (rng.random((50, 8)) < 0.4).astype(np.float64)
    gram = x.T @ x
    inverse = np.linalg.inv(gram + np.diag(1.0 + 0.25 / 0.75 * np.diag(gram)))
    expected = np.eye(8) - inverse / np.diag(inverse)
    assert solve(gram.astype(np.float32), 1.0, 0.25) == pytest.approx(expected, abs=1e-4)


def test_cooccurrence_counts_pairs() -> None:
    """Rule: by row each pair counts once; with proximity a pair counts by how far apart its events are, whichever is first."""
    log = Log(np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 0, 2]), np.array([0, 0, 1, 2, 2]), np.arange(5.0), 3)
    assert cooccurrence(log, "history").toarray().tolist() == [[2, 1, 2], [1, 1, 1], [2, 1, 2]]
    assert cooccurrence(log, "session").toarray().tolist() == [[2, 1, 1], [1, 1, 0], [1, 0, 2]]
    near = cooccurrence(log, "history", proximity=0.5).toarray()
    assert near == pytest.approx(np.array([[2, 0.5, 0.75], [0.5, 1, 0.5], [0.75, 0.5, 2]]))


def test_old_events_count_less() -> None:
    """Rule: an event a half-life before the newest one counts half, in rows and in pairs of events of that age."""
    log = Log(np.array([0, 0, 1]), np.array([0, 1, 2]), np.array([0, 0, 1]), np.array([0.0, 0.0, 10 * DAY_S]), 3)
    assert sorted(interactions(log, "history", 10.0).data.tolist()) == [0.5, 0.5, 1.0]
    assert cooccurrence(log, "history", 10.0).toarray()[0].tolist() == pytest.approx([0.5, 0.5, 0.0])
    assert cooccurrence(log, "history", 10.0, 0.9).toarray()[0].tolist() == pytest.approx([0.5, 0.45, 0.0])


@pytest.mark.parametrize("similarity", ["bm25", "tfidf"])
@pytest.mark.filterwarnings("ignore:Method expects CSR")  # implicit's own recommenders hand on another format than they ask for
def test_item_knn_has_the_similarities_of_implicit(similarity: Any) -> None:
    """Rule: what is said to be implicit's is that package's."""
    log = made_log()
    ours = ItemKNN(similarity=similarity, neighbours=20, k1=100, b=0.5)
    ours.fit(log)
    theirs = BM25Recommender(K=21, K1=100, B=0.5, num_threads=1) if similarity == "bm25" else TFIDFRecommender(K=21, num_threads=1)
    theirs.fit(sp.csr_matrix(interactions(log, "history")), show_progress=False)
    expected = theirs.similarity.toarray()
    np.fill_diagonal(expected, 0)
    assert ours.similar.toarray() == pytest.approx(expected, abs=1e-6)


def test_a_history_is_weighted_newest_first() -> None:
    """Rule: recency counts steps back, sessions before the latest count less, an item used twice counts by its newest use."""
    asked = Asked.of([[Past(1, 0, 0.0), Past(2, 0, 1.0), Past(1, 1, 2.0)], [Past(3, 5, 0.0)]], [9.0, 9.0])
    weights = asked.weights(Weighting(depth=3, recency=0.5, older=0.1), 4).toarray()
    assert weights == pytest.approx(np.array([[0, 1, 0.05, 0], [0, 0, 0, 1]]))


@pytest.mark.parametrize("target", ["item", "session"])
def test_sasrec_is_trained_for_what_is_asked(target: Any) -> None:
    """Rule: the target after an event is the next item, or any of the next session, new to the user and of the same user; and when it is
    asked for is when it happened.
    """
    log = made_log(200, 12, 15)
    found = sequences(log, target, np.random.default_rng(0), repeats=False, half_life_d=None)
    assert (found.low < found.high).sum() > 50
    order = np.lexsort((log.times, log.sessions, log.users))  # no two events of one user and time here
    assert found.items.tolist() == log.items[order].tolist()
    for at in range(200):
        later = _followers(log, order, at, target)
        known = set(log.items[order][: at + 1][log.users[order][: at + 1] == log.users[order][at]].tolist())
        if target == "session":
            session = (log.sessions[order] == log.sessions[order][at]) & (log.users[order] == log.users[order][at])
            known |= set(log.items[order][session].tolist())
        expected = [int(log.items[order][n]) for n in later]
        fresh = [item for n, item in enumerate(expected) if item not in known and item not in expected[:n]]
        assert found.pool[found.low[at] : found.high[at]].tolist() == fresh
        if later:
            assert found.asked[at] == log.times[order][later[0]]


def _followers(log: Log, order: Any, at: int, target: str) -> list[int]:
    users, sessions = log.users[order], log.sessions[order]
    if target == "item":
        return [at + 1] if at + 1 < len(order) and users[at + 1] == users[at] else []
    later = [n for n in range(at + 1, len(order)) if users[n] == users[at] and sessions[n] != sessions[at]]
    return [n for n in later if sessions[n] == sessions[later[0]]] if later else []


def test_sasrec_learns_a_sequence() -> None:
    """Rule: where the next item follows from the last one, it is learned, and a place attends to nothing that comes later."""
    rng = np.random.default_rng(0)
    starts = rng.integers(0, 12, 80)
    items = ((starts[:, None] + np.arange(6)) % 12).ravel()
    log = Log(np.repeat(np.arange(80), 6), items, np.repeat(np.arange(80), 6), times(480, 60), 12)
    model = SASRec(width=16, length=6, layers=1, heads=1, dropout=0.1, learning_rate=1e-2, epochs=40.0, batch=100)
    model.fit(log)
    asked = Asked.of([[Past((n + k) % 12, 0, 60.0 * k) for k in range(3)] for n in range(12)], [180.0] * 12)
    assert model.scores(asked).argmax(1).tolist() == [(n + 3) % 12 for n in range(12)]
    assert model.network is not None
    ages = np.zeros((1, 4, 4), np.int64)
    one, other = (model.network(torch.tensor([[1, 2, 3, last]]), torch.from_numpy(ages)) for last in (4, 9))
    assert torch.equal(one[0, :3], other[0, :3])
    assert not torch.equal(one[0, 3], other[0, 3])


def test_equal_scores_are_ordered_by_popularity_and_unknown_items_left_out() -> None:
    """Rule: lists hold what is open and known, by score, and by popularity where scores are equal."""
    scores = np.array([[3.0, 0.0, 0.0, -np.inf, np.nan, 9.0]], np.float32)
    open_ = np.array([[True, True, True, True, True, False]])
    found = list(best(scores, open_, np.array([0.0, 0.2, 0.9, 1.0, 1.0, 1.0], np.float32), 10))
    assert [row.tolist() for row in found] == [[0, 2, 1]]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name", METHODS)
def test_nothing_looks_ahead(tmp_path: Path, name: str, table: Table) -> None:
    """Rule: whatever happens later, to whomever, the lists before are the same; and so twice over."""
    data = read(write(tmp_path / "data"))
    rows = stream(data)
    cut = rows[int(0.6 * len(rows))].time
    later = [n for n, row in enumerate(data.rows) if row.time > cut]
    order = np.random.default_rng(8).permutation(len(later))
    changed = list(data.rows)
    for n, other in zip(later, (later[at] for at in order), strict=True):
        source = data.rows[other]
        changed[n] = data.rows[n]._replace(item=source.item, item_id=source.item_id, user=source.user, session=source.session)
    courses = [Course.of(one, table, wanted=10**9) for one in (data, replace(data, rows=tuple(changed)))]
    lists = [run(made(name), course).lists for course in courses]
    before = [case.id for case in courses[0].cases if case.time < cut and case.id in lists[1]]
    assert len(before) > 40
    assert all(lists[0][case].tolist() == lists[1][case].tolist() for case in before)


@pytest.mark.parametrize("name", METHODS)
def test_lists_follow_the_rules(tmp_path: Path, name: str) -> None:
    """Rule: no list has an item that is not open or that the user had before, none twice; with repeats the user's own may stand in it."""
    data = read(write(tmp_path / "data"))
    for repeats in (False, True):
        course = Course.of(data, "next", wanted=200, repeats=repeats)
        ran = run(made(name), course)
        own: dict[str, set[int]] = {}
        again = 0
        for step in course.steps:
            if isinstance(step, Learn):
                for event in step.events:
                    own.setdefault(event.user, set()).add(event.item)
            else:
                listed = ran.lists[step.case.id].tolist()
                again += bool(own[step.case.user] & set(listed))
                used = set().union(*own.values())
                assert len(set(listed)) == len(listed) > 0
                assert all(at in used for at in listed), "a baseline knows only what was used"
        assert (again > 0) is repeats


@pytest.mark.parametrize("name", [name for name in METHODS if name != "popularity"])
def test_a_list_fits_the_newest_history(name: str) -> None:
    """Rule: users who came after the last fit get lists of their own, from their history alone."""
    rng = np.random.default_rng(3)
    kinds = rng.integers(0, 2, 120)
    items = np.array([rng.choice(10, 5, replace=False) + 10 * kind for kind in kinds]).ravel()
    log = Log(np.repeat(np.arange(120), 5), items, np.repeat(np.arange(120), 5), times(600, 60), 20)
    model = made(name, epochs=30.0) if name == "SASRec" else made(name)
    model.fit(log)
    asked = Asked.of([[Past(3, 0, 0.0), Past(4, 0, 1.0)], [Past(13, 0, 0.0), Past(14, 0, 1.0)]], [2.0, 2.0])
    scores = model.scores(asked)
    scores[0, [3, 4]] = scores[1, [13, 14]] = np.nan
    assert np.nanmean(scores[0, :10]) > np.nanmean(scores[0, 10:])
    assert np.nanmean(scores[1, :10]) < np.nanmean(scores[1, 10:])


def test_tuning_sees_the_first_part_only_and_finds_what_is_better(tmp_path: Path) -> None:
    """Rule: the events for tuning are the first 30 %; of what is tried the best is taken; the same seed finds the same."""
    data = read(write(tmp_path / "data"))
    rows = stream(data)
    course = course_for(data, "session")
    assert len(course.events) == int(0.3 * len(rows))
    assert max(e.time for s in course.steps if isinstance(s, Learn) for e in s.events) <= rows[int(0.3 * len(rows))].time
    context = Context("session", 20.0)
    told: list[tuple[int, int]] = []
    found = tune(METHODS["item-kNN"], context, course, 3, lambda done, total: told.append((done, total)))
    assert told[-1] == (12, 12)
    again = tune(METHODS["item-kNN"], context, course, 3)
    assert (again.params, again.quality) == (found.params, found.quality)
    for first in METHODS["item-kNN"].first:
        params = METHODS["item-kNN"].suggest(FixedTrial(dict(first)), context)
        assert quality(course, run(METHODS["item-kNN"].make(params, context), course)) <= found.quality


@pytest.mark.parametrize("name", METHODS)
def test_what_is_tried_first_can_be_made(name: str) -> None:
    """Rule: each method's first parameters are complete, for both tables."""
    for table in TABLES:
        context = Context(table, 50.0)
        for first in METHODS[name].first:
            model = METHODS[name].make(METHODS[name].suggest(FixedTrial(dict(first)), context), context)
            model.fit(made_log(40)) if name != "SASRec" else None


def little(tmp_path: Path, **more: Any) -> tuple[Plan, Dataset]:
    """A plan that takes seconds."""
    plan = Plan(write(tmp_path / "data"), methods=("popularity", "EASE"), wanted=100, trials=1, **more)
    return plan, plan.read()


def test_the_command_compares_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rule: figures are those of the protocol; differences are ours less theirs; what was kept is not made again; reports are whole."""
    plan, data = little(tmp_path)
    ours: dict[str, Listed] = {}
    for table in plan.tables:
        for step in Course.of(data, table, wanted=plan.wanted).steps:
            if isinstance(step, Ask):
                ours[step.case.id] = Listed((data.items[step.case.target].item_id,))
    told = []
    for _ in range(2):
        main(
            plan,
            data,
            ours=ours,
            seconds={},
            vectors=None,
            source="a crystal ball",
            json_file=tmp_path / "found.json",
            report=tmp_path / "found.md",
            kept=tmp_path / "kept",
        )
        told.append(json.loads((tmp_path / "found.json").read_text()))
        err = capsys.readouterr().err
    assert "tune" not in err
    assert told[0]["tables"] == told[1]["tables"]
    for table in TABLES:
        found = told[0]["tables"][table]
        assert found["ours"]["list"]["NDCG@10"] == 1.0
        for one in found["baselines"].values():
            assert one["difference"]["all"]["difference"] == pytest.approx(1 - one["list"]["NDCG@10"], abs=1e-3)
            assert one["difference"]["all"]["low"] > 0
    text = (tmp_path / "found.md").read_text(encoding="utf-8")
    assert "a crystal ball" in text
    assert "| EASE |" in text
    assert (tmp_path / "found.png").stat().st_size > 10_000


def test_from_the_command_line(tmp_path: Path) -> None:
    """Rule: a folder and the names of methods are enough; our lists may come from a file; a table that is not there is refused."""
    folder, lists, figures = write(tmp_path / "data"), tmp_path / "ours.jsonl", tmp_path / "found.json"
    course = Course.of(read(folder), "next", wanted=50)
    lists.write_text("".join(line_of(case.id, ["i1"]) for case in course.cases))
    given = ["compare", str(folder), "--method", "popularity", "--table", "next", "--evaluate", "50", "--trials", "1", "--jobs", "1"]
    runner = CliRunner()
    for more, ours in ((["--alone"], False), (["--ours", str(lists)], True)):
        done = runner.invoke(app, [*given, *more, "--json", str(figures)], catch_exceptions=False)
        assert done.exit_code == 0
        found = json.loads(figures.read_text())["tables"]
        assert list(found) == ["next"]
        assert list(found["next"]["baselines"]) == ["popularity"]
        assert (found["next"]["ours"] is not None) is ours
    with pytest.raises(BadSettings, match="table"):
        runner.invoke(app, [*given, "--table", "nowhere"], catch_exceptions=False)


def test_what_was_kept_under_other_settings_is_made_anew(tmp_path: Path) -> None:
    """Rule: lists are taken from a folder only if events, cases, trials and seed were the same."""
    plan, data = little(tmp_path)
    kept = Kept(tmp_path / "kept", fingerprint(data, plan))
    outcomes = {(o.table, o.method): o for o in compare(plan, data, kept, silent)}
    assert len(outcomes) == 4
    again = kept.load("next", "EASE")
    assert again is not None
    assert again.lists == outcomes["next", "EASE"].lists
    assert dict(again.tuned.params) == dict(outcomes["next", "EASE"].tuned.params)
    assert Kept(tmp_path / "kept", fingerprint(data, replace(plan, seed=1))).load("next", "EASE") is None
    fewer = replace(data, rows=data.rows[:-1])
    assert Kept(tmp_path / "kept", fingerprint(fewer, plan)).load("next", "EASE") is None


def test_several_at_a_time_find_the_same(tmp_path: Path) -> None:
    """Rule: processes of their own change nothing but the time."""
    plan, data = little(tmp_path, tables=("next",))
    alone = {o.method: o.lists for o in compare(plan, data, None, silent)}
    stages: list[str] = []
    together = {o.method: o.lists for o in compare(replace(plan, jobs=2), data, None, lambda stage, *_: stages.append(stage))}
    assert together == alone
    assert stages


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    """Rule: a method that is not there, and lists of other cases, are refused before anything is fitted."""
    plan, data = little(tmp_path)
    given: dict[str, Any] = {"seconds": {}, "vectors": None, "source": "", "json_file": None, "report": None, "kept": None}
    with pytest.raises(BadSettings, match="nonsense"):
        main(replace(plan, methods=("nonsense",)), data, ours=None, **given)
    with pytest.raises(DatasetError, match="without a list"):
        main(plan, data, ours={"next:1": Listed(("i1",))}, **given)


def test_popularity_forgets() -> None:
    """Rule: with a half-life a few uses of today outweigh many of long ago; without one they do not."""
    log = Log(np.arange(13), np.array([0] * 10 + [1] * 3), np.arange(13), np.array([0.0] * 10 + [100 * DAY_S] * 3), 3)
    asked = Asked.of([[Past(2, 0, 0.0)]], [0.0])
    for half_life, expected in ((None, 0), (10.0, 1)):
        model = Popularity(half_life)
        model.fit(log)
        assert model.scores(asked)[0].argmax() == expected
        assert model.scores(asked)[0, 2] == -np.inf
