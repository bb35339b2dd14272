"""Evaluation: no look ahead, pure, figures as the protocol scores them. Not the quality of the lists."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.dataset import Dataset, read
from engine.errors import BadSettings
from engine.evaluate import CHANNELS, Answer, Evaluation, figures_of
from engine.generation import Generation
from engine.learning import Delay, Delays
from engine.objective import Objective
from engine.protocol import TABLES, Table, stream
from engine.ranker import Ranker
from engine.registry import Registry
from engine.space import Floats
from engine.vectors import catalogue_vectors
from streams.evaluation import main
from tests import tiny_bert

SCORER = Path(__file__).resolve().parent.parent.parent / "shared" / "tools" / "protocol.py"
ITEMS, USERS, EVENTS = 60, 25, 900
DIMS = 8
ALL = 10**9


def write(folder: Path, *, until: float = np.inf, ids: bool = False) -> Path:
    """A data set of people who like one of three kinds, with ties, repeats, low ratings and items to come; cut after `until` (s)."""
    rng = np.random.default_rng(5)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "META.json").write_text(json.dumps({"name": "made-up", "available_from": "published"}))
    with gzip.open(folder / "items.tsv.gz", "wt") as file:
        file.write("item_id\ttitle\tauthor\ttags\tpublished\n")
        for n in range(ITEMS):
            file.write(f"i{n}\tNumber {n}\tAuthor {n % 7}\tkind{n % 3}, tag{n % 5}\t{1990 + n if n % 2 else ''}\n")
    with gzip.open(folder / "events.tsv.gz", "wt") as file:
        file.write("timestamp\tuser_id\titem_id\tevent_type\trating\tsession_id\n")
        time = 0.0
        for n in range(EVENTS):
            time += float(rng.choice([0, 60, 900, 40_000]))
            user = int(rng.integers(USERS))
            item = (3 * int(rng.integers(ITEMS // 3)) + user % 3) % ITEMS
            session = f"s{user}-{n // 90}" if ids else ""
            if time <= until:
                file.write(f"{1.2e9 + time:.0f}\tu{user}\ti{item}\trating\t{rng.choice([2.0, 4.0, 5.0])}\t{session}\n")
    return folder


def made_up_vectors(dataset: Dataset) -> Floats:
    """(I, 8) unit rows; every ninth item has none."""
    vectors = np.random.default_rng(3).normal(size=(len(dataset.items), DIMS))
    vectors[::9] = 0.0
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0), np.float32)


def answered(folder: Path, table: Table, wanted: int = ALL) -> dict[str, Answer]:
    """Case id -> what was listed."""
    dataset = read(folder)
    return {a.case.id: a for a in Evaluation(dataset, made_up_vectors(dataset)).answers(table, wanted)}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("share", [0.4, 0.6, 0.85])
def test_lists_of_a_stream_cut_short_are_those_of_the_whole(tmp_path: Path, table: Table, share: float) -> None:
    """Rule: nothing looks ahead: up to the cut, lists, candidates and sampling are the same as on the whole stream."""
    whole = answered(write(tmp_path / "whole"), table)
    times = sorted(a.case.time for a in whole.values())
    end = times[int(share * (len(times) - 1))]
    cut = answered(write(tmp_path / "cut", until=end - 1.2e9), table)
    both = [case for case in cut if case in whole]
    assert len(both) > 20
    assert [cut[case].items for case in both] == [whole[case].items for case in both]


@pytest.mark.parametrize("table", TABLES)
def test_which_cases_are_asked_changes_no_list(tmp_path: Path, table: Table) -> None:
    """Rule: asking teaches nothing: the lists of a few cases are those of all cases."""
    folder = write(tmp_path / "data")
    every, few = answered(folder, table), answered(folder, table, 40)
    assert 0 < len(few) < len(every)
    assert all(answer == every[case] for case, answer in few.items())


@pytest.mark.parametrize("table", TABLES)
def test_lists_are_whole_and_never_have_what_was_seen(tmp_path: Path, table: Table) -> None:
    """Rule: a list has no repeats, nothing the user had before, nothing unreleased and unused, and as much as may be listed."""
    dataset = read(write(tmp_path / "data", ids=True))
    run = Evaluation(dataset, made_up_vectors(dataset))
    for answer in run.answers(table, ALL):
        seen = run.users[answer.case.user].seen
        listed = [dataset.index[name] for name in answer.items]
        assert len(set(listed)) == len(listed)
        assert not {run.keys[at] for at in listed} & set(seen)
        for at in listed:
            since = dataset.available_from[at]
            assert since is None or since <= answer.case.time or run.rows[at].count
        assert set(answer.ranks) == {*CHANNELS, "random"}


def test_a_better_list_than_chance(tmp_path: Path) -> None:
    """Rule: where people follow their kind, lists do better than the same candidates by chance, after a few hundred events."""
    dataset = read(write(tmp_path / "data"))
    found = figures_of(dataset, list(Evaluation(dataset, made_up_vectors(dataset)).answers("next")))
    assert found.list["NDCG@10"] > 1.3 * found.random["NDCG@10"]
    assert found.list["missing"] == 0


def test_an_objective_of_ones_changes_nothing(tmp_path: Path) -> None:
    """Rule: weights of 1 give the lists of no weights, bit for bit; what counts nothing teaches nothing."""
    dataset = read(write(tmp_path / "data"))
    found = []
    for objective in (Objective(), Objective({"rating": 1.0}), Objective({"rating": 0.0})):
        run = Evaluation(dataset, made_up_vectors(dataset), objective=objective)
        found.append((list(run.answers("next", 100)), run.learned, run.model.ranker.version))
    assert found[0] == found[1]
    assert found[0][1] > 0
    assert found[2][1:] == (0, 0)


def test_lists_follow_the_objective(tmp_path: Path) -> None:
    """Rule: where few things are bought and many looked at, a large weight of purchases brings what is bought into lists."""
    folder, rng = write(tmp_path / "data"), np.random.default_rng(6)
    with gzip.open(folder / "events.tsv.gz", "wt") as file:
        file.write("timestamp\tuser_id\titem_id\tevent_type\n")
        for n in range(1_500):
            bought = rng.random() < 0.25
            item = int(rng.integers(ITEMS // 2)) + bought * ITEMS // 2
            file.write(f"{1.2e9 + 4_000 * n}\tu{rng.integers(150)}\ti{item}\t{'purchase' if bought else 'view'}\n")
    dataset = read(folder)
    shares = []
    for weight in (1.0, 30.0):
        run = Evaluation(dataset, made_up_vectors(dataset), objective=Objective({"purchase": weight}))
        first = [dataset.index[item] for answer in run.answers("next", 200) for item in answer.items[:10]]
        shares.append(np.mean(np.array(first) >= ITEMS // 2))
    assert shares[1] > shares[0] + 0.2, shares


def later(folder: Path, table: Table, delay: Delay) -> Evaluation:
    """A run over all, its lists made."""
    dataset = read(folder)
    run = Evaluation(dataset, made_up_vectors(dataset), delays=Delays(delay, delay))
    for _ in run.answers(table, ALL):
        pass
    return run


@pytest.mark.parametrize("table", TABLES)
def test_without_delay_lists_know_all(tmp_path: Path, table: Table) -> None:
    """Rule: no delay, in events or in time, leaves every list as it is."""
    dataset = read(write(tmp_path / "data"))
    vectors = made_up_vectors(dataset)
    plain, none = Evaluation(dataset, vectors), Evaluation(dataset, vectors, delays=Delays(Delay(0, 0.0), Delay(0, 0.0)))
    assert list(plain.answers(table, ALL)) == list(none.answers(table, ALL))
    assert plain.learned == none.learned > 0


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("delay", [Delay(events=np.inf), Delay(seconds=np.inf)])
def test_with_an_endless_delay_nothing_is_learned_from_others(tmp_path: Path, table: Table, delay: Delay) -> None:
    """Rule: without end, items stay uncounted, without neighbours, and weights what they were; the user's own row is what it always is."""
    folder = write(tmp_path / "data")
    fresh, run, usual = Ranker(), later(folder, table, delay), later(folder, table, Delay())
    assert not run.learned
    assert run.model.ranker.common.tolist() == fresh.common.tolist()
    assert not any(row.count for row in run.rows)
    assert not run.model.stats.count.any()
    assert run.users == usual.users


