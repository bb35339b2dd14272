"""The loops in which lists are made, compiled: a user's features, the strongest items by a linear score, the best of them, and why.

Plain loops over arrays, one user at a time, so who else is in a batch changes nothing. What the features mean is told in `engine.features`,
what a network makes of them in `engine.network`, what the parts of a score mean in `engine.reasons`. All constants stand here (see
`engine.jit`).

Features are worked out for a pool of items: `pool` (M,) their indices, `place` (N,) where in the pool an item stands, -1 if it does not.
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
MANY = 20.0  # linked items of a history, or recent items of one session, that count as 1
NAMED = 2  # history items named per listed item
MOST_LATE = 100.0  # half-lives that a count is faded or taken back at most
MOST_STRENGTH = np.float32(1e4)  # of what goes together: far beyond what is counted, since times may be from the ends of the calendar
LONGEST = 40  # recent items of a user at most
STEPS = STEP ** np.arange(LONGEST)
NEARS = NEAR ** np.arange(LONGEST)

# rows of the personal features, in the order of `engine.features.PERSONAL`
TOGETHER, TOGETHER_LAST, TOGETHER_NEAR, TOGETHER_MOST, LATELY, LATELY_LAST, AFTER, AFTER_LAST = range(8)
SESSION, SESSION_MOST, BASKET, CHANCE = range(8, 12)
CO_VISITED = 12  # so many rows from the first are square roots of sums over neighbours, or of the largest of them
LINKED, SESSION_LINKED, CREATOR_LAST, TAGS_LAST, DATE, DATE_LAST, GAP, TEXT_LAST, TEXT_MOST = range(12, 21)
WORDS_LAST, TEXT, CREATOR, TAGS, WORDS = range(21, 26)
PERSONAL, COLD = 26, 4  # the last COLD personal ones count once more, times how little is known of the item
IN_SESSION = 2  # the column of the context that says how many of the recent items belong to the session
POPULAR = 1  # the row of the shared features that GAP is about
POPULARITY = 4  # so many shared features from the first say how popular an item is; the others how new
LASTING, SEASON, SAME, LATER = 0, 1, 2, 3  # columns of a neighbour's weights

# kinds of reasons, in the order of `engine.reasons.KINDS`
BY_POPULARITY, BY_AGE, BIAS, HISTORY, QUERY, WITH, ALIKE, SHOWN = range(8)
PARTS = 6 + NAMED
"""Parts of one item's score at most."""
ALONE, UNKNOWN, PLAIN = 0, 1, 2
VARIANTS = 3
"""Ways in which a listed item is looked at again, to say why it is there: without the history; that, and as if as popular as items mostly
are; as an item of which everything is as it mostly is. Then without each history item that is named."""


class World(NamedTuple):
    """What is the same for all users, N items: the arrays of `engine.catalogue`, `engine.stats` and `engine.features.Shared`.

    `shared` (S, N), `cold`, `root` (N,) float32; `near` (rows, >= N) float32 cosines of some items; neighbours of item i from
    `first[i]`, `length[i]` of them: `others` (M,) int32 and `weights` (M, 4) float32 as of `time[i]`; `filed`, `titled`: what items are
    filed under and the words of their titles, as `catalogue.Terms`; `lasting`, `season`: half-lives in ms.
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
    filed: Array
    titled: Array
    lasting: float
    season: float


class Tastes(NamedTuple):
    """A batch of users. Row b's recent items, newest first, are `recent[start[b]:start[b + 1]]` (indices), `slot` their rows in
    `World.near`; `now` ms; `together`: so many of them belong to the last session; `situation`: whose weights count; `context` (B, 3)
    float32: see `engine.features.contexts`.
    """

    start: Array
    recent: Array
    slot: Array
    now: Array
    together: Array
    situation: Array
    context: Array


class Asks(NamedTuple):
    """What is to be listed for each of them: `k` items of those that `masks[mask[b]]` allows but for `hidden` (indices, -1: none), or
    where `fixed[b]` all of `candidates`; `extra[b]`: row of `extras` to add to the scores, or -1; `told`: whether reasons are wanted;
    `shift[b]`: row of `shifts` to add as well, or -1, which is told elsewhere; `pins` from `pin_range[b, 0]` to `pin_range[b, 1]`: of
    the items that each matches the best one is picked, whatever its score; `weary`: indices (-1: none) of items shown in vain, from whose
    scores `penalty` is taken.
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
    shift: Array
    shifts: Array
    pin_range: Array
    pins: Array
    weary_start: Array
    weary: Array
    penalty: Array


