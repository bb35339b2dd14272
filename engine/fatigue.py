"""Fatigue: an item that a user was shown again and again, and never took, counts less for some time. It knows no lists and no scores.

Only `impression` events say what was shown (contract: events). A list that was published, fetched or answered may never have been looked
at, so it counts as nothing here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, MutableMapping, Sequence

KEPT = 100
"""Items of a user that are remembered as shown, those shown last: some 2 kB of a row at most."""
FIRST = 20
"""Items of one impression that count, from the top."""
AGAIN_S = 1_800
"""Time in which an item is shown once, however often: a session's lists hold much the same, and are looked at as one."""
HALF_LIFE_S = 7 * 86_400
"""Time since an item was shown last after which half of the fatigue is gone."""
Shown = tuple[int, int]
"""How often, and when last, in seconds of event time."""


def show(shown: MutableMapping[int, Shown], keys: Sequence[int], at_s: int, most: int = KEPT) -> None:
    """Note that items (hash64) were shown, in this order; the `most` shown last are kept, those noted last at the end.

    >>> noted = {}
    >>> for at in (0, 60, 1_800, 90_000):
    ...     show(noted, [7, 8] if at else [8], at)
    >>> noted
    {7: (2, 90000), 8: (3, 90000)}
    """
    for key in keys[:FIRST]:
        times, last = shown.pop(key, (0, 0))
        counts = not times or at_s - last >= AGAIN_S
        shown[key] = (times + 1, at_s) if counts else (times, last)
    while len(shown) > most:
        del shown[next(iter(shown))]


def weariness(shown: Mapping[int, Shown], now_s: int) -> Iterator[tuple[int, float]]:
    """Items (hash64) shown more than once, and how much that says: ln(times), halved with every HALF_LIFE_S since.

    Times a strength s this divides the odds of an item that was shown n times just now by n to the power of s; once costs nothing.

    >>> [(key, round(much, 3)) for key, much in weariness({7: (1, 0), 8: (4, 0)}, HALF_LIFE_S)]
    [(8, 0.693)]
    """
    for key, (times, last) in shown.items():
        if times > 1:
            yield key, math.log(times) * 2.0 ** (-max(0, now_s - last) / HALF_LIFE_S)
