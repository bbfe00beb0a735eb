"""Fitting a whole history: one objective, however it is lowered; what is held out is not seen; unknown ids are their priors."""

import itertools
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorstream.worker import fitting, kernels
from factorstream.worker.config import load
from factorstream.worker.errors import UserMistake
from factorstream.worker.fitting.sections import sections_of
from factorstream.worker.kernels.api import Side
from factorstream.worker.kernels.effects import CAUTION
from factorstream.worker.learn.learner import new_model
from factorstream.worker.learn.priors import RIDGE, priors_of
from factorstream.worker.local import generated
from factorstream.worker.model.model import Model
from factorstream.worker.model.ratings import Held
from factorstream.worker.wiring import fresh_model, learning_of
from tests.kernels.objectives import total

CPU = kernels.select("cpu")
NONE = Held(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.int64))


def told(*assignments):
    return learning_of(load(None, assignments, {}))


@st.composite
def histories(draw):
    """Return a small history: every user and item has a row, some no ratings."""
    n_users, n_items = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    pairs = draw(st.lists(st.tuples(st.integers(0, n_users - 1), st.integers(0, n_items - 1)), min_size=1, unique=True))
    users, items = (np.array(side, np.int32) for side in zip(*sorted(pairs), strict=True))
    ratings = np.array(draw(st.lists(st.integers(1, 5), min_size=len(pairs), max_size=len(pairs))), np.float32)
    return Held(users, items, ratings, np.zeros(len(pairs), np.int64)), n_users, n_items


def store(entries, n_users, n_items):
    return fitting.last_writes(*entries, n_users=n_users, n_items=n_items)


def prepared(history, learning, rank=3):
    model = Model(rank, seed=1)
    fitting.prepare(model, store(*history), CPU, learning)
    return model


def steps(model, learning, method, n, holdout=NONE, **options):
    return list(fitting.fit(model, CPU, learning, holdout, method=method, n_iterations=n, seed=0, **options))


@given(histories(), st.booleans(), st.sampled_from(["als", "sgd"]))
def test_the_objective_is_the_formula(history, weighted, method):
    learning = told("als.lambda_user=0.5", "als.lambda_item=0.7", "als.lambda_bias=0.3", f"als.weighted={weighted}")
    model, entries = prepared(history, learning), history[0]
    [step] = steps(model, learning, method, 1)
    p, b, q, c = (array.astype(np.float64) for array in model.parameters())
    value = 0.0
    for user, item, rating in zip(entries.user_rows, entries.item_rows, entries.ratings.astype(np.float64), strict=True):
        value += 0.5 * (rating - model.level.intercept - b[user] - c[item] - p[user] @ q[item]) ** 2
    for factors, biases, rows, penalty in ((p, b, entries.user_rows, 0.5), (q, c, entries.item_rows, 0.7)):
        for row, n in enumerate(np.bincount(rows, minlength=len(biases))):
            weight = n if weighted else 1
            value += weight * (0.5 * penalty * factors[row] @ factors[row] + 0.5 * 0.3 * biases[row] ** 2)
    assert step.objective == pytest.approx(value, rel=1e-12)


@given(histories(), st.sampled_from([0.0, 0.1, 3.0]), st.booleans(), st.integers(1, 4))
def test_exact_solves_never_raise_the_objective(history, penalty, weighted, rank):
    learning = told(*(f"als.lambda_{side}={penalty}" for side in ("user", "item", "bias")), f"als.weighted={weighted}")
    model = prepared(history, learning, rank)
    before = [fitting.objective(model, learning)]
    after = [step.objective for step in steps(model, learning, "als", 5)]
    assert (np.diff(before + after) <= 1e-4 * (1 + before[0])).all()