class Links(NamedTuple):
    """Neighbours of a history: those of its n-th item from `first[n]` to `end[n]`, as `World.others` and `World.weights` have them."""

    first: Array
    end: Array
    others: Array
    weights: Array


class Picked(NamedTuple):
    """The strongest items of each list by the linear score, in no order: `count` (B,) of them, `items` (B, C) indices, `linear` (B, C)
    float32 their scores, what was asked for added, `x` (B, F, C) float32 their features.
    """

    count: Array
    items: Array
    linear: Array
    x: Array


class Lists(NamedTuple):
    """The lists: `count[b]` items `best[b]` with `score[b]`, `at[b]` their places in `Picked`; of each `parts[b, place]` parts: `kind`,
    `slot` (-1: no item), `weight`.
    """

    count: Array
    best: Array
    score: Array
    at: Array
    parts: Array
    kind: Array
    slot: Array
    weight: Array


class Again(NamedTuple):
    """The lists' items looked at again. Row r is list `list[r]` in the way `way[r]` (see VARIANTS; from there on less the history item
    `way[r]` - VARIANTS); `count` (R,) items, `linear` (R, K) float32, `x` (R, F, K) float32; `context`, `situation` as in `Tastes`. `named`
    (B, K, NAMED): the history items to name, -1 for none; `kind`: as what.
    """

    list: Array
    way: Array
    count: Array
    linear: Array
    x: Array
    context: Array
    situation: Array
    named: Array
    kind: Array


@kernel
def neighbour_factors(world: World, at: int, slot: int, now: int, together: int) -> tuple[float, float, float, float]:
    """What an item at a place in the history gives to its neighbours: lasting and season by step, session, lasting whatever the place."""
    age, own = float(now - world.time[at]), float(world.root[at])
    slow = own * exp2(max(-MOST_LATE, min(MOST_LATE, -age / world.lasting)))
    fast = own * exp2(max(-MOST_LATE, min(MOST_LATE, -age / world.season)))
    return slow * STEPS[slot], fast * STEPS[slot], slow if slot < together else 0.0, slow


@kernel
def links_of(world: World, recent: Array) -> Links:
    """All neighbours of a history."""
    first, end = np.empty(len(recent), np.int64), np.empty(len(recent), np.int64)
    for slot in range(len(recent)):
        first[slot] = world.first[recent[slot]]
        end[slot] = first[slot] + world.length[recent[slot]]
    return Links(first, end, world.others, world.weights)


@kernel
def links_to(links: Links, place: Array) -> Links:
    """Those of the neighbours that are in a pool: a history that is gone through again and again meets few of them."""
    count = 0
    for slot in range(len(links.first)):
        for entry in range(links.first[slot], links.end[slot]):
            count += place[links.others[entry]] >= 0
    first, end = np.empty(len(links.first), np.int64), np.empty(len(links.first), np.int64)
    others, weights, count = np.empty(count, links.others.dtype), np.empty((count, links.weights.shape[1]), links.weights.dtype), 0
    for slot in range(len(links.first)):
        first[slot] = count
        for entry in range(links.first[slot], links.end[slot]):
            if place[links.others[entry]] >= 0:
                others[count] = links.others[entry]
                for column in range(links.weights.shape[1]):
                    weights[count, column] = links.weights[entry, column]
                count += 1
        end[slot] = count
    return Links(first, end, others, weights)


