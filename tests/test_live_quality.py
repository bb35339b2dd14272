"""What `bench/live_quality.py` compares and reads off the workers; the run itself takes minutes and wants Apache Kafka."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import generate_latest

from bench.live_quality import examples_of, same
from bench.live_workers import EXAMPLES, USES
from engine.assess import Listed
from engine.dataset import read
from engine.evaluate import Evaluation
from engine.protocol import stream
from streams.metrics import Metrics
from tests.test_evaluate import made_up_vectors, write


def test_examples_are_those_of_the_evaluation(tmp_path: Path) -> None:
    """Rule: the delay of weights is counted in the events of which the evaluation, and a worker, makes examples."""
    dataset = read(write(tmp_path / "data"))
    run, rows = Evaluation(dataset, made_up_vectors(dataset)), stream(dataset)
    made = examples_of(dataset, rows)
    for n, row in enumerate(rows):
        assert run.learned == made[n]
        run.learn(row)
    assert run.learned == made[-1] > 0


def test_what_is_read_is_what_a_worker_exposes() -> None:
    """Rule: the metrics that delays are counted from are a worker's."""
    text = generate_latest(Metrics().registry).decode()
    assert all(f"\n{name} " in text for name in (USES, EXAMPLES))


def test_how_much_lists_are_the_same() -> None:
    """Rule: shares of cases with the same ten, of those with the same first, and of the items in both."""
    one = {"a": Listed(("x", "y")), "b": Listed(("x", "y"))}
    assert same(one, one) == {"equal": 1.0, "first_equal": 1.0, "overlap": 1.0}
    assert same(one, {"a": Listed(("x", "y")), "b": Listed(("z", "x"))}) == {"equal": 0.5, "first_equal": 0.5, "overlap": 0.75}
