"""The measurement of searches (`make search`): each system on the same queries, the same again, and taste helping where users have one."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from bench.search import LEXICAL, MIX, PERSONAL, SYSTEMS, VECTOR, Searches, told
from engine.generation import Generation
from engine.protocol import Ask, operations, stream
from tests import tiny_bert
from tests.training_shop import shop


def test_searches_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rule: all systems are asked the same queries; the same run gives the same ranks; users who stay in families find more with taste."""
    pytest.importorskip("onnx", reason="wants the export extra, to write a graph")
    pytest.importorskip("export", reason="the comparison is the gate's")
    data, generation = shop(600), Generation.open(tiny_bert.write_generation(tmp_path / "generation"))
    cases = [step.case for step in operations(stream(data), "next", 100) if isinstance(step, Ask)]
    one = list(Searches(data, generation, "title", cases, tmp_path / "cache").found(None))
    again = islice(Searches(data, generation, "title", cases, tmp_path / "cache").found(None), 40)
    assert one[:40] == list(again)
    assert len({found.case.id for found in one}) == len(cases) > 50
    assert all(set(found.ranks) == set(SYSTEMS) for found in one)
    report = told(one, "shop")
    of = {system: report["groups"][system]["all"]["NDCG@10"] for system in SYSTEMS}
    assert of[PERSONAL] > of[MIX]
    assert of[PERSONAL] > max(of[LEXICAL], of[VECTOR]) > 0.5
    assert "personalised over lexical" in capsys.readouterr().out