@kernel
def co_visited(world: World, recent: Array, links: Links, now: int, together: int, place: Array, out: Array) -> None:
    """Rows TOGETHER ... CHANCE, roots of the sums over the neighbours of the recent items or the largest of them, and LINKED and
    SESSION_LINKED, how many of these it is a neighbour of, and how many it was used with in one session.
    """
    for slot in range(len(recent)):
        at = recent[slot]
        factors = neighbour_factors(world, at, slot, now, together)
        by_step, season, session, plain = np.float32(factors[0]), np.float32(factors[1]), np.float32(factors[2]), np.float32(factors[3])
        near, own = plain * np.float32(NEARS[slot]), world.root[at]
        for entry in range(links.first[slot], links.end[slot]):
            other = links.others[entry]
            p = place[other]
            if p < 0:
                continue
            root = world.root[other]
            lasting, late = links.weights[entry, LASTING] * root, links.weights[entry, SEASON] * root
            same, later = links.weights[entry, SAME] * root, links.weights[entry, LATER] * root
            out[TOGETHER, p] += lasting * by_step
            out[TOGETHER_NEAR, p] += lasting * near
            out[TOGETHER_MOST, p] = max(out[TOGETHER_MOST, p], lasting * plain)
            out[LATELY, p] += late * season
            if same > 0.0:
                out[SESSION, p] += same * by_step
                out[BASKET, p] += same * session
                out[SESSION_MOST, p] = max(out[SESSION_MOST, p], same * plain)
                out[CHANCE, p] = max(out[CHANCE, p], links.weights[entry, SAME] * plain * own)
                out[SESSION_LINKED, p] += np.float32(1.0 / MANY)
            out[AFTER, p] += later * by_step
            out[LINKED, p] += np.float32(1.0 / MANY)
            if slot == 0:
                out[TOGETHER_LAST, p] += lasting * by_step
                out[LATELY_LAST, p] += late * season
                out[AFTER_LAST, p] += later * by_step
    for row in range(CO_VISITED):
        for i in range(out.shape[1]):
            out[row, i] = np.sqrt(min(out[row, i], MOST_STRENGTH))


@kernel
def text(world: World, recent: Array, slots: Array, pool: Array, out: Array) -> None:
    """Rows TEXT, TEXT_LAST and TEXT_MOST: cosines with the user's vector, the newest item and the nearest one."""
    squared = 0.0
    for a in range(len(recent)):
        for b in range(len(recent)):
            squared += STEPS[a] * STEPS[b] * world.near[slots[a], recent[b]]
    length = np.sqrt(squared) if squared > 0.0 else 1.0
    whole = len(pool) == len(world.cold)  # then item i stands at i, and the loop is several times as fast
    for a in range(len(recent)):
        share, row = np.float32(STEPS[a] / length), world.near[slots[a]]
        if whole:
            for i in range(len(pool)):
                out[TEXT, i] += share * row[i]
                out[TEXT_MOST, i] = max(out[TEXT_MOST, i], row[i])
        else:
            for i in range(len(pool)):
                out[TEXT, i] += share * row[pool[i]]
                out[TEXT_MOST, i] = max(out[TEXT_MOST, i], row[pool[i]])
    row = world.near[slots[0]]
    for i in range(len(pool)):
        out[TEXT_LAST, i] = row[pool[i]]


@kernel
def term_row(terms: Array, recent: Array, sums: Array, pool: Array, place: Array, out: Array) -> None:
    """Cosines over terms with the sum of some items. `sums` (terms,) is zero before and after."""
    touched = [np.int64(0) for _ in range(0)]
    for slot in range(len(recent)):
        at = recent[slot]
        if at < len(terms.scale):
            for entry in range(terms.starts[at], terms.starts[at + 1]):
                code = terms.codes[entry]
                if sums[code] == 0.0:
                    touched.append(np.int64(code))
                sums[code] += STEPS[slot] * terms.scale[at] * terms.rarity[code]
    squared, most, items = 0.0, 0.0, 0
    for code in touched:
        squared += sums[code] ** 2
        most = max(most, sums[code] * terms.rarity[code])
        items += terms.first[code + 1] - terms.first[code]
    few = len(pool) * 8 < items  # then it is less to go through the pool's terms than through the terms' items
    for code in touched:
        strength = sums[code] * terms.rarity[code]  # what it adds to an item that has the term, but for the item's own length
        share = np.float32(strength / np.sqrt(squared)) if strength >= SMALL * most else np.float32(0.0)
        sums[code] = share if few else 0.0
        if share > 0.0 and not few:
            for entry in range(terms.first[code], terms.first[code + 1]):
                p = place[terms.items[entry]]
                if p >= 0:
                    out[p] += share
    for i in range(len(pool)):
        at = pool[i]
        if at < len(terms.scale):
            if few:
                for entry in range(terms.starts[at], terms.starts[at + 1]):
                    out[i] += np.float32(sums[terms.codes[entry]])
            out[i] *= terms.scale[at]
    if few:
        for code in touched:
            sums[code] = 0.0


