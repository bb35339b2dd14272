"""Small networks that correct the linear score, learned online from the same examples. They see an item's features at once, so they know
when to trust which: text where nobody has been, popularity where little is known of the user.

MEMBERS networks of one hidden layer of HIDDEN rectified units, alike but for their random beginnings, are averaged (Lakshminarayanan et al.
2017). Their last weights begin at zero, so that nothing is added before something is learned. Each learns by a step of Adagrad (Duchi
et al., 2011) on each example, by the same loss as the linear ranker, to whose score it is added (stacking, Wolpert 1992).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.features import CONTEXT, NAMES, SITUATIONS
from engine.jit import kernel
from engine.space import Floats

Array = Any  # numba knows the type from the argument; mypy would need it in every expression

MEMBERS, HIDDEN = 4, 32
BLOCK = 512
"""Items that `forward` works on at once: their inputs stay in the fast memory of a core."""
INPUTS = len(NAMES) + CONTEXT + SITUATIONS
"""Features of the item, then what says how much is known of the user, then the situation, 1 where it is this one."""
SCALED = len(NAMES) + CONTEXT
"""The first so many inputs are moved to a mean of 0 and scaled to a deviation of 1 over the examples' rows."""
SETTLED = 100_000
"""Rows of examples after which mean and deviation stay: some 2,500 examples. Moving them moves what has been learned."""
LOW, HIGH = np.float32(-5.0), np.float32(8.0)
"""Deviations beyond which an input counts no more: one odd item must not move everything."""
LARGEST = 1e6
"""Features are of the order of 1: what is far beyond is damage, and must not overflow."""
FLAT = np.float32(1e-3)
"""Added to a deviation: an input that never changes says nothing."""
RATE = 0.1
FIRST_SQUARES = np.float32(1e-2)
SPREAD = 0.5
"""Deviation of the first weights, over the root of the number of inputs."""
BIASES = 0.05
SEED = 20_161
MEMORY = 1_000.0
"""Examples over which it is looked whether the networks help."""
ENOUGH = 500
"""Examples before the networks are trusted: what they say after a few is chance."""


class Net(NamedTuple):
    """What `forward` works from: `middle`, `scale` (SCALED,), `first` (INPUTS, MEMBERS * HIDDEN), `bias`, `last` (MEMBERS * HIDDEN,); all
    float32.
    """

    middle: Array
    scale: Array
    first: Array
    bias: Array
    last: Array


@kernel
def forward(net: Net, counts: Array, x: Array, context: Array, situation: Array, out: Array) -> None:
    """What the networks add, averaged: `out` (R, C) float32, to items with features `x` (R, F, C), the first `counts[r]` of row r, in
    `context` (R, CONTEXT) and `situation` (R,).

    Short rows are worked out together, some BLOCK items at a time; each item's sums are made in one order, whatever else is in the batch.
    """
    features, units, members, room = x.shape[1], len(net.bias), np.float32(MEMBERS), max(BLOCK, x.shape[2])
    z, hidden, result = np.empty((features, room), np.float32), np.empty((4, room), np.float32), np.empty(room, np.float32)
    zero, first = np.float32(0.0), 0
    while first < len(counts):
        end, width = first, 0
        while end < len(counts) and width + counts[end] <= room:
            for f in range(features):
                middle, scale = net.middle[f], net.scale[f]
                for c in range(counts[end]):
                    z[f, width + c] = min(HIGH, max(LOW, (x[end, f, c] - middle) * scale))
            width += counts[end]
            end += 1
        result[:width] = zero
        for unit in range(0, units, 4):
            begin_with(net, unit, counts[first:end], context[first:end], situation[first:end], features, hidden)
            h0, h1, h2, h3 = hidden[0], hidden[1], hidden[2], hidden[3]
            for f in range(features):
                w0, w1, w2, w3 = net.first[f, unit], net.first[f, unit + 1], net.first[f, unit + 2], net.first[f, unit + 3]
                row = z[f]
                for c in range(width):
                    value = row[c]
                    h0[c] += w0 * value
                    h1[c] += w1 * value
                    h2[c] += w2 * value
                    h3[c] += w3 * value
            l0, l1, l2, l3 = net.last[unit], net.last[unit + 1], net.last[unit + 2], net.last[unit + 3]
            for c in range(width):
                result[c] += l0 * max(h0[c], zero) + l1 * max(h1[c], zero) + l2 * max(h2[c], zero) + l3 * max(h3[c], zero)
        at = 0
        for r in range(first, end):
            for c in range(counts[r]):
                out[r, c] = result[at + c] / members
            at += counts[r]
        first = end


