"""What `fit` refuses before it works, and what its course looks like."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from factorstream.worker.cli.curve import curve
from factorstream.worker.cli.fit import Asked
from factorstream.worker.config import load
from factorstream.worker.errors import UserMistake
from factorstream.worker.wiring import learning_of

PLAIN = {
    "method": "als", "n_iterations": None, "until_converged": False, "holdout": 0.0, "holdout_last": False,
    "minibatch": None, "start": "random", "missing": None, "out": None, "checkpoint": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"holdout": 0.1, "holdout_last": True}, "choose one"),
        ({"holdout": 0.1, "checkpoint": "there"}, "takes every rating"),
        ({"holdout_last": True, "checkpoint": "there"}, "takes every rating"),
        ({"minibatch": 5}, "--minibatch is for sgd; als has no batches"),
        ({"missing": "zero"}, "--missing is for svd"),
        ({"method": "svd", "missing": "zero", "checkpoint": "there"}, "take --missing biases"),
        ({"method": "svd", "start": "svd"}, "svd has no start"),
        ({"method": "svd", "until_converged": True}, "svd ends when it has converged"),
    ],
)
def test_options_that_make_no_sense_together_are_refused_with_the_reason(options, why):
    Asked(**PLAIN).check()
    with pytest.raises(UserMistake, match=why):
        Asked(**PLAIN | options).check()


@pytest.mark.parametrize("method", ["sgd", "svd"])
@pytest.mark.parametrize("told", ["model.loss=implicit", "model.learner=posterior"])
def test_what_needs_exact_solves_is_not_learned_otherwise(method, told):
    learning = learning_of(load(None, [told], {}))
    Asked(**PLAIN).check_against(learning)
    with pytest.raises(UserMistake, match="als"):
        Asked(**PLAIN | {"method": method}).check_against(learning)


def test_unless_told_otherwise_it_goes_on_until_it_has_converged_or_as_long_as_is_worth_it():
    counts = [Asked(**PLAIN | options).most_iterations for options in ({}, {"until_converged": True}, {"n_iterations": 3})]
    assert counts == [15, 500, 3]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200))
@example([0.0, 5e-324])
def test_a_curve_goes_from_the_largest_to_the_smallest(values):
    lines = curve(values, width=40, height=5)
    assert len(lines) == 5
    assert f"{max(values):.6g}" in lines[0]
    assert f"{min(values):.6g}" in lines[-1]
    bars = [line.split("│")[1] for line in lines]
    assert max(map(len, bars)) == min(40, len(values))
    assert " " not in bars[-1], "the smallest still shows"


@pytest.mark.parametrize("told", [["model.nonnegative=true"], ["model.loss=logistic"]])
@pytest.mark.parametrize("options", [{"method": "svd"}, {"start": "svd"}])
def test_svd_is_of_numbers_of_any_sign(told, options):
    with pytest.raises(UserMistake, match="svd approximates numbers of any sign"):
        Asked(**PLAIN | options).check_against(learning_of(load(None, told, {})))


def test_nmf_and_newton_are_exact_solves():
    assert [Asked(**PLAIN | {"method": name}).solved_by for name in ("als", "nmf", "newton", "sgd")] == ["als"] * 3 + ["sgd"]