@kernel
def term_rows(terms: Array, recent: Array, sums: Array, pool: Array, place: Array, out: Array, last: Array) -> None:
    """Rows TAGS and TAGS_LAST, or WORDS and WORDS_LAST; the newest is the newest that has been filed. `sums`: as in `term_row`."""
    term_row(terms, recent, sums, pool, place, out)
    for slot in range(len(recent)):
        if recent[slot] < len(terms.scale):
            term_row(terms, recent[slot : slot + 1], sums, pool, place, last)
            return


@kernel
def creators(world: World, recent: Array, pool: Array, out: Array) -> None:
    """Rows CREATOR and CREATOR_LAST: the creator's share among the user's items, and whether the newest is by the same."""
    if world.creator_count == 1:
        return
    total, last = 0.0, world.creators[recent[0]]
    for slot in range(len(recent)):
        total += STEPS[slot]
    for i in range(len(pool)):
        creator = world.creators[pool[i]]
        if creator != 0:
            share = np.float32(0.0)
            for slot in range(len(recent)):
                if world.creators[recent[slot]] == creator:
                    share += np.float32(STEPS[slot])
            out[CREATOR, i] = share / np.float32(total)
            out[CREATOR_LAST, i] = 1.0 if creator == last else 0.0


@kernel
def dates(world: World, recent: Array, pool: Array, out: Array) -> None:
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
    for i in range(len(pool)):
        day = world.days[pool[i]]
        if day != 0.0:
            out[DATE, i] = np.float32(1.0) / (np.float32(1.0) + abs(day - centre) / np.float32(365.0))
            if last != 0.0:
                out[DATE_LAST, i] = np.float32(1.0) / (np.float32(1.0) + abs(day - last) / np.float32(90.0))


@kernel
def gap(world: World, recent: Array, pool: Array, out: Array) -> None:
    """Row GAP: how far from as popular as what the user takes."""
    middle, total = 0.0, 0.0
    for slot in range(len(recent)):
        middle += STEPS[slot] * world.shared[POPULAR, recent[slot]]
        total += STEPS[slot]
    centre = np.float32(middle / total)
    for i in range(len(pool)):
        out[GAP, i] = abs(world.shared[POPULAR, pool[i]] - centre)


@kernel
def sums_of(world: World) -> Array:
    """Room for the sums over terms, zero."""
    return np.zeros(max(len(world.filed.rarity), len(world.titled.rarity)), np.float64)


@kernel
def personal(world: World, recent: Array, slots: Array, now: int, together: int, pool: Array, place: Array, out: Array) -> None:
    """The personal features of the pool's items for a user with these recent items, newest first: `out` (PERSONAL, M) float32."""
    personal_by(world, recent, slots, links_of(world, recent), now, together, sums_of(world), pool, place, out)


@kernel
def personal_by(
    world: World, recent: Array, slots: Array, links: Links, now: int, together: int, sums: Array, pool: Array, place: Array, out: Array
) -> None:
    """The same, by what was found before: see `links_of`, `sums_of`."""
    out[:] = 0.0
    if len(recent):
        co_visited(world, recent, links, now, together, place, out)
        text(world, recent, slots, pool, out)
        term_rows(world.filed, recent, sums, pool, place, out[TAGS], out[TAGS_LAST])
        term_rows(world.titled, recent, sums, pool, place, out[WORDS], out[WORDS_LAST])
        creators(world, recent, pool, out)
        dates(world, recent, pool, out)
        gap(world, recent, pool, out)


@kernel
def add_up(world: World, own: Array, pool: Array, weights: Array, base: Array, out: Array) -> None:
    """Scores (M,): `base` (N,), what the shared features add, and the personal ones under the `weights` (F,)."""
    shared = world.shared.shape[0]
    for i in range(len(out)):
        out[i] = base[pool[i]]
    for row in range(PERSONAL):
        weight = weights[shared + row]
        if weight != 0.0:
            for i in range(len(out)):
                out[i] += weight * own[row, i]
    for row in range(COLD):
        weight = weights[shared + PERSONAL + row]
        if weight != 0.0:
            for i in range(len(out)):
                out[i] += weight * own[PERSONAL - COLD + row, i] * world.cold[pool[i]]


@kernel
def gather(world: World, own: Array, pool: Array, chosen: Array, x: Array) -> None:
    """All features of some items of the pool, `chosen` (C,) places in it: `x` (F, >= C) float32."""
    shared = world.shared.shape[0]
    for row in range(shared):
        for c in range(len(chosen)):
            x[row, c] = world.shared[row, pool[chosen[c]]]
    for row in range(PERSONAL):
        for c in range(len(chosen)):
            x[shared + row, c] = own[row, chosen[c]]
    for row in range(COLD):
        for c in range(len(chosen)):
            x[shared + PERSONAL + row, c] = own[PERSONAL - COLD + row, chosen[c]] * world.cold[pool[chosen[c]]]


