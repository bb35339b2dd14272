"""Weights of the features, learned from what users take next: linear ones, which find the strongest of a catalogue, and networks that
correct their order (`engine.network`).

A softmax over the item taken and a sample of those not taken, each standing for as many items as it was drawn from (importance-weighted
sampled softmax, Bengio & Senécal 2008), by stochastic gradient with Adagrad (Duchi et al., 2011). Without that correction the ranker
learns to tell items from those it shows already and forgets the rest.
Each situation (`engine.features.situations`) has its own linear weights on top of common ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NoReturn

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.calibration import Calibration
from engine.errors import StateError
from engine.features import CONTEXT, NAMES, SITUATIONS
from engine.network import Net, Network
from engine.space import Floats

PRIOR = {
    "trending": 0.5,
    "popular": 0.5,
    "new": 0.2,
    "together": 3.0,
    "together_last": 1.5,
    "text": 3.0,
    "text_last": 1.0,
    "text_cold": 1.0,
    "creator": 0.5,
    "tags": 0.5,
    "date": 0.5,
}
"""Weights before anything is learned; the others begin at 0."""
FORMAT = 4


class Example(msgspec.Struct, array_like=True, frozen=True):
    """What was taken and what else could have been, with the features as they were: `features` (1 + negatives, F + 1) float32 bytes, the
    item taken first, the last column the logarithm of how many items the row stands for. `source`, `epoch`, `partition`, `offset`: the
    event that took it; `generation`: that of the features; `context`: the user's
    (`engine.features.contexts`); `weight`: how much it counts; `listed`: of one in some, logarithms of the shares that the first items of
    the user's list had (`engine.calibration`), and `taken`: places in it, from 0, of what was taken.
    """

    source: str
    epoch: int
    partition: int
    offset: int
    situation: int
    features: bytes
    generation: str
    context: tuple[float, ...]
    weight: float = 1.0
    listed: tuple[float, ...] = ()
    taken: tuple[int, ...] = ()

    def matrix(self) -> Floats:
        """(1 + negatives, F + 1) float32.

        Raises:
            ValueError: it has other features, no rows, or a situation that there is not.
        """
        rows = np.frombuffer(self.features, "<f4").reshape(-1, len(NAMES) + 1)
        if not len(rows) or not 0 <= self.situation < SITUATIONS or len(self.context) != CONTEXT:
            told = f"{len(rows)} rows of situation {self.situation} in a context of {len(self.context)} numbers"
            raise ValueError(f"{told}; there are {SITUATIONS} situations and {CONTEXT} numbers")
        return rows


@dataclass
class Ranker:
    """`common` (F,), `own` (SITUATIONS, F) float64, and their sums of squared gradients; `network`: what is added to their scores;
    `calibration`: from shares of these to probabilities.

    `version` counts the examples learned; `generation`: whose features it learned last. A new generation goes on from these weights.
    """

    common: NDArray[np.float64] = field(default_factory=lambda: np.array([PRIOR.get(name, 0.0) for name in NAMES]))
    own: NDArray[np.float64] = field(default_factory=lambda: np.zeros((SITUATIONS, len(NAMES))))
    common_squares: NDArray[np.float64] = field(default_factory=lambda: np.full(len(NAMES), 1e-2))
    own_squares: NDArray[np.float64] = field(default_factory=lambda: np.full((SITUATIONS, len(NAMES)), 1e-2))
    version: int = 0
    generation: str = ""
    network: Network = field(default_factory=Network.new)
    calibration: Calibration = field(default_factory=Calibration)
    rate: float = 0.1
    own_rate: float = 0.05

    def weights(self) -> NDArray[np.float64]:
        """(SITUATIONS, F)."""
        return self.common + self.own

    def finite(self) -> bool:
        """Whether all weights are, and all sums of squares above 0."""
        sums = (self.common_squares, self.own_squares)
        linear = np.isfinite(self.weights()).all() and all((part > 0).all() for part in sums)
        return bool(linear and self.network.finite() and self.calibration.finite())

    def learn(self, example: Example) -> None:
        """One step on one example; a step that is not finite is not taken.

        Raises:
            ValueError: see `Example.matrix`.
        """
        rows, situation = example.matrix(), example.situation
        if example.listed:
            self.calibration.learn(example.listed, example.taken)
        x = rows[:, :-1].astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is looked for just below
            score = x @ (self.common + self.own[situation]) + rows[:, -1]
            share = np.exp(score - score.max())
            gradient = example.weight * (x[0] - (share / share.sum()) @ x)
            usable = np.isfinite(gradient @ gradient)
        if not usable:
            return
        self.network.learn(rows[:, :-1], score, example.context, situation, example.weight)
        self.common_squares += gradient * gradient
        self.common += self.rate * gradient / np.sqrt(self.common_squares)
        self.own_squares[situation] += gradient * gradient
        self.own[situation] += self.own_rate * gradient / np.sqrt(self.own_squares[situation])
        self.version += 1


class NetworkState(msgspec.Struct, array_like=True):
    """Networks as bytes: the arrays of `Network` in its order, `net` and `squares` one part after the other."""

    net: list[bytes]
    squares: list[bytes]
    sums: bytes
    sums_squared: bytes
    rows: int
    learned: int
    edge: float


class RankerState(msgspec.Struct, array_like=True):
    """A ranker as bytes in a row or a record; `applied`: "source/partition" -> (epoch, last offset) of the examples learned."""

    format: int
    version: int
    names: tuple[str, ...]
    arrays: tuple[bytes, bytes, bytes, bytes]
    applied: dict[str, tuple[int, int]]
    generation: str
    network: NetworkState
    calibration: tuple[float, float, float, float, int]


def pack_ranker(ranker: Ranker, applied: dict[str, tuple[int, int]]) -> bytes:
    """The ranker and the positions it covers, as bytes."""
    arrays = (ranker.common, ranker.own, ranker.common_squares, ranker.own_squares)
    packed = (arrays[0].tobytes(), arrays[1].tobytes(), arrays[2].tobytes(), arrays[3].tobytes())
    one = ranker.network
    net, squares = ([part.tobytes() for part in parts] for parts in (one.net, one.squares))
    network = NetworkState(net, squares, one.sums.tobytes(), one.sums_squared.tobytes(), one.rows, one.learned, one.edge)
    learned = ranker.calibration.packed()
    return msgspec.msgpack.encode(RankerState(FORMAT, ranker.version, NAMES, packed, applied, ranker.generation, network, learned))


def unpack_ranker(raw: bytes) -> tuple[Ranker, dict[str, tuple[int, int]]]:
    """The ranker again, and its positions.

    Raises:
        StateError: it is damaged, of another format, has other features, or holds a weight that is not finite.
    """
    try:
        format_ = msgspec.msgpack.decode(raw, type=_Format)
        if format_.format != FORMAT:
            raise StateError("ranker_format", f"format {format_.format}", f"format {FORMAT}", "let the ranker learn anew")
        state = msgspec.msgpack.decode(raw, type=RankerState)
    except msgspec.DecodeError as problem:
        raise StateError("state_damaged", str(problem), "a ranker", "let the ranker learn anew") from problem
    if state.names != NAMES:
        raise StateError("ranker_format", f"features {state.names}", f"features {NAMES}", "let the ranker learn anew")
    fresh = Ranker()
    linear = (fresh.common, fresh.own, fresh.common_squares, fresh.own_squares)
    arrays = [_like(part, raw) for part, raw in zip(linear, state.arrays, strict=True)]
    one, network = state.network, fresh.network
    net, squares = (
        Net(*(_like(part, raw) for part, raw in zip(network.net, parts, strict=True)))
        if len(parts) == len(network.net)
        else _damaged(parts)
        for parts in (one.net, one.squares)
    )
    sums = (_like(network.sums, one.sums), _like(network.sums_squared, one.sums_squared))
    network = Network(net, squares, *sums, one.rows, one.learned, one.edge)
    common, own, common_squares, own_squares = arrays
    learned = Calibration.unpacked(state.calibration)
    ranker = Ranker(common, own, common_squares, own_squares, state.version, state.generation, network, learned)
    if not ranker.finite():
        raise StateError("ranker_not_finite", "a weight that is not finite", "finite weights", "let the ranker learn anew")
    return ranker, state.applied


class _Format(msgspec.Struct, array_like=True):
    """What all formats begin with."""

    format: int


def _like(part: Any, raw: bytes) -> Any:
    """An array of the shape and type of `part` from bytes."""
    if len(raw) != part.nbytes:
        _damaged(raw)
    return np.frombuffer(raw, part.dtype).reshape(part.shape).copy()


def _damaged(found: Any) -> NoReturn:
    raise StateError("state_damaged", f"an array of {len(found)}", "arrays that fit", "let the ranker learn anew")
