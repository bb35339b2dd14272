"""The measurement of ranking (`python -m bench.ranking`): every figure is there and possible, in small and large catalogues. Not speed."""

from __future__ import annotations

import pytest

from bench.ranking import STEPS, sized, tell


@pytest.mark.parametrize("items", [400, 1_500])
def test_ranking_is_measured(items: int) -> None:
    """Rule: each kind of list has its times and shares, and where there is an index, what it and the candidates miss."""
    said: list[str] = []
    report = sized(items, said.append, dims=16, examples=20, requests=8, whole=1_000)
    tell(report, said.append)
    for found in (*report["rerank"].values(), report["lists"]):
        assert set(found["shares"]) == set(STEPS)
        assert sum(found["shares"].values()) == pytest.approx(1.0, abs=0.01)
        assert 0.0 < found["p50_ms"] <= found["p99_ms"]
    assert report["lists"]["per_s"] > 0.0
    assert ("index" in report) == ("candidates" in report) == (items > 1_000)
    if items > 1_000:
        assert 0.5 < report["index"]["recall_items_at_10"] <= 1.0
        assert 0.5 < report["candidates"]["share_of_exact_top_10"] <= 1.0
        assert report["candidates"]["mean"] <= report["candidates"]["most"] < items
    assert any("lists of 10" in line for line in said)