@kernel
def strongest(hashes: Array, pool: Array, scores: Array, allowed: Array, most: int, out: Array) -> int:
    """Places in the pool of the `most` allowed items with the largest scores, to `out`, in no order; how many. Of equal ones those whose
    hash64 is smaller, which is the same in all processes.
    """
    found, count = np.empty(len(pool), np.float32), 0
    for i in range(len(pool)):
        if allowed[i]:
            found[count] = scores[i]
            count += 1
    if count <= most:
        kept = 0
        for i in range(len(pool)):
            if allowed[i]:
                out[kept] = i
                kept += 1
        return kept
    least = np.partition(found[:count], count - most)[count - most]
    kept, equal = 0, 0
    for i in range(len(pool)):
        if allowed[i]:
            if scores[i] > least:
                out[kept] = i
                kept += 1
            elif scores[i] == least:
                equal += 1
    if kept + equal == most:
        for i in range(len(pool)):
            if allowed[i] and scores[i] == least:
                out[kept] = i
                kept += 1
        return kept
    first = kept
    for i in range(len(pool)):  # of the equal ones the first by hash64
        if allowed[i] and scores[i] == least:
            at = min(kept, most - 1)
            if kept == most and hashes[pool[i]] > hashes[pool[out[at]]]:
                continue
            while at > first and hashes[pool[out[at - 1]]] > hashes[pool[i]]:
                out[at] = out[at - 1]
                at -= 1
            out[at] = i
            kept = min(kept + 1, most)
    return kept


@kernel
def with_pins(hashes: Array, pins: Array, scores: Array, allowed: Array, out: Array, kept: int) -> int:
    """Add the best allowed item of each pin, (P, N) what they match, that is not picked yet and no earlier pin's; how many there are."""
    taken = np.empty(len(pins), np.int64)
    for p in range(len(pins)):
        best = -1
        for i in range(len(scores)):
            if allowed[i] and pins[p, i]:
                better = best < 0 or scores[i] > scores[best] or (scores[i] == scores[best] and hashes[i] < hashes[best])
                for q in range(p):
                    better = better and taken[q] != i
                if better:
                    best = i
        taken[p] = best
        known = best < 0
        for c in range(kept):
            known = known or out[c] == best
        if not known:
            out[kept] = best
            kept += 1
    return kept


@kernel
def pick(world: World, tastes: Tastes, asks: Asks, weights: Array, base: Array, most: int, picked: Picked) -> None:
    """The strongest items of each list by the linear score, `most` of them or as many as are asked for, and those of pins. `weights`
    (situations, F), `base` (situations, N) float32.
    """
    n = len(world.cold)
    every, nowhere = np.arange(n, dtype=np.int32), np.full(n, -1, np.int32)
    everyone, scores, allowed, out = (
        np.empty((PERSONAL, n), np.float32),
        np.empty(n, np.float32),
        np.empty(n, np.bool_),
        np.empty(n, np.int64),
    )
    for b in range(len(tastes.now)):
        start, end, situation = tastes.start[b], tastes.start[b + 1], tastes.situation[b]
        if asks.fixed[b]:
            pool, place = asks.candidates[asks.candidate_start[b] : asks.candidate_start[b + 1]].astype(np.int32), nowhere
            for i in range(len(pool)):
                place[pool[i]] = i
        else:
            pool, place = every, every
        m = len(pool)
        own = everyone if m == n else np.empty((PERSONAL, m), np.float32)
        personal(world, tastes.recent[start:end], tastes.slot[start:end], tastes.now[b], tastes.together[b], pool, place, own)
        add_up(world, own, pool, weights[situation], base[situation], scores[:m])
        if asks.extra[b] >= 0:
            for i in range(m):
                scores[i] += asks.extras[asks.extra[b], pool[i]]
        if asks.shift[b] >= 0:
            for i in range(m):
                scores[i] += asks.shifts[asks.shift[b], pool[i]]
        for w in range(asks.weary_start[b], asks.weary_start[b + 1]):
            if asks.weary[w] >= 0 and place[asks.weary[w]] >= 0:
                scores[place[asks.weary[w]]] -= asks.penalty[w]
        if asks.fixed[b]:
            allowed[:m] = True
            kept = strongest(world.hashes, pool, scores[:m], allowed[:m], m, out)
            for i in range(m):
                place[pool[i]] = -1
        else:
            allowed[:] = asks.masks[asks.mask[b]]
            for at in asks.hidden[asks.hidden_start[b] : asks.hidden_start[b + 1]]:
                if at >= 0:
                    allowed[at] = False
            kept = strongest(world.hashes, pool, scores, allowed, max(most, asks.k[b]), out) if asks.k[b] else 0
            if asks.k[b]:
                kept = with_pins(world.hashes, asks.pins[asks.pin_range[b, 0] : asks.pin_range[b, 1]], scores, allowed, out, kept)
        picked.count[b] = kept
        for c in range(kept):
            picked.items[b, c] = pool[out[c]]
            picked.linear[b, c] = scores[out[c]]
        gather(world, own, pool, out[:kept], picked.x[b])


