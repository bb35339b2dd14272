"""The loops in which lists are made, compiled: a user's features, scores, the best items, the parts of their scores.

Plain loops over arrays, one user at a time, so who else is in a batch changes nothing. What the features mean is told in `engine.features`,
what the parts mean in `engine.reasons`. All constants stand here (see `engine.jit`).
"""

from __future__ import annotations

from math import exp2
from typing import Any, NamedTuple

import numpy as np

from engine.jit import kernel

Array = Any  # numba knows the type from the argument; mypy would need it in every expression

STEP = 0.9  # weight of one step back among a user's recent items
NEAR = 0.7  # ... where the last few count most
SMALL = 0.15  # terms that weigh less in a taste than this share of its strongest are passed over, to save their many items
NAMED = 2  # history items named per kind and listed item; the others are summed
MOST_LATE = 100.0  # half-lives that a count is faded or taken back at most
LONGEST = 40  # recent items of a user at most
STEPS = STEP ** np.arange(LONGEST)
NEARS = NEAR ** np.arange(LONGEST)

# rows of the personal features, in the order of `engine.features.PERSONAL`
TOGETHER, TOGETHER_LAST, TOGETHER_NEAR, LATELY, LATELY_LAST, SESSION, BASKET = 0, 1, 2, 3, 4, 5, 6
CO_VISITED = 7  # so many rows from the first are square roots of sums over neighbours
CREATOR_LAST, TAGS_LAST, DATE, DATE_LAST, GAP, TEXT_LAST, TEXT, CREATOR, TAGS = 7, 8, 9, 10, 11, 12, 13, 14, 15
PERSONAL, COLD = 16, 3  # the last COLD personal ones count once more, times how little is known of the item
POPULAR = 1  # the row of the shared features that GAP is about

# kinds of reasons, in the order of `engine.reasons.KINDS`
PLAIN = 6  # kinds that add up features: popular, new, creator, tags, date, popularity
QUERY, WITH, ALIKE = 6, 7, 8
PARTS = PLAIN + 1 + 2 * (NAMED + 1)
"""Parts of one item's score at most: each plain kind, the query, and two kinds with NAMED items and the sum of the others."""


class World(NamedTuple):
    """What is the same for all users, N items: the arrays of `engine.catalogue`, `engine.stats` and `engine.features.Shared`.

    `shared` (S, N), `cold`, `root` (N,) float32; `near` (rows, >= N) float32 cosines of some items; neighbours of item i from
    `first[i]`, `length[i]` of them: `others` (M,) int32 and `weights` (M, 3) float32 as of `time[i]`; terms as in `catalogue.Terms`;
    `lasting`, `season`: half-lives in ms.
    """

    shared: Array
    cold: Array
    root: Array
    hashes: Array
    creators: Array
    creator_count: int
    days: Array
    near: Array
    first: Array
    length: Array
    time: Array
    others: Array
    weights: Array
    codes: Array
    starts: Array
    items: Array
    term_first: Array
    rarity: Array
    scale: Array
    lasting: float
    season: float


class Tastes(NamedTuple):
    """A batch of users. Row b's recent items, newest first, are `recent[start[b]:start[b + 1]]` (indices), `slot` their rows in
    `World.near`; `now` ms; `together`: so many of them belong to the last session; `situation`: whose weights count.
    """

    start: Array
    recent: Array
    slot: Array
    now: Array
    together: Array
    situation: Array


class Asks(NamedTuple):
    """What is to be listed for each of them: `k` items of those that `masks[mask[b]]` allows but for `hidden` (indices, -1: none), or
    where `fixed[b]` all of `candidates`; `extra[b]`: row of `extras` to add to the scores, or -1; `told`: whether reasons are wanted.
    """

    k: Array
    mask: Array
    masks: Array
    hidden_start: Array
    hidden: Array
    fixed: Array
    candidate_start: Array
    candidates: Array
    extra: Array
    extras: Array
    told: Array