WAYS = {
    "logistic": (["model.loss=logistic"], lambda x: x > 3),
    "poisson": (["model.loss=poisson"], lambda x: x),
    "ordinal": (["model.loss=ordinal", "model.rating_min=1", "model.rating_max=5"], lambda x: x),
    "l1": (["als.l1_user=0.2", "als.l1_item=0.1"], lambda x: x),
    "nonnegative": (["model.nonnegative=true"], lambda x: x),
}


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=15)
@given(history=histories(), weighted=st.booleans())
def test_every_objective_is_its_formula_and_solves_never_raise_it(way, history, weighted):
    assignments, turned = WAYS[way]
    chosen = load(None, [*assignments, f"als.weighted={weighted}", "model.rank=3"], {})
    learning = learning_of(chosen)
    entries = history[0]._replace(ratings=turned(history[0].ratings).astype(np.float32))
    model = fresh_model(chosen)
    fitting.prepare(model, store(entries, *history[1:]), CPU, learning)
    learning = fitting.learning_of_all(learning, model.level)
    before = [fitting.objective(model, learning)]
    after = [step.objective for step in steps(model, learning, "als", 4)]
    assert (np.diff(before + after) <= 1e-5 * (1 + abs(before[0]))).all()
    held = list(zip(*(column.tolist() for column in entries[:3]), strict=True))
    tables = Side(model.users.factors, model.users.biases), Side(model.items.factors, model.items.biases)
    expected = total(learning.objective(model.level), *tables, held, model.level.intercept)
    assert after[-1] == pytest.approx(expected, rel=1e-9, abs=1e-9)


@settings(max_examples=40)
@given(history=histories(), penalty=st.sampled_from([0.1, 1.0]))
def test_solves_of_rows_held_to_what_they_met_never_raise_the_objective(history, penalty):
    chosen = load(None, ["model.rank=3", f"als.lambda_user={penalty}", "als.lambda_item=0.4", "als.lambda_bias=0.3"], {})
    model, learning, entries = fresh_model(chosen), learning_of(chosen), history[0]
    fitting.prepare(model, store(*history), CPU, learning)
    before = [fitting.objective(model, learning)]
    after = [step.objective for step in steps(model, learning, "als", 6)]
    assert (np.diff(before + after) <= 1e-5 * (1 + abs(before[0]))).all()
    effects, ridge, value = priors_of(model).effects, RIDGE * model.level.spread, 0.0
    for side, (own, weight) in enumerate(((model.users, penalty), (model.items, 0.4))):
        counts = np.bincount(entries[side], minlength=own.n)
        away = np.column_stack((own.factors, own.biases)) - effects[side].told[: own.n] / np.sqrt(counts + CAUTION)[:, None]
        said = effects[side].said[: own.n]
        value += 0.5 * (weight * np.square(away[:, :-1]).sum() + 0.3 * np.square(away[:, -1]).sum())
        value += 0.5 * (ridge * np.square(said[:, :-1]).sum() + RIDGE * np.square(said[:, -1]).sum())
    users, items = entries.user_rows, entries.item_rows
    products = np.einsum("jk,jk->j", model.users.factors[users], model.items.factors[items])
    scores = model.level.intercept + model.users.biases[users] + model.items.biases[items] + products
    assert after[-1] == pytest.approx(value + 0.5 * np.square(entries.ratings - scores).sum(), rel=1e-4, abs=1e-4)


def test_steps_and_solves_end_at_one_objective():
    drawn = generated.ratings(4_000, 200, 100, seed=3)
    history = Held(drawn.users, drawn.items, drawn.ratings, drawn.timestamps_ms), 200, 100
    learning = told("sgd.learning_rate=0.05")
    ends = [steps(prepared(history, learning, 8), learning, method, n)[-1].objective for method, n in (("als", 30), ("sgd", 120))]
    assert ends[1] == pytest.approx(ends[0], rel=0.01)
    assert ends[0] < 0.9 * fitting.objective(prepared(history, learning, 8), learning)