@kernel
def drawn(state: int) -> int:
    """The next of a row of numbers at random (splitmix64, Steele et al. 2014), of 62 bits; `state` goes on by 1."""
    value = np.uint64(state) * np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int((value ^ (value >> np.uint64(31))) >> np.uint64(2))


class Lessons(NamedTuple):
    """What users took and could have taken, B of them: `open` (N,) what could be, but for `hidden` (indices, -1: none) from
    `hidden_start[b]` on; `taken` (E,) indices from `taken_start[b]` on, with `seeds` (E,) int64 for what is drawn; `most`: how many are
    strong; `draws`: so many are drawn of the strong ones, and as many of the others.
    """

    open: Array
    hidden_start: Array
    hidden: Array
    taken_start: Array
    taken: Array
    seeds: Array
    most: int
    draws: int


@kernel
def contrast(world: World, tastes: Tastes, lessons: Lessons, weights: Array, base: Array, rows: Array, out: Array) -> None:
    """The features of what was taken and of what else could have been: `rows` (E,) of them in `out` (E, 1 + 2 * draws, F + 1) float32, what
    was taken first, then some of the strongest others by the linear `weights` (B, F), with what the shared features add, `base` (B, N),
    then some of the rest; the last column is the logarithm of how many items a row stands for.
    """
    n, features, draws = len(world.cold), weights.shape[1], lessons.draws
    every, scores, own = np.arange(n, dtype=np.int32), np.empty(n, np.float32), np.empty((PERSONAL, n), np.float32)
    open_, strong, rest = np.empty(n, np.bool_), np.empty(max(n, lessons.most), np.int64), np.empty(n, np.int64)
    chosen, x = np.empty(out.shape[1], np.int64), np.empty((features, out.shape[1]), np.float32)
    for b in range(len(tastes.now)):
        start, end = tastes.start[b], tastes.start[b + 1]
        personal(world, tastes.recent[start:end], tastes.slot[start:end], tastes.now[b], tastes.together[b], every, every, own)
        add_up(world, own, every, weights[b], base[b], scores)
        open_[:] = lessons.open
        for at in lessons.hidden[lessons.hidden_start[b] : lessons.hidden_start[b + 1]]:
            if at >= 0:
                open_[at] = False
        for e in range(lessons.taken_start[b], lessons.taken_start[b + 1]):
            open_[lessons.taken[e]] = False
        found = strongest(world.hashes, every, scores, open_, lessons.most, strong)
        for c in range(found):
            open_[strong[c]] = False
        others = 0
        for i in range(n):
            if open_[i]:
                rest[others] = i
                others += 1
        for e in range(lessons.taken_start[b], lessons.taken_start[b + 1]):
            chosen[0], out[e, 0, features], count, state = lessons.taken[e], np.float32(0.0), 1, lessons.seeds[e]
            for part, size in ((strong, found), (rest, others)):
                if size > 0:
                    share = np.float32(np.log(size / draws))
                    for _ in range(draws):
                        state += 1
                        chosen[count], out[e, count, features] = part[drawn(state) % size], share
                        count += 1
            gather(world, own, every, chosen[:count], x)
            for row in range(count):
                for f in range(features):
                    out[e, row, f] = x[f, row]
            rows[e] = count