@kernel
def begin_with(net: Net, unit: int, counts: Array, context: Array, situation: Array, features: int, hidden: Array) -> None:
    """What four units of the networks have from the context and the situation alone, for each item of some rows, one after the other."""
    at = 0
    for r in range(len(counts)):
        for n in range(4):
            start = net.bias[unit + n] + net.first[features + context.shape[1] + situation[r], unit + n]
            for f in range(context.shape[1]):
                value = min(HIGH, max(LOW, (context[r, f] - net.middle[features + f]) * net.scale[features + f]))
                start += value * net.first[features + f, unit + n]
            hidden[n, at : at + counts[r]] = start
        at += counts[r]


@kernel
def learn(net: Net, squares: Net, z: Array, base: Array, weight: float, rate: float) -> tuple[float, float]:
    """One step of each network on one example; gives the logarithms of the probability that what was taken had, by the linear score alone
    and with the networks.

    `z` (n, INPUTS) float32, scaled, the item taken first; `base` (n,) float32: linear scores, with the correction for sampling; `weight`:
    how much it counts. A step that is not finite is not taken.
    """
    n, inputs, units = len(z), z.shape[1], len(net.bias)
    hidden, added = np.empty((n, units), np.float32), np.zeros((MEMBERS, n), np.float32)
    for r in range(n):
        hidden[r] = net.bias
        for f in range(inputs):
            value = z[r, f]
            if value != np.float32(0.0):
                row = net.first[f]
                for unit in range(units):
                    hidden[r, unit] += value * row[unit]
        for unit in range(units):
            hidden[r, unit] = max(hidden[r, unit], np.float32(0.0))
            added[unit // HIDDEN, r] += net.last[unit] * hidden[r, unit]
    before, after = np.empty(n, np.float32), np.zeros(n, np.float32)
    for r in range(n):
        before[r] = base[r]
        for member in range(MEMBERS):
            after[r] += added[member, r] / np.float32(MEMBERS)
        after[r] += base[r]
    result = (log_share(before), log_share(after))
    gain = np.empty((MEMBERS, n), np.float32)
    for member in range(MEMBERS):
        own = gain[member]
        for r in range(n):
            own[r] = base[r] + added[member, r]
        most = own.max()
        total = np.float32(0.0)
        for r in range(n):
            own[r] = np.exp(own[r] - most)
            total += own[r]
        for r in range(n):
            own[r] = -np.float32(weight) * own[r] / total
        own[0] += np.float32(weight)
        if not np.isfinite(own.sum()):
            return -np.inf, -np.inf
    first, back = np.zeros((inputs, units), np.float32), np.empty(units, np.float32)
    last, bias = np.zeros(units, np.float32), np.zeros(units, np.float32)
    for r in range(n):
        for unit in range(units):
            active, own_gain = hidden[r, unit], gain[unit // HIDDEN, r]
            last[unit] += own_gain * active
            back[unit] = own_gain * net.last[unit] if active > np.float32(0.0) else np.float32(0.0)
            bias[unit] += back[unit]
        for f in range(inputs):
            value = z[r, f]
            if value != np.float32(0.0):
                row = first[f]
                for unit in range(units):
                    row[unit] += value * back[unit]
    step(net.last, squares.last, last, rate)
    step(net.bias, squares.bias, bias, rate)
    for f in range(inputs):
        step(net.first[f], squares.first[f], first[f], rate)
    return result


@kernel
def step(weights: Array, squares: Array, gradient: Array, rate: float) -> None:
    """A step of Adagrad upwards."""
    for n in range(len(weights)):
        squares[n] += gradient[n] * gradient[n]
        weights[n] += np.float32(rate) * gradient[n] / np.sqrt(squares[n])


@kernel
def log_share(scores: Array) -> float:
    """Logarithm of the share that the first of some scores has under softmax."""
    most, total = np.float64(scores.max()), 0.0
    for score in scores:
        total += np.exp(np.float64(score) - most)
    return float(np.float64(scores[0]) - most - np.log(total))


@dataclass
class Network:
    """Weights and what belongs to learning them. `net` and `squares` (sums of squared gradients) as of `Net`; the `middle` and `scale` of
    `net` follow from `rows` seen, their `sums` and `sums_squared` (SCALED,) float64. `edge`: how much better than the linear score alone,
    in nats an example, over the last MEMORY or so of `learned` examples, each judged before it was learned.
    """

    net: Net
    squares: Net
    sums: NDArray[np.float64]
    sums_squared: NDArray[np.float64]
    rows: int = 0
    learned: int = 0
    edge: float = 0.0

    @classmethod
    def new(cls) -> Network:
        """As it begins: it adds nothing."""
        rng, units = np.random.default_rng(SEED), MEMBERS * HIDDEN
        first = (rng.standard_normal((INPUTS, units)) * SPREAD / np.sqrt(INPUTS)).astype(np.float32)
        bias = (rng.standard_normal(units) * BIASES).astype(np.float32)
        net = Net(np.zeros(SCALED, np.float32), np.ones(SCALED, np.float32), first, bias, np.zeros(units, np.float32))
        return cls(net, Net(*(np.full_like(part, FIRST_SQUARES) for part in net)), np.zeros(SCALED), np.zeros(SCALED))

    @property
    def trusted(self) -> bool:
        """Whether it does better than the linear score alone; where it does not, nothing is added."""
        return self.learned >= ENOUGH and self.edge > 0.0

    def learn(self, features: Floats, base: Floats, context: Sequence[float], situation: int, weight: float) -> None:
        """One step: `features` (n, F) of an example, `base` (n,) linear scores with the correction for sampling."""
        x = np.empty((len(features), SCALED), np.float32)
        x[:, : len(NAMES)], x[:, len(NAMES) :] = features, context
        if not np.isfinite(x).all():
            return
        np.clip(x, -LARGEST, LARGEST, out=x)
        if self.rows < SETTLED:
            self._look_at(x)
        z = np.zeros((len(x), INPUTS), np.float32)
        z[:, :SCALED] = np.clip((x - self.net.middle) * self.net.scale, LOW, HIGH)
        z[:, SCALED + situation] = 1.0
        with np.errstate(over="ignore"):  # what is not finite makes no step
            linear = base.astype(np.float32)
        before, after = learn(self.net, self.squares, z, linear, weight, RATE)
        if np.isfinite(after - before):
            self.learned += 1
            self.edge += (after - before - self.edge) / min(self.learned, MEMORY)

    def added(self, features: Floats, context: Sequence[float], situation: int) -> Floats:
        """(n,) float32 what it adds to items with `features` (n, F)."""
        out = np.zeros((1, len(features)), np.float32)
        if self.trusted:
            counts = np.array([len(features)])
            x = np.ascontiguousarray(features.T[None], np.float32)
            forward(self.net, counts, x, np.array([context], np.float32), np.array([situation]), out)
        added: Floats = out[0]
        return added

    def finite(self) -> bool:
        """Whether all weights are."""
        return all(np.isfinite(part).all() for part in (*self.net, *self.squares))

    def _look_at(self, x: Floats) -> None:
        self.rows += len(x)
        self.sums += x.sum(0, dtype=np.float64)
        self.sums_squared += (x.astype(np.float64) ** 2).sum(0)
        middle = self.sums / self.rows
        deviation = np.sqrt(np.maximum(0.0, self.sums_squared / self.rows - middle**2))
        self.net.middle[:], self.net.scale[:] = middle, 1.0 / (deviation + FLAT)
