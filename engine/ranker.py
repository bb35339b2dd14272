"""Weights of the features, learned from what users take next. Linear, so that each reason is a true part of the score.

A softmax over the item taken and a sample of those not taken, each standing for as many items as it was drawn from (importance-weighted
sampled softmax, Bengio & Senécal 2008), by stochastic gradient with Adagrad (Duchi et al., 2011). Without that correction the ranker
learns to tell items from those it shows already and forgets the rest.
Each situation (`engine.features.situations`) has its own weights on top of common ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.errors import StateError
from engine.features import NAMES, SITUATIONS
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
FORMAT = 2


class Example(msgspec.Struct, array_like=True, frozen=True):
    """What was taken and what else could have been, with the features as they were: `features` (1 + negatives, F + 1) float32 bytes, the
    item taken first, the last column the logarithm of how many items the row stands for. `source`, `epoch`, `partition`, `offset`: the
    event that took it; `generation`: that of the features.
    """

    source: str
    epoch: int
    partition: int
    offset: int
    situation: int
    features: bytes
    generation: str = ""

    def matrix(self) -> Floats:
        """(1 + negatives, F + 1) float32.

        Raises:
            ValueError: it has other features, no rows, or a situation that there is not.
        """
        rows = np.frombuffer(self.features, "<f4").reshape(-1, len(NAMES) + 1)
        if not len(rows) or not 0 <= self.situation < SITUATIONS:
            raise ValueError(f"{len(rows)} rows of situation {self.situation}; there are {SITUATIONS}")
        return rows


@dataclass
class Ranker:
    """`common` (F,), `own` (SITUATIONS, F) float64, and their sums of squared gradients.

    `version` counts the examples learned; `generation`: whose features it learned last. A new generation goes on from these weights.
    """

    common: NDArray[np.float64] = field(default_factory=lambda: np.array([PRIOR.get(name, 0.0) for name in NAMES]))
    own: NDArray[np.float64] = field(default_factory=lambda: np.zeros((SITUATIONS, len(NAMES))))
    common_squares: NDArray[np.float64] = field(default_factory=lambda: np.full(len(NAMES), 1e-2))
    own_squares: NDArray[np.float64] = field(default_factory=lambda: np.full((SITUATIONS, len(NAMES)), 1e-2))
    version: int = 0
    generation: str = ""
    rate: float = 0.1
    own_rate: float = 0.05

    def weights(self) -> NDArray[np.float64]:
        """(SITUATIONS, F)."""
        return self.common + self.own

    def learn(self, features: Floats, situation: int) -> None:
        """One step on one example, (1 + negatives, F + 1) as of `Example`; a step that is not finite is not taken."""
        x = features[:, :-1].astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is looked for just below
            score = x @ (self.common + self.own[situation]) + features[:, -1]
            share = np.exp(score - score.max())
            gradient = x[0] - (share / share.sum()) @ x
            usable = np.isfinite(gradient @ gradient)
        if not usable:
            return
        self.common_squares += gradient * gradient
        self.common += self.rate * gradient / np.sqrt(self.common_squares)
        self.own_squares[situation] += gradient * gradient
        self.own[situation] += self.own_rate * gradient / np.sqrt(self.own_squares[situation])
        self.version += 1


class RankerState(msgspec.Struct, array_like=True):
    """A ranker as bytes in a row or a record; `applied`: "source/partition" -> (epoch, last offset) of the examples learned."""

    format: int
    version: int
    names: tuple[str, ...]
    arrays: tuple[bytes, bytes, bytes, bytes]
    applied: dict[str, tuple[int, int]]
    generation: str = ""


def pack_ranker(ranker: Ranker, applied: dict[str, tuple[int, int]]) -> bytes:
    """The ranker and the positions it covers, as bytes."""
    arrays = (ranker.common, ranker.own, ranker.common_squares, ranker.own_squares)
    packed = (arrays[0].tobytes(), arrays[1].tobytes(), arrays[2].tobytes(), arrays[3].tobytes())
    return msgspec.msgpack.encode(RankerState(FORMAT, ranker.version, NAMES, packed, applied, ranker.generation))


def unpack_ranker(raw: bytes) -> tuple[Ranker, dict[str, tuple[int, int]]]:
    """The ranker again, and its positions.

    Raises:
        StateError: it is damaged, of another format, has other features, or holds a weight that is not finite.
    """
    try:
        state = msgspec.msgpack.decode(raw, type=RankerState)
    except msgspec.DecodeError as problem:
        raise StateError("state_damaged", str(problem), "a ranker", "let the ranker learn anew") from problem
    if state.format != FORMAT or state.names != NAMES:
        raise StateError(
            "ranker_format", f"format {state.format} with {state.names}", f"format {FORMAT} with {NAMES}", "let the ranker learn anew"
        )
    parts = [np.frombuffer(part) if len(part) % 8 == 0 else np.zeros(0) for part in state.arrays]
    lengths = [len(part) for part in parts]
    if lengths != 2 * [len(NAMES), SITUATIONS * len(NAMES)]:
        raise StateError("state_damaged", f"arrays of {lengths}", f"{len(NAMES)} weights", "let the ranker learn anew")
    common, own, common_squares, own_squares = (part.copy() for part in parts)
    ranker = Ranker(
        common, own.reshape(SITUATIONS, -1), common_squares, own_squares.reshape(SITUATIONS, -1), state.version, state.generation
    )
    if not (np.isfinite(ranker.weights()).all() and (ranker.common_squares > 0).all() and (ranker.own_squares > 0).all()):
        raise StateError("ranker_not_finite", "a weight that is not finite", "finite weights", "let the ranker learn anew")
    return ranker, state.applied