@kernel
def choose(hashes: Array, asks: Asks, picked: Picked, more: Array, lists: Lists) -> None:
    """The best of each list, best first, by the linear score and `more` (B, C) float32; equal scores by hash64."""
    for b in range(len(picked.count)):
        most = picked.count[b] if asks.fixed[b] else min(picked.count[b], asks.k[b])
        count, at, score = 0, lists.at[b], lists.score[b]
        for c in range(picked.count[b]):
            value = np.float64(picked.linear[b, c]) + np.float64(more[b, c])
            item = hashes[picked.items[b, c]]
            place = min(count, most - 1)
            if count == most and (value < score[place] or (value == score[place] and item > hashes[picked.items[b, at[place]]])):
                continue
            while place > 0 and (score[place - 1] < value or (score[place - 1] == value and hashes[picked.items[b, at[place - 1]]] > item)):
                at[place], score[place] = at[place - 1], score[place - 1]
                place -= 1
            at[place], score[place] = c, value
            count = min(count + 1, most)
        lists.count[b] = count
        for place in range(count):
            lists.best[b, place] = picked.items[b, at[place]]


@kernel
def strongest_links(
    world: World, tastes: Tastes, b: int, links: Links, pool: Array, place: Array, by_text: Array, named: Array, kind: Array
) -> None:
    """Which history items to name for the pool's items, `named` (M, NAMED), and as what: those that they are often used together with, or
    whose text is near. `by_text` (M,): how much a cosine weighs, where the root of a pair's strength weighs 1.
    """
    recent, slots = tastes.recent[tastes.start[b] : tastes.start[b + 1]], tastes.slot[tastes.start[b] : tastes.start[b + 1]]
    paired = np.zeros((len(pool), len(recent)), np.float64)
    for slot in range(len(recent)):
        at = recent[slot]
        factors = neighbour_factors(world, at, slot, tastes.now[b], tastes.together[b])
        for entry in range(links.first[slot], links.end[slot]):
            other = links.others[entry]
            paired[place[other], slot] = np.sqrt(factors[0] * links.weights[entry, LASTING] * world.root[other])
    taken = np.zeros(len(recent), np.bool_)
    for i in range(len(pool)):
        taken[:] = False
        for n in range(NAMED):
            best, most, why = -1, 0.0, -1
            for slot in range(len(recent)):
                alike = by_text[i] * STEPS[slot] * world.near[slots[slot], pool[i]]
                value = max(paired[i, slot], alike)
                if not taken[slot] and value > most:
                    best, most, why = slot, value, WITH if paired[i, slot] >= alike else ALIKE
            named[i, n], kind[i, n] = best, why
            if best >= 0:
                taken[best] = True


@kernel
def rows_again(tastes: Tastes, asks: Asks, lists: Lists) -> int:
    """How many rows `look_again` takes at most."""
    count = 0
    for b in range(len(lists.count)):
        if asks.told[b]:
            count += VARIANTS + min(NAMED * lists.count[b], tastes.start[b + 1] - tastes.start[b])
    return count


@kernel
def without(values: Array, at: int) -> Array:
    """All but one of some values."""
    left = np.empty(len(values) - 1, values.dtype)
    for n in range(len(left)):
        left[n] = values[n + (n >= at)]
    return left


