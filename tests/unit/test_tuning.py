"""Tuning looks around what is set, finds what is better, and finds the same again."""

import math

import pytest

from factorstream.worker import tuning
from factorstream.worker.cli import tune as tune_module
from factorstream.worker.cli.tune import tune as tune_command
from factorstream.worker.config import load
from factorstream.worker.model.level import Level

BEGUN = {"sgd.learning_rate": 0.1, "als.lambda_user": 8.0, "sgd.fold_in": 8, "sgd.decay": 0.0}
BEST = {"sgd.learning_rate": 0.2, "als.lambda_user": 5.0, "sgd.fold_in": 20}


def errors(values, n_pieces=4):
    """Return a bowl's height at *values*, as if nearer to it with every piece of a history."""
    height = sum(math.log(values[key] / best) ** 2 for key, best in BEST.items())
    return [1.0 + height * (2.0 - piece / n_pieces) for piece in range(n_pieces)]


def tune(*, n_trials=60, seed=0, evaluate=errors):
    return list(tuning.tune(lambda values: iter(evaluate(values)), BEGUN, errors(BEGUN), n_trials=n_trials, seed=seed))


def test_what_is_better_is_found_and_found_again():
    trials = tune()
    best = min((trial for trial in trials if trial.complete), key=lambda trial: trial.rmse)
    assert best.rmse - 1.0 < 0.3 * (errors(BEGUN)[-1] - 1.0)
    assert best.rmse == errors(best.values)[-1], "what is told is what was measured, digit for digit"
    assert tune() == trials
    assert tune(seed=1) != trials


def test_values_stay_near_and_whole_ones_whole_and_zero_is_left_alone():
    for trial in tune(n_trials=20):
        assert trial.values.keys() == BEST.keys()
        assert isinstance(trial.values["sgd.fold_in"], int)
        for key, value in trial.values.items():
            assert BEGUN[key] / 4.01 <= value <= BEGUN[key] * 4.01


def test_what_is_worse_than_most_is_cut_short():
    drawn = []

    def evaluate(values):
        for error in errors(values):
            drawn.append(error)
            yield error

    trials = tune(evaluate=evaluate)
    assert any(not trial.complete for trial in trials)
    assert len(drawn) < 4 * len(trials)


def test_what_diverges_is_no_choice():
    trials = tune(n_trials=6, evaluate=lambda values: [1.0, math.nan, 1.0])
    assert all(not trial.complete and math.isnan(trial.rmse) for trial in trials)


def test_without_optuna_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(tuning, "find_spec", lambda name: None)
    with pytest.raises(tuning.UserMistake, match=r"pip install 'factorstream\[tune\]'"):
        tuning.check_installed()


def test_a_large_step_is_looked_around_as_a_small_one():
    begun = {"sgd.bias_learning_rate": 90.0}
    trials = list(tuning.tune(lambda values: iter([values["sgd.bias_learning_rate"]]), begun, [90.0], n_trials=3, seed=0))
    assert all(22.4 < trial.values["sgd.bias_learning_rate"] < 361 for trial in trials)


LAMBDAS = {"als.lambda_user", "als.lambda_item", "als.lambda_bias"}


@pytest.mark.parametrize(
    ("assignments", "tuned"),
    [
        ([], set()),
        (["als.lambda_item=3"], {"als.lambda_item"}),
        (["model.learn_priors=false"], LAMBDAS),
        (["als.weighted=true"], LAMBDAS),
        (["model.nonnegative=true"], LAMBDAS - {"als.lambda_bias"}),
    ],
)
def test_what_the_model_learns_itself_is_left_to_it(assignments, tuned):
    values = tune_module._values(load(None, assignments, {}), Level())
    assert LAMBDAS & values.keys() == tuned
    load(None, [*assignments, *(f"{key}={value}" for key, value in values.items())], {})


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ("model.learner=posterior", "estimates its own"),
        ("model.loss=implicit", "model.loss = squared"),
        ("model.nonnegative=true", "at least 0"),
    ],
)
def test_what_tuning_changes_nothing_of_or_cannot_learn_is_refused(told, why, tmp_path):
    file = tmp_path / "ratings.csv"
    file.write_text("user_id,item_id,rating,timestamp\nu,i,-1,1\n")
    with pytest.raises(tuning.UserMistake, match=why):
        tune_command(file, n_trials=1, assignments=[told])
