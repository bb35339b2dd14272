"""Figures of lists beyond the target's rank: against values worked out by hand, and against ranx where it is installed."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest

from engine.assess import Listed, assess, differences, line_of, read_lists
from engine.bootstrap import paired
from engine.dataset import Dataset, Row, read
from engine.errors import DatasetError
from engine.metrics import expected_calibration_error, intra_list_diversity
from engine.protocol import Ask, cases_of, operations, stream
from engine.ratings import OnlineBaseline, rating_errors
from tests.test_evaluate import made_up_vectors, write
from tests.test_protocol import row

ITEMS = [f"i{n}" for n in range(20)]


def small(folder: Path, lines: list[tuple[int, str, str]]) -> Dataset:
    """A data set of 20 items, all available from the start, and events (time in s, user, item)."""
    folder.mkdir()
    (folder / "META.json").write_text('{"name": "small"}')
    with gzip.open(folder / "items.tsv.gz", "wt") as file:
        file.write("item_id\ttitle\n" + "".join(f"{item}\tTitle\n" for item in ITEMS))
    with gzip.open(folder / "events.tsv.gz", "wt") as file:
        file.write("timestamp\tuser_id\titem_id\tevent_type\n" + "".join(f"{t}\t{user}\t{item}\tclick\n" for t, user, item in lines))
    return read(folder)


DAY = 86_400
LINES = [(0, "u", "i0"), (1, "v", "i0"), (2, "v", "i1"), (DAY, "u", "i1"), (DAY + 1, "u", "i2"), (DAY + 2, "u", "i0"), (2 * DAY, "v", "i2")]


def test_figures_of_a_session_by_hand(tmp_path: Path) -> None:
    """Rule: relevant is all that was new in the session; uses are those learned by then; candidates leave out one's own."""
    data = small(tmp_path / "d", LINES)
    cases, _ = cases_of(stream(data), "session")
    assert [case.id for case in cases] == ["session:3", "session:6"]
    first = Listed(("i1", "i9", "i2", *ITEMS[10:17]), (0.5, *[0.0] * 9))
    found = assess(data, "session", {"session:3": first}, vectors=np.eye(20, dtype=np.float32))
    assert found.missing == 1
    assert found.figures["cases"] == 2
    rank = first.items.index(data.items[cases[0].target].item_id)
    assert found.gains.tolist() == pytest.approx([1 / math.log2(rank + 2), 0.0])
    assert found.values["precision@10"].tolist() == pytest.approx([0.2, 0.0])  # i1 and i2 are new; i0 is not
    assert found.values["recall@10"].tolist() == [1.0, 0.0]
    assert found.values["F1@10"].tolist() == pytest.approx([2 * 0.2 / 1.2, 0.0])
    assert found.values["AUC"][0] == pytest.approx(1 - rank / 18)  # 20 items less i0
    assert found.values["AUC"][1] == pytest.approx(0.5)  # an empty list says nothing
    shares = [2 / 23, *[1 / 23] * 9]  # i1 was used once of three times, and each of the 20 counts once more
    assert found.values["novelty@10"][0] == pytest.approx(np.mean([-math.log2(share) for share in shares]))
    assert found.values["diversity@10"][0] == pytest.approx(1.0)
    assert math.isnan(found.values["novelty@10"][1])
    assert found.coverage == 0.5
    assert found.calibration == pytest.approx((0.5 + 1) / 10)  # i1: .5 said, taken; i2: nothing said, taken
    assert set(found.more) == {"precision@10", "recall@10", "F1@10", "AUC", "diversity@10", "novelty@10", "ECE"}


@pytest.mark.parametrize("table", ["next", "session"])
def test_with_repeats_more_is_asked_and_everything_may_be_listed(tmp_path: Path, table: str) -> None:
    """Rule: with repeats every step of a known user is a case, its target any item of it; without, only what is new."""
    events = stream(small(tmp_path / "d", LINES))
    asked = [step.case for step in operations(events, table, start=0.0, repeats=True) if isinstance(step, Ask)]  # type: ignore[arg-type]
    without = {step.case.id for step in operations(events, table, start=0.0) if isinstance(step, Ask)}  # type: ignore[arg-type]
    assert without <= {case.id for case in asked}
    if table == "next":
        assert ("next:5", 0) in [(case.id, case.target) for case in asked]  # u takes i0 again
        assert "next:5" not in without


def test_differences_are_over_the_same_cases(tmp_path: Path) -> None:
    """Rule: a list that is better by a known amount in every case is better by that much for certain; other cases are refused."""
    data = read(write(tmp_path / "data"))
    cases, unused = cases_of(stream(data), "next", 200)
    names = {case.id: data.items[case.target].item_id for case in cases}
    right = {case: Listed((name,)) for case, name in names.items()}
    third = {case: Listed(("x", "y", name)) for case, name in names.items()}
    one, other = (assess(data, "next", lists, wanted=200) for lists in (third, right))
    found = differences(one, other)
    assert found["all"].difference == pytest.approx(0.5)
    assert (found["all"].low, found["all"].high, found["all"].ratio_low) == pytest.approx((0.5, 0.5, 2.0))
    assert found["new_items"].cases == len(unused)
    assert len(one.along()) == 20
    with pytest.raises(ValueError, match="not the same"):
        differences(one, assess(data, "next", right, wanted=20))