class Lists(NamedTuple):
    """The lists: `count[b]` items `best[b]` with `score[b]`; of each `parts[b, place]` parts: `kind`, `slot` (-1: no item), `weight`."""

    count: Array
    best: Array
    score: Array
    parts: Array
    kind: Array
    slot: Array
    weight: Array


@kernel
def neighbour_factors(world: World, at: int, slot: int, now: int, together: int) -> tuple[float, float, float, float]:
    """What an item at a place in the history gives to its neighbours: lasting and season by step, session, lasting by place."""
    age, own = float(now - world.time[at]), float(world.root[at])
    slow = own * exp2(max(-MOST_LATE, min(MOST_LATE, -age / world.lasting)))
    fast = own * exp2(max(-MOST_LATE, min(MOST_LATE, -age / world.season)))
    return slow * STEPS[slot], fast * STEPS[slot], slow if slot < together else 0.0, slow * NEARS[slot]


@kernel
def co_visited(world: World, recent: Array, now: int, together: int, out: Array) -> None:
    """Rows TOGETHER ... BASKET: roots of the sums over the neighbours of the recent items."""
    for slot in range(len(recent)):
        at = recent[slot]
        factors = neighbour_factors(world, at, slot, now, together)
        by_step, season, session, near = np.float32(factors[0]), np.float32(factors[1]), np.float32(factors[2]), np.float32(factors[3])
        for entry in range(world.first[at], world.first[at] + world.length[at]):
            other = world.others[entry]
            root = world.root[other]
            lasting, late, same = world.weights[entry, 0] * root, world.weights[entry, 1] * root, world.weights[entry, 2] * root
            out[TOGETHER, other] += lasting * by_step
            out[TOGETHER_NEAR, other] += lasting * near
            out[LATELY, other] += late * season
            out[SESSION, other] += same * by_step
            out[BASKET, other] += same * session
            if slot == 0:
                out[TOGETHER_LAST, other] += lasting * by_step
                out[LATELY_LAST, other] += late * season
    for row in range(CO_VISITED):
        for i in range(out.shape[1]):
            out[row, i] = np.sqrt(out[row, i])


@kernel
def text(world: World, recent: Array, slots: Array, shares: Array, out: Array) -> None:
    """Rows TEXT and TEXT_LAST: cosines with the user's vector and the newest item; sets `shares`, the items' weights in that vector."""
    squared = 0.0
    for a in range(len(recent)):
        for b in range(len(recent)):
            squared += STEPS[a] * STEPS[b] * world.near[slots[a], recent[b]]
    length = np.sqrt(squared) if squared > 0.0 else 1.0
    for a in range(len(recent)):
        shares[a] = STEPS[a] / length
        share, row = np.float32(shares[a]), world.near[slots[a]]
        for i in range(out.shape[1]):
            out[TEXT, i] += share * row[i]
    row = world.near[slots[0]]
    for i in range(out.shape[1]):
        out[TEXT_LAST, i] = row[i]


@kernel
def tags_row(world: World, recent: Array, sums: Array, out: Array) -> None:
    """Cosines over categories and tags with the sum of some items. `sums` (terms,) is zero before and after."""
    touched = [np.int64(0) for _ in range(0)]
    for slot in range(len(recent)):
        at = recent[slot]
        if at < len(world.scale):
            for entry in range(world.starts[at], world.starts[at + 1]):
                code = world.codes[entry]
                if sums[code] == 0.0:
                    touched.append(np.int64(code))
                sums[code] += STEPS[slot] * world.scale[at] * world.rarity[code]
    squared, most = 0.0, 0.0
    for code in touched:
        squared += sums[code] ** 2
        most = max(most, sums[code] * world.rarity[code])
    for code in touched:
        strength = sums[code] * world.rarity[code]  # what it adds to an item that has the term, but for the item's own length
        sums[code] = 0.0
        if strength >= SMALL * most:
            share = np.float32(strength / np.sqrt(squared))
            for entry in range(world.term_first[code], world.term_first[code + 1]):
                out[world.items[entry]] += share
    for i in range(len(world.scale)):
        out[i] *= world.scale[i]


