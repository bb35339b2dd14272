"""What `headwater evaluate` writes besides lists: the report, the picture, the comparison with other lists, repeats."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from engine.dataset import read
from engine.evaluate import Evaluation
from engine.registry import Registry
from streams.evaluation import main
from tests import tiny_bert
from tests.test_evaluate import made_up_vectors, write

PNG = b"\x89PNG"


def test_report_picture_and_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rule: one run writes every figure it has; its own lists, judged again from their file without a model, give the same figures."""
    folder, registry = write(tmp_path / "data"), str(tmp_path / "registry")
    Registry(registry).publish(tiny_bert.write_generation(tmp_path / "draft"))
    lists, figures, report = tmp_path / "lists.jsonl.gz", tmp_path / "figures.json", tmp_path / "report.md"
    main(folder, registry=registry, cache=tmp_path / "cache", wanted=80, predictions=lists, json_file=figures, report=report)
    found = json.loads(figures.read_text())
    for table in ("next", "session"):
        assert {"precision@10", "recall@10", "F1@10", "AUC", "diversity@10", "novelty@10", "ECE"} == set(found["tables"][table]["more"])
        assert "popularity" in found["tables"][table]["along"]
    assert found["ratings"]["MSE"] > 0
    assert (tmp_path / "report.png").read_bytes()[:4] == PNG
    text = report.read_text(encoding="utf-8")
    assert "![Quality along the stream](report.png)" in text
    assert "## Table session" in text
    assert "MAE" in text
    with gzip.open(lists, "rt") as file:
        assert len(file.readlines()) == sum(found["tables"][table]["list"]["cases"] for table in found["tables"])
    again = tmp_path / "again.json"
    main(folder, registry="nowhere", cache=tmp_path, wanted=80, json_file=again, lists=lists, against=lists, tables=["next"])
    other = json.loads(again.read_text())["tables"]["next"]
    assert other["list"] == found["tables"]["next"]["list"]
    assert other["against"]["all"]["difference"] == other["against"]["all"]["low"] == 0.0
    assert "less " in capsys.readouterr().out


def test_repeats_are_listed_when_they_count(tmp_path: Path) -> None:
    """Rule: with repeats a list may hold what the user had before, more is asked, and its targets are candidates."""
    data = read(write(tmp_path / "data"))
    run = Evaluation(data, made_up_vectors(data), repeats=True)
    listed_again = asked = 0
    for answer in run.answers("next", 10**9):
        seen = run.users[answer.case.user].seen
        listed_again += any(run.keys[data.index[name]] in seen for name in answer.items)
        asked += run.keys[answer.case.target] in seen
        assert answer.ranks["random"] is not None or answer.unused
    assert listed_again > 50
    assert asked > 50