@settings(max_examples=30)
@given(st.integers(1, 200), st.floats(0, 0.99), st.integers(0, 2**40))
def test_a_split_parts_the_pairs_by_the_seed_alone(n, holdout, seed):
    rows = np.arange(n, dtype=np.int32)
    held = store(Held(rows, rows, rows.astype(np.float32), rows.astype(np.int64)), n, n)
    parts, again = fitting.split(held, holdout, seed), fitting.split(held, holdout, seed)
    assert len(parts.holdout.ratings) == round(holdout * n)
    assert sorted([*parts.training.entries().user_rows, *parts.holdout.user_rows]) == rows.tolist()
    assert parts.holdout.user_rows.tolist() == again.holdout.user_rows.tolist()
    assert (parts.training.n_users, parts.training.n_items) == (n, n)


def test_folds_hold_out_each_pair_once():
    rows = np.arange(23, dtype=np.int32)
    held = store(Held(rows, rows, rows.astype(np.float32), rows.astype(np.int64)), 23, 23)
    parts = [fitting.fold(held, number, 5, seed=3) for number in range(5)]
    assert sorted(row for part in parts for row in part.holdout.user_rows) == rows.tolist()
    assert {len(part.holdout.ratings) + part.training.n_ratings for part in parts} == {23}
    assert {len(part.holdout.ratings) for part in parts} == {4, 5}


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=40))
def test_the_last_rating_of_each_user_who_has_two_is_held_out(log):
    log = sorted(log, key=lambda write: write[2])
    users, items, times = (np.array(column) for column in zip(*log, strict=True))
    columns = (users.astype(np.int32), items.astype(np.int32), np.ones(len(log), np.float32), times.astype(np.int64))
    parts = fitting.last_of_each_user(store(Held(*columns), 5, 5), *columns[:2])
    pairs = {user: {item for one, item, _ in log if one == user} for user in range(5)}
    expected = {user: [item for one, item, _ in log if one == user][-1] for user in range(5) if len(pairs[user]) > 1}
    assert dict(zip(parts.holdout.user_rows.tolist(), parts.holdout.item_rows.tolist(), strict=True)) == expected
    assert parts.training.n_ratings == sum(map(len, pairs.values())) - len(expected)


def test_of_several_ratings_of_a_pair_the_last_counts():
    users, items = np.array([0, 0, 1, 0], np.int32), np.array([0, 1, 0, 0], np.int32)
    history = Held(users, items, np.array([1, 2, 3, 4], np.float32), np.array([5, 5, 5, 6], np.int64))
    entries = store(history, 2, 2).entries()
    assert list(zip(*(column.tolist() for column in entries[:3]), strict=True)) == [(0, 0, 4.0), (0, 1, 2.0), (1, 0, 3.0)]


@pytest.mark.parametrize("method", ["als", "sgd"])
def test_an_unknown_id_is_predicted_by_its_prior(method):
    training = Held(*(np.array(c, k) for c, k in (([0, 1], "i4"), ([0, 0], "i4"), ([1, 5], "f4"), ([0, 0], "i8"))))
    holdout = Held(*(np.array(c, k) for c, k in (([2], "i4"), ([1], "i4"), ([4], "f4"), ([0], "i8"))))
    learning = told()
    model = prepared((training, 3, 2), learning)
    [step] = steps(model, learning, method, 1, holdout)
    assert step.holdout_rmse == pytest.approx(1.0)  # 4 − the mean of 1 and 5


def test_predictions_are_clipped_to_the_training_ratings():
    one = Held(*(np.array(c, k) for c, k in (([0, 0], "i4"), ([0, 1], "i4"), ([5, 5], "f4"), ([0, 0], "i8"))))
    model = prepared((one, 1, 2), told())
    model.users.biases[:] = 9.0
    assert fitting.rmse(model, told(), one) == 0.0
    assert fitting.rmse(model, told(), NONE) is None


@settings(max_examples=20)
@given(histories())
def test_the_same_seed_gives_the_same_model(history):
    learning = told()
    models = [prepared(history, learning) for _ in range(2)]
    for model in models:
        steps(model, learning, "sgd", 2)
    assert models[0].state_hash() == models[1].state_hash()