@kernel
def tags(world: World, recent: Array, out: Array) -> None:
    """Rows TAGS and TAGS_LAST; the newest is the newest that has been filed."""
    sums = np.zeros(len(world.rarity), np.float64)
    tags_row(world, recent, sums, out[TAGS])
    for slot in range(len(recent)):
        if recent[slot] < len(world.scale):
            tags_row(world, recent[slot : slot + 1], sums, out[TAGS_LAST])
            return


@kernel
def creators(world: World, recent: Array, out: Array) -> None:
    """Rows CREATOR and CREATOR_LAST: the creator's share among the user's items, and whether the newest is by the same."""
    if world.creator_count == 1:
        return
    by_creator, total = np.zeros(world.creator_count, np.float32), 0.0
    for slot in range(len(recent)):
        by_creator[world.creators[recent[slot]]] += STEPS[slot]
        total += STEPS[slot]
    by_creator[0] = 0.0
    last = world.creators[recent[0]]
    for i in range(out.shape[1]):
        creator = world.creators[i]
        out[CREATOR, i] = by_creator[creator] / total
        out[CREATOR_LAST, i] = 1.0 if creator == last and last != 0 else 0.0


@kernel
def dates(world: World, recent: Array, out: Array) -> None:
    """Rows DATE and DATE_LAST: how near the date of publication is to the middle of the user's items, and to the newest item's."""
    middle, total, last = 0.0, 0.0, world.days[recent[0]]
    for slot in range(len(recent)):
        day = world.days[recent[slot]]
        if day != 0.0:
            middle += STEPS[slot] * day
            total += STEPS[slot]
    if total == 0.0:
        return
    centre = np.float32(middle / total)
    for i in range(out.shape[1]):
        day = world.days[i]
        if day != 0.0:
            out[DATE, i] = np.float32(1.0) / (np.float32(1.0) + abs(day - centre) / np.float32(365.0))
            if last != 0.0:
                out[DATE_LAST, i] = np.float32(1.0) / (np.float32(1.0) + abs(day - last) / np.float32(90.0))


@kernel
def gap(world: World, recent: Array, out: Array) -> None:
    """Row GAP: how far from as popular as what the user takes."""
    middle, total = 0.0, 0.0
    for slot in range(len(recent)):
        middle += STEPS[slot] * world.shared[POPULAR, recent[slot]]
        total += STEPS[slot]
    centre = np.float32(middle / total)
    for i in range(out.shape[1]):
        out[GAP, i] = abs(world.shared[POPULAR, i] - centre)


@kernel
def personal(world: World, tastes: Tastes, b: int, shares: Array, out: Array) -> None:
    """The personal features of user b, `out` (PERSONAL, N) float32, and the `shares` of the recent items in the user's vector."""
    out[:] = 0.0
    recent = tastes.recent[tastes.start[b] : tastes.start[b + 1]]
    if len(recent):
        co_visited(world, recent, tastes.now[b], tastes.together[b], out)
        text(world, recent, tastes.slot[tastes.start[b] : tastes.start[b + 1]], shares, out)
        tags(world, recent, out)
        creators(world, recent, out)
        dates(world, recent, out)
        gap(world, recent, out)


@kernel
def add_up(world: World, own: Array, weights: Array, base: Array, out: Array) -> None:
    """Scores (N,): `base`, what the shared features add, and the personal ones under the `weights` (F,)."""
    shared = world.shared.shape[0]
    out[:] = base
    for row in range(PERSONAL):
        weight = weights[shared + row]
        if weight != 0.0:
            for i in range(len(out)):
                out[i] += weight * own[row, i]
    for row in range(COLD):
        weight = weights[shared + PERSONAL + row]
        if weight != 0.0:
            for i in range(len(out)):
                out[i] += weight * own[PERSONAL - COLD + row, i] * world.cold[i]


