"""The baselines by name, with what is tuned of each and where the search begins. It fits and judges nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from optuna.trial import BaseTrial

from engine.protocol import Table
from export.baselines.als import ALS
from export.baselines.bpr import BPR
from export.baselines.ease import EASE
from export.baselines.itemknn import SIMILARITIES, ItemKNN
from export.baselines.log import DEPTH, Baseline, Weighting
from export.baselines.popularity import Popularity
from export.baselines.rows import UNITS
from export.baselines.sasrec import STARTS, TARGETS, SASRec

Params = Mapping[str, Any]
MOST_TRAINED = 1_000_000
"""Events that a neural model's first fit goes through at most, all epochs together, but for what eight epochs take: half a minute."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a method is made and tuned for. `span_d`: days that the events for tuning take, the scale of half-lives; `events`: how many the
    first fit of a trial learns.
    """

    table: Table
    span_d: float
    events: int = 1_000
    repeats: bool = False
    seed: int = 0
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Method:
    """A baseline: how it is made of parameters, how a trial proposes some, what is tried first, and how many times the least number of
    trials it gets, since some are quick.
    """

    make: Callable[[Params, Context], Baseline]
    suggest: Callable[[BaseTrial, Context], Params]
    first: tuple[Params, ...]
    effort: int = 1


def _built(kind: Callable[..., Any], params: Params, **given: Any) -> Any:
    """An instance of a dataclass; those of the history's weighting are put into it."""
    inner = {field.name for field in fields(Weighting)} & set(params)
    outer = {name: value for name, value in params.items() if name not in inner}
    weighting = {"weighting": Weighting(**{name: params[name] for name in inner})} if inner else {}
    return kind(**outer, **weighting, **given)


def _history(trial: BaseTrial) -> dict[str, Any]:
    return {
        "depth": trial.suggest_int("depth", 1, DEPTH, log=True),
        "recency": trial.suggest_float("recency", 0.5, 1.0),
        "older": trial.suggest_float("older", 0.02, 1.0, log=True),
    }


def _days(trial: BaseTrial, name: str, context: Context) -> float | None:
    """A half-life or a window in days, or none."""
    if not trial.suggest_categorical(f"{name}_used", [False, True]):
        return None
    return trial.suggest_float(name, context.span_d / 20, context.span_d * 3, log=True)


def _proximity(trial: BaseTrial) -> float:
    return trial.suggest_float("proximity", 0.5, 0.92) if trial.suggest_categorical("proximity_used", [False, True]) else 1.0


def _popularity(trial: BaseTrial, context: Context) -> Params:
    return {"half_life_d": trial.suggest_float("half_life_d", context.span_d / 200, context.span_d * 3, log=True)}


def _item_knn(trial: BaseTrial, context: Context) -> Params:
    similarity = trial.suggest_categorical("similarity", SIMILARITIES)
    found: dict[str, Any] = {
        "similarity": similarity,
        "unit": trial.suggest_categorical("unit", UNITS),
        "neighbours": trial.suggest_int("neighbours", 20, 1000, log=True),
        "half_life_d": _days(trial, "half_life_d", context),
        **_history(trial),
    }
    if similarity == "cosine":
        power, shrink = trial.suggest_float("target_power", 0.1, 0.9), trial.suggest_float("shrink", 0.1, 100, log=True)
        found |= {"target_power": power, "shrink": shrink, "proximity": _proximity(trial)}
    elif similarity == "bm25":
        found |= {"k1": trial.suggest_float("k1", 0.5, 200, log=True), "b": trial.suggest_float("b", 0.0, 1.0)}
    return found


def _ease(trial: BaseTrial, context: Context) -> Params:
    return {
        "unit": trial.suggest_categorical("unit", UNITS),
        "l2": trial.suggest_float("l2", 0.5, 3000, log=True),
        "dropout": trial.suggest_float("dropout", 0.0, 0.8),
        "proximity": _proximity(trial),
        "half_life_d": _days(trial, "half_life_d", context),
        **_history(trial),
    }


def _als(trial: BaseTrial, context: Context) -> Params:
    return {
        "unit": trial.suggest_categorical("unit", UNITS),
        "factors": trial.suggest_int("factors", 16, 256, log=True),
        "regularization": trial.suggest_float("regularization", 1e-3, 30, log=True),
        "alpha": trial.suggest_float("alpha", 0.5, 200, log=True),
        "iterations": trial.suggest_int("iterations", 5, 25),
        "half_life_d": _days(trial, "half_life_d", context),
        **_history(trial),
    }


