"""How good lists were: HR, NDCG and MRR at 10 with errors clustered by user, by slice. It makes no lists and picks no cases.

NDCG with one relevant item: Järvelin & Kekäläinen 2002; cluster-robust standard error of a mean: Liang & Zeger 1986.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from engine.protocol import Case

DEPTH = 10
NEW_USER_EVENTS = 3
"""A user with at most this many learned events is new."""
DIGITS = 4
Figures = dict[str, Any]


def gain(rank: int | None) -> float:
    """What an item at a rank (from 0) adds to NDCG@10.

    >>> gain(0), gain(2), gain(10), gain(None)
    (1.0, 0.5, 0.0, 0.0)
    """
    return 1 / math.log2(rank + 2) if rank is not None and rank < DEPTH else 0.0


def figures(results: Iterable[tuple[str, int | None]]) -> Figures:
    """Means over (user, rank from 0 or None), and the standard error of NDCG@10 clustered by user.

    >>> figures([("u1", 0), ("u1", None), ("u2", 2)])
    {'cases': 3, 'HR@10': 0.6667, 'NDCG@10': 0.5, 'se': 0.0, 'MRR@10': 0.4444}
    """
    results = list(results)
    n = len(results)
    if not n:
        return {"cases": 0}
    gains = [gain(rank) for _, rank in results]
    mean = sum(gains) / n
    deviation: defaultdict[str, float] = defaultdict(float)
    for (user, _), value in zip(results, gains, strict=True):
        deviation[user] += value - mean
    top = [rank for _, rank in results if rank is not None and rank < DEPTH]
    return {
        "cases": n,
        "HR@10": round(len(top) / n, DIGITS),
        "NDCG@10": round(mean, DIGITS),
        "se": round(math.sqrt(sum(d * d for d in deviation.values())) / n, DIGITS),
        "MRR@10": round(sum(1 / (rank + 1) for rank in top) / n, DIGITS),
    }


def summary(cases: Sequence[Case], ranks: Mapping[str, int | None], unused: Collection[str]) -> Figures:
    """Figures of all cases and of two slices: users with 1 to 3 learned events, and items that nobody had used.

    `ranks`: case id -> rank of the target from 0, None where it is not in the list; `unused`: ids of cases on such items.
    """

    def of(some: Iterable[Case]) -> Figures:
        return figures((c.user, ranks.get(c.id)) for c in some)

    return {
        **of(cases),
        "new_users": of(c for c in cases if c.earlier <= NEW_USER_EVENTS),
        "new_items": of(c for c in cases if c.id in unused),
    }


def coverage(lists: Iterable[Sequence[str]], catalogue_size: int) -> float:
    """The share of the catalogue that stands in some list's first ten.

    >>> coverage([["a", "b"], ["b", "c"]], 6)
    0.5
    """
    shown = {item for items in lists for item in items[:DEPTH]}
    return round(len(shown) / catalogue_size, DIGITS) if catalogue_size else 0.0
