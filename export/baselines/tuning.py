"""The search for a baseline's parameters on the first 30 % of a stream: fitted on the first 20 %, asked about the next 10 %.

The tree-structured Parzen estimator (Bergstra et al. 2011) as Optuna has it, seeded; sensible parameters are tried first.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.trial import FixedTrial, FrozenTrial, Trial, TrialState

from engine.dataset import Dataset
from engine.protocol import WARM, Table
from export.baselines.course import EVERY, Course, Watch, quality, run, silent
from export.baselines.methods import Context, Method

TRIALS = 20
CASES = 1_000
FIRST = (0.2, 0.1)
"""Share of the stream before the first case: the second where the first leaves fewer than FEWEST cases."""
FEWEST = 500


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was found: the best parameters, their quality on the cases for tuning, how many trials it took, and seconds."""

    params: Mapping[str, Any]
    quality: float
    trials: int
    cases: int
    seconds: float


def course_for(dataset: Dataset, table: Table, *, repeats: bool = False, cases: int = CASES, every: float = EVERY) -> Course:
    """The first 30 % of the stream, and about so many cases in the part that is kept for them."""
    found: Course | None = None
    for first in FIRST:
        found = Course.of(dataset, table, wanted=cases, repeats=repeats, share=WARM, first=first, every=every)
        if len(found.cases) >= min(FEWEST, cases):
            break
    assert found is not None  # noqa: S101 - FIRST is not empty
    return found


def tune(method: Method, context: Context, course: Course, trials: int = TRIALS, watch: Watch = silent) -> Tuned:
    """Try at least `trials` parameters, more of quick methods; `watch` is told of each."""
    count = trials * method.effort
    began = time.perf_counter()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=context.seed, n_startup_trials=min(10, count // 2))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for params in method.first[:count]:
        study.enqueue_trial(dict(params))

    def judge(trial: Trial) -> float:
        with np.errstate(all="ignore"):  # a trial may diverge: what is not finite is no candidate
            found = quality(course, run(method.make(method.suggest(trial, context), context), course))
        watch(trial.number + 1, count)
        return found

    study.optimize(judge, n_trials=count)
    best = study.best_trial
    return Tuned(params_of(method, context, best), study.best_value, len(study.trials), len(course.cases), time.perf_counter() - began)


def params_of(method: Method, context: Context, trial: FrozenTrial) -> Mapping[str, Any]:
    """A trial's parameters as the method takes them."""
    if trial.state is not TrialState.COMPLETE:
        raise ValueError(f"found a trial that is {trial.state.name}, expected one that is complete")
    return method.suggest(FixedTrial(trial.params), context)