@kernel
def look_again(world: World, tastes: Tastes, asks: Asks, lists: Lists, weights: Array, base: Array, middle: Array, again: Again) -> int:
    """Work the features of listed items out again in the ways of VARIANTS, and without each history item that is to be named. `middle` (F,)
    float32: each feature of items as they mostly are. How many rows.
    """
    n, rows, sums = len(world.cold), 0, sums_of(world)
    place = np.full(n, -1, np.int32)
    for b in range(len(lists.count)):
        if not asks.told[b]:
            continue
        count, situation = lists.count[b], tastes.situation[b]
        pool, every = lists.best[b, :count].astype(np.int32), np.arange(count)
        for i in range(count):
            place[pool[i]] = i
        own, weight = np.zeros((PERSONAL, count), np.float32), weights[situation]
        recent, slots = tastes.recent[tastes.start[b] : tastes.start[b + 1]], tastes.slot[tastes.start[b] : tastes.start[b + 1]]
        by_text = np.empty(count, np.float64)
        for i in range(count):
            by_text[i] = 1.0 + world.cold[pool[i]]
        named, kind = again.named[b, :count], again.kind[b, :count]
        links = links_to(links_of(world, recent), place)
        strongest_links(world, tastes, b, links, pool, place, by_text, named, kind)
        for way in range(VARIANTS + len(recent)):
            left_out, together = way - VARIANTS, 0
            if left_out >= 0:
                wanted = False
                for i in range(count):
                    for m in range(NAMED):
                        wanted = wanted or named[i, m] == left_out
                if not wanted:
                    continue
                others, other_slots = without(recent, left_out), without(slots, left_out)
                left = Links(without(links.first, left_out), without(links.end, left_out), links.others, links.weights)
                together = tastes.together[b] - (left_out < tastes.together[b])
                personal_by(world, others, other_slots, left, tastes.now[b], together, sums, pool, place, own)
            again.list[rows], again.way[rows], again.count[rows], again.situation[rows] = b, way, count, situation
            again.context[rows] = tastes.context[b]
            again.context[rows, IN_SESSION] = min(together / MANY, 1.0)
            add_up(world, own, pool, weight, base[situation], again.linear[rows, :count])
            gather(world, own, pool, every, again.x[rows])
            if way in (UNKNOWN, PLAIN):
                for row in range(again.x.shape[1]):
                    if way == PLAIN or row < POPULARITY:
                        again.x[rows, row, :count] = middle[row]
            rows += 1
        for i in range(count):
            place[pool[i]] = -1
    return rows


@kernel
def add_part(value: float, kind: int, slot: int, lists: Lists, b: int, place: int, digits: float) -> None:
    """Add a part in its place, largest first, unless it rounds to nothing."""
    value = np.round(value * digits) / digits
    if value == 0.0:
        return
    at = lists.parts[b, place]
    while at > 0 and abs(lists.weight[b, place, at - 1]) < abs(value):
        lists.kind[b, place, at], lists.slot[b, place, at] = lists.kind[b, place, at - 1], lists.slot[b, place, at - 1]
        lists.weight[b, place, at] = lists.weight[b, place, at - 1]
        at -= 1
    lists.kind[b, place, at], lists.slot[b, place, at], lists.weight[b, place, at] = kind, slot, value
    lists.parts[b, place] += 1


@kernel
def tell(
    world: World, tastes: Tastes, asks: Asks, lists: Lists, weights: Array, again: Again, rows: int, more: Array, digits: float
) -> None:
    """The parts of the scores of all lists. `more` (R, K) float32: what the network adds to the rows of `again`."""
    row = 0
    while row < rows:
        b = again.list[row]
        end = row
        while end < rows and again.list[end] == b:
            end += 1
        weight = weights[tastes.situation[b]]
        for i in range(lists.count[b]):
            item = lists.best[b, i]
            lists.parts[b, i] = 0  # filled in again, a list says no more than before
            total, popular = lists.score[b, i], 0.0
            if asks.shift[b] >= 0:
                total -= np.float64(asks.shifts[asks.shift[b], item])
            if asks.extra[b] >= 0:
                asked = np.float64(asks.extras[asks.extra[b], item])
                add_part(asked, QUERY, -1, lists, b, i, digits)
                total -= asked
            for w in range(asks.weary_start[b], asks.weary_start[b + 1]):
                if asks.weary[w] == item:
                    add_part(-np.float64(asks.penalty[w]), SHOWN, -1, lists, b, i, digits)
                    total += np.float64(asks.penalty[w])
            for feature in range(POPULARITY):
                popular += np.float64(weight[feature]) * world.shared[feature, item]
            alone, bias = np.float64(again.linear[row, i]), np.float64(more[row + PLAIN, i])
            by_popularity = np.float64(more[row, i]) - np.float64(more[row + UNKNOWN, i])
            add_part(popular + by_popularity, BY_POPULARITY, -1, lists, b, i, digits)
            add_part(alone - popular + np.float64(more[row + UNKNOWN, i]) - bias, BY_AGE, -1, lists, b, i, digits)
            add_part(bias, BIAS, -1, lists, b, i, digits)
            rest = total - alone - np.float64(more[row, i])
            for r in range(row + VARIANTS, end):
                for m in range(NAMED):
                    if again.named[b, i, m] == again.way[r] - VARIANTS:
                        lost = total - np.float64(again.linear[r, i]) - np.float64(more[r, i])
                        add_part(lost, again.kind[b, i, m], again.way[r] - VARIANTS, lists, b, i, digits)
                        rest -= lost
            add_part(rest, HISTORY, -1, lists, b, i, digits)
        row = end