@settings(max_examples=20)
@given(histories(), st.integers(1, 40))
def test_minibatches_change_no_bit(history, minibatch):
    learning = told()
    one, other = prepared(history, learning), prepared(history, learning)
    steps(one, learning, "sgd", 3)
    steps(other, learning, "sgd", 3, minibatch=minibatch)
    assert one.state_hash() == other.state_hash()


@given(histories(), st.integers(1, 40), st.integers(0, 100))
def test_sections_hold_every_rating_once_and_their_blocks_share_no_row(history, minibatch, seed):
    held = store(*history)
    sections = list(sections_of(held, np.random.default_rng(seed), minibatch))
    pairs = []
    for section in sections:
        seen = set(), set()
        for batch, apart in section:
            assert 0 < len(batch.ratings) <= minibatch
            assert apart[0] == 0
            assert apart[-1] == len(batch.ratings)
            for first, stop in itertools.pairwise(apart):
                for rows, others in zip((batch.user_rows, batch.item_rows), seen, strict=True):
                    block = set(rows[first:stop].tolist())
                    assert not block & others or first == 0  # a block may go on in the next batch
                    others |= block
            pairs += zip(batch.user_rows.tolist(), batch.item_rows.tolist(), batch.ratings.tolist(), strict=True)
    assert sorted(pairs) == sorted(zip(*(column.tolist() for column in history[0][:3]), strict=True))


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    drawn = generated.ratings(20_000, 400, 200, seed=3)
    history = Held(drawn.users, drawn.items, drawn.ratings, drawn.timestamps_ms), 400, 200
    monkeypatch.setattr(CPU, "WORTH_A_THREAD", 1)
    hashes = set()
    for threads in (1, 2):
        monkeypatch.setattr(CPU, "threads", threads)
        model = prepared(history, told(), 8)
        steps(model, told(), "sgd", 4)
        hashes.add(model.state_hash())
    assert len(hashes) == 1


@pytest.mark.parametrize(("rank", "noise", "at_most"), [(3, 0.2, 0.99), (1, 1.5, 1.006)], ids=["much to learn", "little"])
def test_a_lambda_that_is_learned_suits_the_data(rank, noise, at_most):
    """By sgd; beside the one λ for all data, which suits data with little to learn."""
    drawn = generated.ratings(60_000, 1_000, 400, seed=5, rank=rank, noise=noise)
    held = store(Held(drawn.users, drawn.items, drawn.ratings, drawn.timestamps_ms), 1_000, 400)
    parts = fitting.split(held, 0.1, seed=0)
    errors = []
    for learned in (True, False):
        learning = told(f"model.learn_priors={learned}")
        model = Model(16, seed=1)
        fitting.prepare(model, fitting.split(held, 0.1, seed=0).training, CPU, learning)
        errors.append(steps(model, learning, "sgd", 20, parts.holdout)[-1].holdout_rmse)
    assert errors[0] < at_most * errors[1]


@pytest.mark.parametrize("method", ["als", "sgd"])
def test_it_ends_when_a_pass_changes_nothing_any_more(method):
    drawn = generated.ratings(4_000, 200, 100, seed=3)
    history = Held(drawn.users, drawn.items, drawn.ratings, drawn.timestamps_ms), 200, 100
    learning = told()
    done = steps(prepared(history, learning, 4), learning, method, 400, until_converged=True)
    values = np.array([step.objective for step in done])
    changes = np.abs(np.diff(values)) / values[1:]
    assert 2 < len(done) < 400
    assert changes[-1] < 1e-4 <= changes[:-1].min()


def save_nothing(path):
    path.write_bytes(b"")


def save_one_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def save_fewer_rows_than_ids(path):
    rows = {"ids": np.array(["u0", "u1"]), "factors": np.zeros((1, 3), np.float32), "biases": np.zeros(1, np.float32)}
    np.savez(path, **{f"{side}_{name}": table for side in ("user", "item") for name, table in rows.items()})


