"""Settings chosen by how well each rating of a history is predicted just before it is learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from factorstream.worker.errors import UserMistake

if TYPE_CHECKING:
    import optuna

Values = Mapping[str, float | int]
"""Key → value."""
DIGITS = 3
"""Of a number that is tried: what is written to a file is what was measured."""
REACH = 4.0
"""A setting is looked for from its value divided by this to its value times this."""
STARTUP_TRIALS = 5
"""Before trials are cut short that are worse than the median of those before."""
MOST = {"sgd.fold_in": 256}
"""Settings that have a largest value."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One choice of settings, and how it did."""

    values: Values
    rmse: float
    """Over the ratings that it was tried on; NaN when it diverged."""
    complete: bool
    """Whether that is the whole history: a trial that is worse than most is cut short."""


def check_installed() -> None:
    """Raise `UserMistake` when optuna is missing."""
    if find_spec("optuna") is None:
        raise UserMistake("'factorstream tune' needs optuna: pip install 'factorstream[tune]'")


def tune(
    evaluate: Callable[[Values], Iterator[float]], values: Values, errors: Sequence[float], *, n_trials: int, seed: int
) -> Iterator[Trial]:
    """Yield *n_trials* trials around *values*, each when it is done. A value that is 0 stays so.

    The search is a tree-structured Parzen estimator (Bergstra et al. 2011), a function of *seed* and of what *evaluate* says.

    Args:
        evaluate: Yields the error up to some places of the history, the last of them its end.
        errors: What it yields for *values*.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS, multivariate=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=1),
    )
    space = {key: _around(key, value) for key, value in values.items() if value}
    known = {key: values[key] for key in space}
    study.add_trial(
        optuna.trial.create_trial(
            params=known, distributions=space, value=errors[-1], intermediate_values=dict(enumerate(errors))
        )
    )
    for _ in range(n_trials):
        trial = study.ask(space)
        tried = {key: _rounded(value) for key, value in trial.params.items()}
        yield _tried(study, trial, tried, evaluate(tried))


def _around(key: str, value: float | int) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import FloatDistribution, IntDistribution

    high = min(REACH * value, MOST.get(key, math.inf))
    if isinstance(value, int):
        return IntDistribution(max(1, int(value / REACH)), int(high), log=True)
    return FloatDistribution(value / REACH, high, log=True)


def _rounded(value: float | int) -> float | int:
    return value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")


def _tried(study: optuna.Study, trial: optuna.Trial, values: Values, errors: Iterator[float]) -> Trial:
    from optuna.trial import TrialState

    error = math.nan
    for step, error in enumerate(errors):
        if not math.isfinite(error):
            study.tell(trial, state=TrialState.FAIL)
            return Trial(values, math.nan, complete=False)
        trial.report(error, step)
        if trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return Trial(values, error, complete=False)
    study.tell(trial, error)
    return Trial(values, error, complete=True)