def test_a_users_own_events_are_known_at_once(tmp_path: Path) -> None:
    """Rule: however late others are, what the user just took is not listed again, and is what the list goes by."""
    dataset = read(write(tmp_path / "data"))
    run = Evaluation(dataset, made_up_vectors(dataset), delays=Delays(Delay(events=np.inf), Delay(events=np.inf)))
    answers = {a.case.id: a for a in run.answers("next", ALL)}
    seen: dict[str, set[str]] = {}
    for row in stream(dataset):
        if (answer := answers.get(f"next:{row.row}")) is not None:
            assert not seen[row.user] & set(answer.items)
        seen.setdefault(row.user, set()).add(row.item_id)
    lists = {a.items[:10] for a in answers.values()}
    assert len(lists) > len(answers) / 2, "nothing of others is known, and still lists are personal"


@pytest.mark.parametrize("delay", [Delay(events=40), Delay(seconds=400_000.0)])
def test_a_delay_is_what_it_says(tmp_path: Path, delay: Delay) -> None:
    """Rule: when a list is asked for, counted are exactly the events that are old enough."""
    dataset = read(write(tmp_path / "data"))
    rows = stream(dataset)
    run = Evaluation(dataset, made_up_vectors(dataset), delays=Delays(delay, Delay(events=7)))
    for answer in run.answers("next", ALL):
        before = rows[: run.events]
        old = [n for n, row in enumerate(before, 1) if delay.over(run.events - n, answer.case.time - row.time)]
        assert run.model.stats.count.sum() == len(old)
        assert len(run.unlearned) == 7