def test_the_interval_holds_a_known_difference() -> None:
    """Rule: of many 95 % intervals about 95 % hold the difference that is there, where users differ and have many cases each."""
    rng = np.random.default_rng(4)
    inside = 0
    for _ in range(100):
        users = np.repeat([f"u{n}" for n in range(60)], 5)
        before = rng.random(300)
        after = before + 0.1 + np.repeat(rng.normal(0, 0.2, 60), 5) + rng.normal(0, 0.1, 300)
        inside += (found := paired(users.tolist(), before, after)).low <= 0.1 <= found.high
    assert 88 <= inside <= 99


def test_lists_come_back_from_their_file(tmp_path: Path) -> None:
    """Rule: what is written is read, packed or not; a line that is no list is named."""
    text = line_of("next:1", ["a", "b"], [0.5, 0.25]) + line_of("next:2", ["ü"])
    plain, packed = tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"
    plain.write_text(text, encoding="utf-8")
    with gzip.open(packed, "wt", encoding="utf-8") as file:
        file.write(text)
    expected = {"next:1": Listed(("a", "b"), (0.5, 0.25)), "next:2": Listed(("ü",))}
    assert read_lists(plain) == expected
    assert read_lists(packed) == expected
    plain.write_text(text + json.dumps(["no list"]) + "\n")
    with pytest.raises(DatasetError, match="line 3"):
        read_lists(plain)


def test_calibration_error() -> None:
    """Rule: chances that come true as often as they say have no error but chance's; those that say twice as much are off by that."""
    rng = np.random.default_rng(0)
    said = rng.random(20_000) * 0.2
    taken = rng.random(20_000) < said
    assert expected_calibration_error(said, taken) < 0.01
    assert expected_calibration_error(2 * said, taken) == pytest.approx(said.mean(), abs=0.01)


def test_diversity_is_the_mean_over_pairs() -> None:
    """Rule: the closed form equals the loop over pairs."""
    rows = np.random.default_rng(1).normal(size=(10, 6))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = [1 - float(rows[a] @ rows[b]) for a in range(10) for b in range(a)]
    assert intra_list_diversity(rows) == pytest.approx(np.mean(pairs))
    assert intra_list_diversity(rows.astype(np.float32)) == pytest.approx(np.mean(pairs), abs=1e-5)


def test_ratings_are_predicted_before_they_are_learned() -> None:
    """Rule: offsets are damped means; errors count after the first 30 %, and nothing later changes them."""
    model = OnlineBaseline(item_damping=1.0, user_damping=2.0)
    for user, item, rating in [("a", 0, 5.0), ("b", 0, 4.0), ("a", 1, 3.0)]:
        model.learn(user, item, rating)
    assert model.predict("z", 0) == pytest.approx(4.0 + (9 - 8) / 3)
    rng = np.random.default_rng(2)
    rows = [row(n, float(n), f"u{n % 7}", n % 11, rating=float(rng.integers(1, 6))) for n in range(200)]
    found = rating_errors(rows)
    assert found is not None
    assert found["ratings"] == 140
    changed = [*rows[:-1], Row(*rows[-1][:8], rating=1.0)]
    other = rating_errors(changed)
    assert other is not None
    assert abs(found["MAE"] - other["MAE"]) <= 4 / 140 + 1e-4
    assert rating_errors([row(0, 0.0, "u", 0)]) is None


@pytest.mark.filterwarnings("ignore")  # what numba says of ranx's code
def test_ranx_agrees(tmp_path: Path) -> None:
    """Rule: NDCG, HR, MRR, precision, recall and F1 are those of an independent implementation."""
    ranx = pytest.importorskip("ranx", reason="ranx is not installed")
    data = read(write(tmp_path / "data"))
    cases, _ = cases_of(stream(data), "next")
    names = {case.id: data.items[case.target].item_id for case in cases}
    rng = np.random.default_rng(0)
    lists = {case: Listed(tuple(rng.permutation([item.item_id for item in data.items])[:30].tolist())) for case in names}
    found = assess(data, "next", lists)
    run = ranx.Run({case: {item: 1.0 - n / 100 for n, item in enumerate(one.items)} for case, one in lists.items()})
    wanted = {"ndcg@10": "NDCG@10", "hit_rate@10": "HR@10", "mrr@10": "MRR@10", "precision@10": "", "recall@10": "", "f1@10": "F1@10"}
    theirs = ranx.evaluate(ranx.Qrels({case: {name: 1} for case, name in names.items()}), run, list(wanted))
    ours = {**found.figures, **found.more}
    for name, value in theirs.items():
        assert ours[wanted[name] or name] == pytest.approx(value, abs=1e-4)


def test_the_vectors_made_up_for_tests_are_unit_rows(tmp_path: Path) -> None:
    """Rule: diversity of real-looking lists lies in 0..2, and items without a vector do not spoil it."""
    data = read(write(tmp_path / "data"))
    cases, _ = cases_of(stream(data), "next", 50)
    lists = {case.id: Listed(tuple(item.item_id for item in data.items[:10])) for case in cases}
    found = assess(data, "next", lists, wanted=50, vectors=made_up_vectors(data))
    assert np.isfinite(found.values["diversity@10"]).all()
    assert 0.0 <= found.values["diversity@10"].min() <= found.values["diversity@10"].max() <= 2.0
