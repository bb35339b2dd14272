"""Recommenders that are fitted in batch, to compare with: each learns a log and scores all items for histories."""

from export.baselines.log import Asked, Baseline, Log, Past, Weighting
from export.baselines.methods import METHODS, Context, Method

__all__ = ["METHODS", "Asked", "Baseline", "Context", "Log", "Method", "Past", "Weighting"]
