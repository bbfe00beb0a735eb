"""Clicks as they come: what is ranked before it is learned, what waits, and long rows."""

import numpy as np
import pytest

from factorstream.worker import kernels
from factorstream.worker.config import load
from factorstream.worker.errors import UserMistake
from factorstream.worker.evaluation import evaluate
from factorstream.worker.kernels.api import Histories
from factorstream.worker.learn import implicit
from factorstream.worker.learn.implicit import Kept, memory_of
from factorstream.worker.learn.learner import Learner, new_model
from factorstream.worker.model.journal import Events
from factorstream.worker.model.model import ITEMS, USERS
from factorstream.worker.wiring import kernels_of, learning_of


def learner_of(*assignments):
    return Learner(kernels.select("cpu"), learning_of(load(None, ["model.loss=implicit", *assignments], {})))


def tastes(n_events=6_000, n_items=400):
    """Return clicks of users who each like a quarter of the items, met in random order."""
    rng = np.random.default_rng(0)
    users = (np.arange(n_events) % 80).astype(np.int32)
    orders = [rng.permutation(np.arange(user % 4, n_items, 4)) for user in range(80)]
    items = np.array([orders[user][n // 80 % (n_items // 4)] for n, user in enumerate(users)], np.int32)
    return Events(np.zeros(n_events, np.uint8), users, items, np.ones(n_events, np.float32), 1 + np.arange(n_events))


def test_items_are_ranked_before_they_are_learned_and_better_than_by_chance():
    learner = learner_of("model.rank=8")
    found = evaluate(learner, new_model(learner.learning, 8, 0), tastes())
    assert found.recall_at_10 > 0.3  # ten of a hundred by chance
    assert found.rmse < 0.9
    again = evaluate(learner, new_model(learner.learning, 8, 0), tastes())
    assert again.recall_at_10 == found.recall_at_10


def test_a_click_that_comes_again_is_not_ranked_again():
    learner = learner_of()
    model, events = new_model(learner.learning, 8, 0), tastes(4_000)
    for _ in learner.learn(model, events):
        pass
    stronger = Events(events.kinds, events.user_rows, events.item_rows, 2 * events.ratings, events.timestamps_ms + 10_000)
    hits = np.concatenate([learned.hits for learned in learner.learn(model, stronger)])
    assert np.isnan(hits).all()


def test_a_row_is_due_when_its_news_have_gathered_in_proportion_to_what_it_holds():
    kept = Kept(2)
    held = np.array([1, 80, 80], np.int32)
    kept.add_news(np.array([0, 1, 2] + [2] * 9, np.int32))
    assert kept.take_due(held, 8).tolist() == [0, 2]
    kept.add_news(np.array([1] * 9, np.int32))
    assert kept.take_due(held, 8).tolist() == [1]
    assert not len(kept.queue)


def test_every_device_learns_the_same(monkeypatch):
    monkeypatch.setattr(implicit, "DRAIN", 8)
    learning, events, models = learner_of().learning, tastes(20, 8), []
    for each in kernels.available_kernels():
        models.append(new_model(learning, 3, 0))
        for _ in Learner(each, learning).learn(models[-1], events):
            pass
    for model in models[1:]:
        for found, expected in ((model.users, models[0].users), (model.items, models[0].items)):
            np.testing.assert_allclose(found.factors, expected.factors, rtol=1e-3, atol=1e-5)
        for found, expected in zip(memory_of(model).sides, memory_of(models[0]).sides, strict=True):
            np.testing.assert_allclose(found.gram, expected.gram, rtol=1e-3, atol=1e-5)


def test_a_gpu_is_refused_for_rows_that_it_cannot_hold():
    settings = load(None, ["model.loss=implicit", "model.device=cuda", "model.rank=200"], {})
    with pytest.raises(UserMistake, match="200 factors, more than 128"):
        kernels_of(settings)


def test_long_users_are_solved_in_the_queue_as_short_ones_are_at_each_click(monkeypatch):
    events = tastes(2_000)
    factors = []
    for longest in (1024, 3):
        monkeypatch.setattr(implicit, "LONGEST", longest)
        monkeypatch.setattr(implicit.Implicit, "fold_in", (longest, 0))
        learner = learner_of("sweep.visits_per_rating=0")
        model = new_model(learner.learning, 8, 0)
        for _ in learner.learn(model, events):
            pass
        learner.rule.end_sweep(model)
        learner.rule.solve(model, USERS, np.arange(80, dtype=np.int32))
        factors.append(model.users.factors @ model.items.factors.T)
    assert np.corrcoef(factors[0].ravel(), factors[1].ravel())[0, 1] > 0.9


@pytest.mark.parametrize("rank", [1, 5])
def test_one_user_and_one_item_are_enough(rank):
    learner = learner_of(f"model.rank={rank}", "als.lambda_user=0.1", "als.lambda_item=0.1", "implicit.alpha=10")
    model = new_model(learner.learning, rank, 0)
    n = 130
    zero = np.zeros(n, np.int32)
    strengths = np.arange(n, dtype=np.float32)  # a running total that begins with 0
    for _ in learner.learn(model, Events(np.zeros(n, np.uint8), zero, zero, strengths, 1 + np.arange(n))):
        pass
    assert model.score(0, 0) == pytest.approx(1, abs=0.05)
    for side in (USERS, ITEMS):
        learner.rule.solve(model, side, np.zeros(1, np.int32))
        kept = memory_of(model).sides[side]
        assert kept.n == 1


def test_what_a_row_is_held_to_does_not_depend_on_the_rows_solved_with_it():
    learner = learner_of("als.weighted=true", "als.lambda_user=0.5", "implicit.alpha=1")
    model = new_model(learner.learning, 2, 0)
    ratings = np.array([1e12, 3e-4, 7e-4], np.float32)
    together = Histories(np.array([0, 1, 1, 3]), np.arange(3, dtype=np.int32), ratings)
    alone = Histories(np.array([0, 2]), np.arange(2, dtype=np.int32), ratings[1:])
    penalties = learner.rule._penalties(model, USERS, together)
    assert penalties[2] == learner.rule._penalties(model, USERS, alone)[0] == pytest.approx(0.5 * 1.001)
    assert penalties[1] == np.float32(0.5), "of nothing"