def _bpr(trial: BaseTrial, context: Context) -> Params:
    found: dict[str, Any] = {
        "unit": trial.suggest_categorical("unit", UNITS),
        "factors": trial.suggest_int("factors", 16, 192, log=True),
        "learning_rate": trial.suggest_float("learning_rate", 0.005, 0.3, log=True),
        "regularization": trial.suggest_float("regularization", 1e-4, 0.1, log=True),
        "iterations": trial.suggest_int("iterations", 20, 250, log=True),
        "recent_d": _days(trial, "recent_d", context),
        "scale": trial.suggest_float("scale", 0.3, 10, log=True),
        "steps": trial.suggest_categorical("steps", [0, 20]),
        **_history(trial),
    }
    if found["steps"]:
        found["rate"] = trial.suggest_float("rate", 0.02, 0.5, log=True)
    return found


def _sasrec(trial: BaseTrial, context: Context) -> Params:
    return {
        "width": trial.suggest_categorical("width", [32, 64, 96]),
        "length": trial.suggest_categorical("length", [20, 50]),
        "layers": trial.suggest_int("layers", 1, 2),
        "heads": trial.suggest_categorical("heads", [1, 2]),
        "dropout": trial.suggest_float("dropout", 0.1, 0.6),
        "learning_rate": trial.suggest_float("learning_rate", 5e-4, 8e-3, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-3, 0.5, log=True),
        "epochs": trial.suggest_float("epochs", 2.0, max(8.0, min(60.0, MOST_TRAINED / max(1, context.events))), log=True),
        "refit": trial.suggest_float("refit", 0.1, 0.4),
        "start": trial.suggest_categorical("start", STARTS),
        "half_life_d": _days(trial, "half_life_d", context),
        "target": trial.suggest_categorical("target", TARGETS) if context.table == "session" else "item",
    }


_WHOLE = {"unit": "history", "half_life_d_used": False, "depth": 50, "recency": 0.9, "older": 0.5}
_SESSION = {**_WHOLE, "unit": "session", "depth": 20, "older": 0.1}
_NEAR = {"proximity_used": True, "proximity": 0.85}
_FAR = {"proximity_used": False}
_COSINE = {"similarity": "cosine", "neighbours": 300, "target_power": 0.5, "shrink": 5.0}
_SMALL = {
    "width": 64,
    "length": 50,
    "layers": 1,
    "heads": 2,
    "dropout": 0.3,
    "weight_decay": 0.01,
    "refit": 0.25,
    "half_life_d_used": False,
}

METHODS: Mapping[str, Method] = {
    "popularity": Method(lambda p, _: _built(Popularity, p), _popularity, ()),
    "item-kNN": Method(
        lambda p, c: _built(ItemKNN, p, threads=c.threads),
        _item_knn,
        ({**_WHOLE, **_COSINE, **_NEAR}, {**_WHOLE, **_COSINE, **_FAR}, {**_SESSION, **_COSINE, **_FAR}),
        4,
    ),
    "ALS": Method(
        lambda p, c: _built(ALS, p, seed=c.seed, threads=c.threads),
        _als,
        tuple(
            {**start, "factors": 64, "regularization": 1.0, "alpha": alpha, "iterations": 15}
            for start, alpha in ((_WHOLE, 5.0), (_WHOLE, 40.0), (_SESSION, 20.0))
        ),
        2,
    ),
    "BPR": Method(
        lambda p, c: _built(BPR, p, seed=c.seed),
        _bpr,
        tuple(
            {**start, "recent_d_used": False, "factors": 64, "learning_rate": 0.05, "regularization": 0.01, "iterations": 100, **more}
            for start, more in ((_WHOLE, {"scale": 2.0, "steps": 0}), (_SESSION, {"scale": 2.0, "steps": 20, "rate": 0.1}))
        ),
        2,
    ),
    "EASE": Method(
        lambda p, c: _built(EASE, p, threads=c.threads),
        _ease,
        tuple(
            {**start, "l2": l2, "dropout": dropout}
            for start, l2, dropout in (
                ({**_WHOLE, **_FAR}, 100.0, 0.0),
                ({**_WHOLE, **_NEAR}, 20.0, 0.3),
                ({**_SESSION, **_FAR}, 50.0, 0.3),
            )
        ),
        3,
    ),
    "SASRec": Method(
        lambda p, c: _built(SASRec, p, repeats=c.repeats, seed=c.seed, threads=c.threads),
        _sasrec,
        tuple(
            {**_SMALL, "learning_rate": 2e-3, "start": start, "epochs": epochs, "target": target}
            for start, epochs, target in (("history", 8.0, "item"), ("session", 8.0, "session"), ("random", 8.0, "session"))
        ),
    ),
}
