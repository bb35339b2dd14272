"""Chooses a list out of a pool of candidates: the best ones that differ from each other, and not too many of a kind.

Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998), greedy: the next place goes to the candidate with the largest score minus
`strength` times its largest cosine with an item of the list. `strength` is on the score's scale; at 0 the scores alone decide. What rules
ask for is made of this in `engine.policy`.

A candidate's value never grows while the list does, so a value worked out for a shorter list is a bound: only candidates that come first by
their bound are compared with what was added since. That saves most of the k x pool products, and gives the same list. It also means that
values never grow along the list: they order it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from engine.jit import kernel, summing

Array = Any  # numba knows the type from the argument; mypy would need it in every expression

NOBODY = -1
NO_MASKS = np.zeros((0, 0), bool)


class Kinds(NamedTuple):
    """What items have in common, by catalogue index, and how many of a kind one list may hold.

    `vectors` (N, D) float32, unit rows, or 0 for items without; `creators` (N,) int32, 0 for none, at most `per_creator` of one; `starts`
    (N + 1,) int64 and `categories` (E,) int32: those of item i from `starts[i]` to `starts[i + 1]`, at most `per_category` of one. 0: any
    number. `masks` (R, N) bool and `most` (R,) int64: further kinds, and how many of each.
    """

    vectors: Array
    creators: Array
    per_creator: int
    starts: Array
    categories: Array
    per_category: int
    masks: Array
    most: Array


class Chosen(NamedTuple):
    """Room for a list of k places, by rank.

    `places` (k,) int64 in the pool, -1 for those that were fixed; `items` (k,) int64 catalogue indices; `values` (k,) float64, what the
    scores came to; `likeness` (k,) float64, the largest cosine with an item that was in the list before (fixed ones always are), 0 at
    least; `nearest` (k,) int64, that item, -1 for none.
    """

    places: Array
    items: Array
    values: Array
    likeness: Array
    nearest: Array


def room(k: int) -> Chosen:
    """Room for a list."""
    return Chosen(np.full(k, NOBODY), np.full(k, NOBODY), np.zeros(k), np.zeros(k), np.full(k, NOBODY))


@summing
def cosine(vectors: Array, a: int, b: int) -> float:
    """The product of two rows."""
    total = np.float32(0.0)
    for d in range(vectors.shape[1]):
        total += vectors[a, d] * vectors[b, d]
    return float(total)


@kernel
def fits(item: int, listed: Array, count: int, kinds: Any) -> bool:
    """Whether the list may hold one more item of each kind of this one's."""
    creator = kinds.creators[item] if kinds.per_creator > 0 else 0
    if creator > 0:
        held = 0
        for n in range(count):
            held += kinds.creators[listed[n]] == creator
        if held >= kinds.per_creator:
            return False
    if kinds.per_category > 0:
        for e in range(kinds.starts[item], kinds.starts[item + 1]):
            held = 0
            for n in range(count):
                for f in range(kinds.starts[listed[n]], kinds.starts[listed[n] + 1]):
                    if kinds.categories[f] == kinds.categories[e]:
                        held += 1
                        break
            if held >= kinds.per_category:
                return False
    for r in range(len(kinds.most)):
        if kinds.masks[r, item]:
            held = 0
            for n in range(count):
                held += kinds.masks[r, listed[n]]
            if held >= kinds.most[r]:
                return False
    return True


@kernel
def choose(items: Array, scores: Array, open_: Array, fixed: Array, strength: float, kinds: Any, out: Any) -> int:
    """Fill a list of up to k places; gives how many it has.

    Args:
        items: (P,) int64 catalogue indices of the pool; one that comes again is passed over.
        scores: (P,) float64; of equal ones the first is taken. What is not finite is passed over.
        open_: (P,) bool, which may be listed.
        fixed: (k,) int64 catalogue indices of items that have their rank already, -1 where it is free; each item once. They come before the
            limits of kinds, and count for them. Where the pool does not fill the ranks before them they move up.
        strength: of diversity.
        kinds: what items have in common.
        out: where the list goes.
    """
    k, pool = len(fixed), len(items)
    bound, likeness = scores.copy(), np.zeros(pool)
    nearest, compared = np.full(pool, NOBODY), np.zeros(pool, np.int64)
    left = np.empty(pool, np.bool_)
    listed, count = np.empty(k, np.int64), 0
    for rank in range(k):
        if fixed[rank] >= 0:
            listed[count] = fixed[rank]
            count += 1
    for p in range(pool):
        left[p] = open_[p] and np.isfinite(scores[p])
        for n in range(count):
            if listed[n] == items[p]:
                left[p] = False
    length, diverse = 0, strength > 0.0 and vectors_of(kinds) > 0
    for rank in range(k):
        best = NOBODY
        while fixed[rank] < 0:
            best = NOBODY
            for p in range(pool):
                if left[p] and (best < 0 or bound[p] > bound[best]):
                    best = p
            if best < 0:
                break
            if diverse and compared[best] < count:
                for n in range(compared[best], count):
                    like = cosine(kinds.vectors, items[best], listed[n])
                    if like > likeness[best]:
                        likeness[best], nearest[best] = like, listed[n]
                compared[best] = count
                bound[best] = scores[best] - strength * likeness[best]
                continue
            if fits(items[best], listed, count, kinds):
                break
            left[best] = False  # lists only grow: it never fits again
        if fixed[rank] >= 0:
            out.places[length], out.items[length] = NOBODY, fixed[rank]
            out.values[length], out.likeness[length], out.nearest[length] = 0.0, 0.0, NOBODY
            length += 1
        elif best >= 0:
            out.places[length], out.items[length], out.values[length] = best, items[best], bound[best]
            out.likeness[length], out.nearest[length] = likeness[best], nearest[best]
            length += 1
            listed[count] = items[best]
            count += 1
            for p in range(pool):
                if items[p] == items[best]:
                    left[p] = False
    return length


@kernel
def vectors_of(kinds: Any) -> int:
    """How wide the vectors are, 0 where there are none."""
    return int(kinds.vectors.shape[1])


def warm_up() -> None:
    """Compile the loops, a few seconds the first time on a machine."""
    none = np.zeros(0, np.int64)
    kinds = Kinds(np.zeros((1, 0), np.float32), np.zeros(1, np.int32), 0, np.zeros(2, np.int64), none.astype(np.int32), 0, NO_MASKS, none)
    choose(np.zeros(1, np.int64), np.zeros(1), np.ones(1, bool), np.full(1, NOBODY), 0.0, kinds, room(1))