@kernel
def insert(hashes: Array, scores: Array, at: int, best: Array, count: int) -> int:
    """Keep `at` among the `len(best)` best, of which there are `count`; equal scores by hash64, which is the same in all processes."""
    place, score = min(count, len(best) - 1), scores[at]
    if count == len(best) and (score < scores[best[place]] or (score == scores[best[place]] and hashes[at] > hashes[best[place]])):
        return count
    while place > 0:
        above = best[place - 1]
        if scores[above] > score or (scores[above] == score and hashes[above] < hashes[at]):
            break
        best[place] = above
        place -= 1
    best[place] = at
    return min(count + 1, len(best))


@kernel
def choose(hashes: Array, asks: Asks, b: int, scores: Array, allowed: Array, best: Array) -> int:
    """The best items of ask b, best first; how many."""
    count = 0
    if asks.fixed[b]:
        given = asks.candidates[asks.candidate_start[b] : asks.candidate_start[b + 1]]
        for at in given:
            count = insert(hashes, scores, at, best[: len(given)], count)
        return count
    best = best[: asks.k[b]]
    if len(best) == 0:
        return 0
    allowed[:] = asks.masks[asks.mask[b]]
    for at in asks.hidden[asks.hidden_start[b] : asks.hidden_start[b + 1]]:
        if at >= 0:
            allowed[at] = False
    worst = np.float32(-np.inf)
    for at in range(len(scores)):
        if scores[at] >= worst and allowed[at]:
            count = insert(hashes, scores, at, best, count)
            if count == len(best):
                worst = scores[best[count - 1]]
    return count


@kernel
def shares_of_neighbours(world: World, recent: Array, now: int, together: int, place: Array, found: Array) -> None:
    """What each recent item (last axis) adds to the sums (middle axis) of the listed items (first axis); `place` (N,): -1 or its place."""
    for slot in range(len(recent)):
        at = recent[slot]
        by_step, season, session, near = neighbour_factors(world, at, slot, now, together)
        for entry in range(world.first[at], world.first[at] + world.length[at]):
            row = place[world.others[entry]]
            if row >= 0:
                lasting, late, same = world.weights[entry, 0], world.weights[entry, 1], world.weights[entry, 2]
                found[row, TOGETHER, slot] = lasting * by_step
                found[row, TOGETHER_NEAR, slot] = lasting * near
                found[row, LATELY, slot] = late * season
                found[row, SESSION, slot] = same * by_step
                found[row, BASKET, slot] = same * session
                if slot == 0:
                    found[row, TOGETHER_LAST, slot] = lasting * by_step
                    found[row, LATELY_LAST, slot] = late * season


@kernel
def name_strongest(values: Array, kind: int, lists: Lists, b: int, place: int, count: int, digits: float) -> int:
    """Add parts for the NAMED strongest of `values` (one per recent item), and one for the sum of the others; how many parts now."""
    rest = 0.0
    for value in values:
        rest += value
    for _ in range(min(NAMED, len(values))):
        at = 0
        for slot in range(len(values)):
            if abs(values[slot]) > abs(values[at]):
                at = slot
        count = add_part(values[at], kind, at, lists, b, place, count, digits)
        rest -= values[at]
        values[at] = 0.0
    if len(values) > NAMED:
        count = add_part(rest, kind, -1, lists, b, place, count, digits)
    return count


@kernel
def add_part(value: float, kind: int, slot: int, lists: Lists, b: int, place: int, count: int, digits: float) -> int:
    """Add a part in its place, largest first, unless it rounds to nothing; how many parts now."""
    value = np.round(value * digits) / digits
    if value == 0.0:
        return count
    at = count
    while at > 0 and abs(lists.weight[b, place, at - 1]) < abs(value):
        for array in (lists.kind, lists.slot):
            array[b, place, at] = array[b, place, at - 1]
        lists.weight[b, place, at] = lists.weight[b, place, at - 1]
        at -= 1
    lists.kind[b, place, at], lists.slot[b, place, at], lists.weight[b, place, at] = kind, slot, value
    return count + 1