@pytest.mark.parametrize("wrong", [save_nothing, save_one_array, save_fewer_rows_than_ids])
def test_a_file_that_fit_did_not_write_is_named(wrong, tmp_path):
    path = tmp_path / "start.npz"
    wrong(path)
    model = new_model(told(), 3, 0)
    model.users.grow(2, kernels.select("cpu"), 0.1)
    with pytest.raises(UserMistake, match=r"start\.npz is not what 'factorstream fit --out' writes"):
        fitting.start_from_file(path, model, ["u0", "u1"], [])


@given(histories())
def test_an_ended_fit_goes_on_from_its_file_where_it_was(history):
    learning = told()
    one, other = prepared(history, learning), prepared(history, learning)
    steps(one, learning, "als", 3)
    names = [[f"{side}{row}" for row in range(n)] for side, n in (("u", history[1]), ("m", history[2]))]
    with NamedTemporaryFile(suffix=".npz") as file:
        fitting.save(Path(file.name), one, *names, "{}")
        fitting.start_from_file(Path(file.name), other, *names)
        with pytest.raises(UserMistake, match=r"3 factors a row, and model\.rank is 2"):
            fitting.start_from_file(Path(file.name), prepared(history, learning, 2), *names)
        with pytest.raises(UserMistake, match="none of the users and items"):
            fitting.start_from_file(Path(file.name), other, *[["?"] * len(side) for side in names])
        with pytest.raises(UserMistake, match="no such file"):
            fitting.start_from_file(Path(f"{file.name}.npz"), other, *names)
    assert all((a == b).all() for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_posterior_learner_fits_too_and_better():
    drawn = generated.ratings(6_000, 200, 150, seed=3)
    held = store(Held(drawn.users, drawn.items, drawn.ratings, drawn.timestamps_ms), 200, 150)
    parts = fitting.split(held, 0.1, 0)
    errors = []
    for learner in ("sgd", "posterior"):
        learning = told(f"model.learner={learner}")
        model = new_model(learning, 4, 1)
        fitting.prepare(model, parts.training, CPU, learning)
        errors.append(steps(model, learning, "als", 15, parts.holdout)[-1].holdout_rmse)
    assert errors[1] < errors[0]


@settings(max_examples=25)
@given(histories(), st.sampled_from(["model.nonnegative=true", "model.loss=poisson", "model.loss=ordinal", "als.l1_user=0.3"]))
def test_exact_solves_of_any_loss_and_constraint_never_raise_the_objective(history, choice):
    stars = ["model.rating_min=1", "model.rating_max=5"] if choice.endswith("ordinal") else []
    asked = load(None, ["model.rank=3", choice, *stars], {})
    learning, model = learning_of(asked), fresh_model(asked)
    fitting.prepare(model, store(*history), CPU, learning)
    values = np.array([step.objective for step in steps(model, learning, "als", 5)])
    assert (np.diff(values) <= 1e-5 * (1 + np.abs(values[0]))).all()
    if learning.nonnegative:
        assert all((parameters >= 0).all() for parameters in model.parameters())


@pytest.mark.parametrize("one", kernels.available_kernels(), ids=lambda one: one.name)
@pytest.mark.parametrize("method", ["als", "sgd"])
def test_every_set_of_kernels_fits_the_same_model(one, method):
    random = np.random.default_rng(1)
    users, items = np.divmod(np.sort(random.choice(48, 30, replace=False)), 6)
    columns = users.astype(np.int32), items.astype(np.int32), random.normal(3, 1, 30).astype(np.float32)
    learning = told("als.lambda_user=0.5", "als.lambda_item=0.5")
    ends = []
    for kernels_ in (CPU, one):
        model = Model(3, seed=1)
        fitting.prepare(model, store(Held(*columns, np.zeros(30, np.int64)), 8, 6), kernels_, learning)
        done = list(fitting.fit(model, kernels_, learning, method=method, n_iterations=2, seed=0))
        ends.append([model.users.factors.copy(), model.items.biases.copy(), [each.objective for each in done]])
    for expected, found in zip(*ends, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
