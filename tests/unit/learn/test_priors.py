"""Learned priors: λ that fits, means from the rows met, and what they survive."""

import numpy as np
import pytest

from factorstream.worker.config import load
from factorstream.worker.evaluation import evaluate
from factorstream.worker.learn.priors import Priors, priors_of
from factorstream.worker.model.journal import Events, Kind
from factorstream.worker.model.model import ITEMS, USERS
from factorstream.worker.wiring import fresh_model, learner_of

START_MS = 1_600_000_000_000


def settings_of(*assignments):
    return load(None, ["model.calibrate=false", *assignments], {})


def low_rank(seed, n, *, rank=3, noise=0.1, n_users=300, n_items=200, scale=1.0):
    """Return ratings that are products of factors, but for a little noise."""
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(n_users * n_items)[:n]
    users, items = pairs // n_items, pairs % n_items
    u, v = rng.normal(0, 1, (n_users, rank)), rng.normal(0, 1, (n_items, rank))
    ratings = scale * (3 + (u[users] * v[items]).sum(axis=1) / rank**0.5 + rng.normal(0, noise, n))
    return events_of(users, items, ratings)


def events_of(users, items, ratings):
    n = len(ratings)
    times = START_MS + np.arange(n) * 1000
    columns = np.asarray(users, np.int32), np.asarray(items, np.int32), np.asarray(ratings, np.float32), times
    return Events(np.full(n, Kind.RATE, np.uint8), *columns)


def learned(settings, *streams, cut=5000):
    model, learner = fresh_model(settings), learner_of(settings)
    for stream in streams:
        for first in range(0, len(stream), cut):
            for _ in learner.learn(model, stream[first : first + cut]):
                pass
    return model


def rmse(stream, *assignments):
    settings = settings_of(*assignments)
    return evaluate(learner_of(settings), fresh_model(settings), stream).rmse


def test_where_products_explain_nearly_everything_they_may_grow():
    stream = low_rank(1, 30_000)
    fixed, found = rmse(stream, "model.learn_priors=false"), rmse(stream)
    assert found < 0.8 * fixed
    factors, _ = priors_of(learned(settings_of(), stream)).multipliers
    assert factors < 0.6


def test_where_products_explain_nothing_they_stay_small():
    rng = np.random.default_rng(2)
    users, items = rng.integers(0, 300, 20_000), rng.integers(0, 200, 20_000)
    stream = events_of(users, items, 3 + rng.normal(0, 1, 300)[users] + rng.normal(0, 1, 20_000))
    fixed, found = rmse(stream, "model.learn_priors=false"), rmse(stream)
    assert found < 1.01 * fixed


@pytest.mark.parametrize("scale", [0.01, 20.0, 1000.0])
def test_the_unit_of_the_ratings_does_not_matter(scale):
    """But for the first ratings, before which it is not known."""
    assert rmse(low_rank(3, 8000, scale=scale)) / scale == pytest.approx(rmse(low_rank(3, 8000)), rel=0.15)


def test_a_penalty_that_was_set_stays():
    settings = settings_of("als.lambda_user=3", "als.lambda_bias=2")
    model = learned(settings, low_rank(4, 5000))
    learning = learner_of(settings).learning
    penalty = learning.penalty(model.level, priors_of(model).multipliers)
    assert (penalty.user, penalty.bias) == (3.0, 2.0)
    assert penalty.item != pytest.approx(learning.penalty(model.level).item)


def test_batches_cut_differently_give_the_same_bits():
    stream = low_rank(5, 6000)
    hashes = {learned(settings_of("model.calibrate=true"), stream, cut=cut).state_hash() for cut in (6000, 997, 61)}
    assert len(hashes) == 1


def test_what_is_restored_goes_on_with_the_same_bits():
    first, second = low_rank(6, 3000), low_rank(7, 3000)
    tables = {name: np.array(table) for name, table in priors_of(learned(settings_of(), first)).tables().items()}
    model, learner = learned(settings_of(), first), learner_of(settings_of())
    model.parts[Priors.NAME] = Priors(model.rank)
    priors_of(model).restore(tables)
    for _ in learner.learn(model, second):
        pass
    assert model.state_hash() == learned(settings_of(), first, second).state_hash()


def test_the_first_meeting_of_a_row_is_predicted_without_its_first_factors():
    settings = settings_of()
    model, learner = learned(settings, low_rank(8, 2000, n_users=50, n_items=60)), learner_of(settings)
    for user, item in ((50, 3), (4, 60), (51, 61)):
        expected = (
            model.level.intercept
            + (model.users.biases[user] if user < 50 else 0)
            + (model.items.biases[item] if item < 60 else 0)
        )
        (found,) = learner.learn(model, events_of([user], [item], [3.0]))
        assert 3.0 - found.errors[0] == pytest.approx(expected, abs=1e-5)


def test_who_forgets_says_nothing_more():
    settings = settings_of()
    model, learner = learned(settings, low_rank(9, 3000, n_users=50, n_items=60)), learner_of(settings)
    columns = ((Kind.FORGET_USER, "u1"), (7, "i4"), (-1, "i4"), (np.nan, "f4"), (START_MS + 10**9, "i8"))
    for _ in learner.learn(model, Events(*(np.array([value], kind) for value, kind in columns))):
        pass
    effects = priors_of(model).effects
    assert not effects[USERS].said[7].any()
    assert not effects[USERS].told[7].any()
    met = model.ratings.histories_of_items(np.arange(60, dtype=np.int32))
    told = [effects[USERS].said[met.others[a:b]].sum(axis=0) for a, b in zip(met.starts[:-1], met.starts[1:], strict=True)]
    np.testing.assert_allclose(effects[ITEMS].told[:60], told, atol=1e-4)


def test_absurd_ratings_that_are_taken_back_do_not_spoil_priors_for_good():
    sense, rng = low_rank(10, 20_000), np.random.default_rng(11)
    absurd = events_of(np.arange(10), np.arange(10), rng.choice([-1000, 1000], 10))
    unrates = np.full(10, Kind.UNRATE, np.uint8)
    back = Events(unrates, absurd.user_rows, absurd.item_rows, np.full(10, np.nan, np.float32), absurd.timestamps_ms + 10**8)
    settings = settings_of()
    model, learner = learned(settings, sense[:12_000], absurd, back), learner_of(settings)
    for first in range(12_000, 20_000, 1000):
        for _ in learner.learn(model, sense[first : first + 1000]):
            pass
    assert np.isfinite(np.concatenate([np.ravel(table) for table in priors_of(model).tables().values()])).all()
    calm = priors_of(learned(settings, sense)).multipliers
    np.testing.assert_allclose(np.log(priors_of(model).multipliers), np.log(calm), atol=1.0)