@kernel
def tell(
    world: World, tastes: Tastes, asks: Asks, lists: Lists, b: int, own: Array, shares: Array, weights: Array, kind_of: Array, digits: float
) -> None:
    """The parts of the scores of list b, and the scores as their sums, in double precision."""
    recent, slots = tastes.recent[tastes.start[b] : tastes.start[b + 1]], tastes.slot[tastes.start[b] : tastes.start[b + 1]]
    shared = world.shared.shape[0]
    place = np.full(len(world.cold), -1, np.int32)
    for n in range(lists.count[b]):
        place[lists.best[b, n]] = n
    found = np.zeros((lists.count[b], CO_VISITED, len(recent)), np.float64)
    shares_of_neighbours(world, recent, tastes.now[b], tastes.together[b], place, found)
    plain, beside, alike = np.zeros(PLAIN, np.float64), np.zeros(len(recent), np.float64), np.zeros(len(recent), np.float64)
    for n in range(lists.count[b]):
        at = lists.best[b, n]
        plain[:] = 0.0
        for row in range(shared):
            plain[kind_of[row]] += np.float64(weights[row]) * world.shared[row, at]
        for row in range(PERSONAL + COLD):
            kind = kind_of[shared + row]
            if kind >= 0:
                value = own[row, at] if row < PERSONAL else own[row - COLD, at] * world.cold[at]
                plain[kind] += np.float64(weights[shared + row]) * value
        total, count = 0.0, 0
        for kind in range(PLAIN):
            total += plain[kind]
            count = add_part(plain[kind], kind, -1, lists, b, n, count, digits)
        if asks.extra[b] >= 0:
            value = asks.extras[asks.extra[b], at]
            total += value
            count = add_part(value, QUERY, -1, lists, b, n, count, digits)
        beside[:] = 0.0
        for row in range(CO_VISITED):
            sums = found[n, row].sum()
            if sums > 0.0:
                beside += found[n, row] * (np.float64(weights[shared + row]) * own[row, at] / sums)
        by_text = np.float64(weights[shared + TEXT]) + np.float64(weights[shared + TEXT + COLD]) * world.cold[at]
        for slot in range(len(recent)):
            alike[slot] = shares[slot] * by_text * world.near[slots[slot], at]
        if len(recent):
            alike[0] += np.float64(weights[shared + TEXT_LAST]) * world.near[slots[0], at]
        total += beside.sum() + alike.sum()
        count = name_strongest(beside, WITH, lists, b, n, count, digits)
        lists.parts[b, n] = name_strongest(alike, ALIKE, lists, b, n, count, digits)
        lists.score[b, n] = total


@kernel
def rank(world: World, tastes: Tastes, asks: Asks, lists: Lists, weights: Array, base: Array, kind_of: Array, digits: float) -> None:
    """Make the lists of a batch. `weights` (situations, F), `base` (situations, N) float32; `kind_of` (F,): see `engine.reasons`."""
    n = len(world.cold)
    own, scores, allowed = np.empty((PERSONAL, n), np.float32), np.empty(n, np.float32), np.empty(n, np.bool_)
    most = 0
    for b in range(len(tastes.now)):
        most = max(most, tastes.start[b + 1] - tastes.start[b])
    shares = np.zeros(most, np.float64)
    for b in range(len(tastes.now)):
        situation = tastes.situation[b]
        personal(world, tastes, b, shares, own)
        add_up(world, own, weights[situation], base[situation], scores)
        if asks.extra[b] >= 0:
            scores += asks.extras[asks.extra[b]]
        lists.count[b] = choose(world.hashes, asks, b, scores, allowed, lists.best[b])
        if asks.told[b]:
            tell(world, tastes, asks, lists, b, own, shares, weights[situation], kind_of, digits)
        else:
            for place in range(lists.count[b]):
                lists.score[b, place] = scores[lists.best[b, place]]
