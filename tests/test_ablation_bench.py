"""The benches that leave parts out and change constants keep up with the engine. Not their figures."""

from __future__ import annotations

from bench.ablation import GROUPS, TOGETHER
from bench.constants import VARIANTS
from bench.recorded import ROOT
from engine.features import NAMES


def test_every_feature_is_in_a_group() -> None:
    """Rule: whatever the ranker sees is left out in some run; and a group names only features that there are."""
    named = {name for names in GROUPS.values() for name in names}
    assert named == set(NAMES)
    assert set(TOGETHER) <= set(NAMES)


def test_every_constant_stands_where_it_is_changed() -> None:
    """Rule: what a variant changes stands once in its file, so that the run is of another engine."""
    for name, change in VARIANTS.items():
        if change is not None:
            assert (ROOT / "engine" / change.file).read_text().count(change.before) == 1, name