@pytest.mark.parametrize("table", TABLES)
def test_which_cases_are_asked_changes_no_late_list(tmp_path: Path, table: Table) -> None:
    """Rule: asking teaches nothing with a delay either, and nothing looks ahead of it."""
    dataset = read(write(tmp_path / "data"))
    late = Delays(Delay(30, 90_000.0), Delay(events=60))
    every, few = (
        {a.case.id: a for a in Evaluation(dataset, made_up_vectors(dataset), delays=late).answers(table, wanted)} for wanted in (ALL, 40)
    )
    assert 0 < len(few) < len(every)
    assert all(answer == every[case] for case, answer in few.items())


def test_now_is_the_newest_events_time_as_in_a_worker(tmp_path: Path) -> None:
    """Rule: `as_live` asks at the time of the event before the case."""
    dataset = read(write(tmp_path / "data"))
    rows, run = stream(dataset), Evaluation(dataset, made_up_vectors(dataset), as_live=True)
    for _ in run.answers("next", 40):
        assert run.newest == rows[run.events - 1].time


@pytest.mark.parametrize("text", ["", "-1", "5 minutes", "nan", "events", "1,2,3", "1,"])
def test_what_is_no_delay_is_refused(text: str) -> None:
    """Rule: a delay is a number of seconds or of events, or two with a comma."""
    with pytest.raises(BadSettings, match="learning-delay"):
        Delays.of(text)


def test_the_command_writes_what_the_protocol_scores(tmp_path: Path) -> None:
    """Rule: figures of the JSON file are those that the protocol gives the file of lists; both tables stand in one file."""
    folder, registry = write(tmp_path / "data"), tmp_path / "registry"
    Registry(str(registry)).publish(tiny_bert.write_generation(tmp_path / "draft"))
    lists, figures = tmp_path / "lists.jsonl", tmp_path / "figures.json"
    main(folder, registry=str(registry), cache=tmp_path / "cache", wanted=60, predictions=lists, json_file=figures)
    found = json.loads(figures.read_text())
    assert set(found["tables"]) == set(TABLES)
    assert found["items"] == ITEMS
    assert {"text", "popularity", "together"} <= set(found["tables"]["next"]["channels"])
    cases = [json.loads(line) for line in lists.read_text().splitlines()]
    assert {case["case"].split(":")[0] for case in cases} == set(TABLES)
    if not SCORER.exists():
        pytest.skip("no reference scorer beside the project")
    done = subprocess.run(
        [sys.executable, str(SCORER), "score", str(folder), str(lists), "--evaluate", "60"], check=True, capture_output=True, text=True
    )
    assert json.loads(done.stdout) == {table: found["tables"][table]["list"] for table in TABLES}


def test_vectors_of_another_catalogue_have_its_own_centre(tmp_path: Path) -> None:
    """Rule: a generation's vectors serve its own catalogue; another one is encoded with its encoder, centred on itself, once."""
    draft = tiny_bert.write_generation(tmp_path / "draft")
    generation = Registry(str(tmp_path / "registry"))
    published = generation.publish(draft)
    opened = Generation.open(generation.fetch(published.id))
    items = read(write(tmp_path / "data")).items
    told: list[tuple[int, int]] = []
    vectors = catalogue_vectors(opened, items, tmp_path / "cache", progress=lambda done, total: told.append((done, total)))
    assert vectors.shape == (ITEMS, opened.manifest.dims)
    assert told
    again: list[tuple[int, int]] = []
    same = catalogue_vectors(opened, items, tmp_path / "cache", progress=lambda done, total: again.append((done, total)))
    assert not again, "kept on disk"
    assert same.tolist() == vectors.tolist()
    assert np.abs(vectors.mean(0)).max() < 0.3
