"""Tables on a device: the host's arrays follow when they are read, and what does not fit is learned all the same."""

import logging

import numpy as np
import pytest

from factorstream.worker.kernels import available_kernels, cpu, gpu, gpu_general_learn, gpu_learn, gpu_tables, reference
from factorstream.worker.kernels.api import Objective, Penalty, Rates, Side
from factorstream.worker.kernels.gram import gram_of
from factorstream.worker.model.factors import Factors
from tests.kernels.objectives import LOSSES, optimizer_for, ratings_for, side_for
from tests.kernels.problems import batch_of, copied, histories_of, side

OBJECTIVE, RATES = Objective(Penalty(0.1, 0.1, 0.1, False)), Rates(0.05, 0.05, 0.0)
EVENTS = [(n % 5, n * 7 % 4, 3.0 + n % 3) for n in range(24)]


def learn(kernels, users, items, batch):
    return kernels.sgd(users, items, batch, intercept=3.0, objective=OBJECTIVE, rates=RATES)


def solve(kernels, own, other, histories):
    rows = np.arange(len(histories.starts) - 1, dtype=np.int32)
    return kernels.als(own, other, rows, histories, intercept=3.0, objective=OBJECTIVE, of_users=True)


def problem(rank=6):
    rng = np.random.default_rng(0)
    return side(rng, 5, rank), side(rng, 4, rank)


def bytes_of(*sides):
    return [table.tobytes() for one in sides for table in one]


@pytest.mark.parametrize("fold_in", [0, 4])
def test_what_is_held_learns_as_what_is_copied_each_time(fold_in):
    users, items = problem()
    batch = batch_of(EVENTS, fold_in)
    expected_users, expected_items = copied(users), copied(items)
    expected = learn(gpu, expected_users, expected_items, batch)
    before = bytes_of(users, items)
    held_users, held_items = gpu.hold(users, 5), gpu.hold(items, 4)
    scored = learn(gpu, held_users, held_items, gpu.keep(batch))
    assert bytes_of(users, items) == before
    held_users.fetch()
    held_items.fetch()
    assert bytes_of(users, items) == bytes_of(expected_users, expected_items)
    assert np.stack(scored).tobytes() == np.stack(expected).tobytes()


@pytest.mark.parametrize("kernels", available_kernels(), ids=lambda kernels: kernels.name)
def test_a_model_grows_where_kernels_learn_and_is_read_where_it_is_asked_for(kernels):
    factors, expected = Factors(4, seed=3, stream=1), Factors(4, seed=3, stream=1)
    others, expected_others = Factors(4, seed=3, stream=0), Factors(4, seed=3, stream=0)
    for n in (2, 5, 40):
        for one, set_ in ((factors, kernels), (others, kernels), (expected, cpu), (expected_others, cpu)):
            one.grow(n, set_, 0.1)
        batch = batch_of([(n - 1, n - 2, 4.0), (0, n - 1, 2.0), (n - 1, 0, 3.0)], 0)
        learn(kernels, factors.on(kernels), others.on(kernels), batch)
        learn(cpu, expected.on(cpu), expected_others.on(cpu), batch)
        np.testing.assert_allclose(factors.factors, expected.factors, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(others.biases, expected_others.biases, rtol=1e-4, atol=1e-5)
        change = np.full((2, 5), 0.25, np.float32)
        factors.side.add(np.array([0, n - 1]), change)
        expected.side.add(np.array([0, n - 1]), change)


def test_a_restored_model_is_the_checkpoint_whatever_was_learned_before():
    factors, others = Factors(3, seed=0, stream=0), Factors(3, seed=0, stream=1)
    factors.grow(4, gpu, 0.1)
    others.grow(4, gpu, 0.1)
    learn(gpu, factors.on(gpu), others.on(gpu), batch_of([(0, 0, 4.0)], 0))
    rows, biases = np.arange(12, dtype=np.float32).reshape(4, 3), np.ones(4, np.float32)
    factors.restore(rows, biases)
    solve(gpu, others.on(gpu), factors.on(gpu), histories_of([[(2, 4.0)]]))
    assert factors.factors.tobytes() == rows.tobytes()
    other = Factors(3, seed=0, stream=1)
    other.grow(4, cpu, 0.1)
    solve(cpu, other.side, factors.on_host, histories_of([[(2, 4.0)]]))
    np.testing.assert_allclose(others.factors[0], other.factors[0], rtol=1e-4)


@pytest.mark.parametrize("most_bytes", [1 << 16, 2000, 600, 100, 0])
def test_short_memory_changes_what_is_said_and_nothing_that_is_learned(monkeypatch, caplog, most_bytes):
    events = [(n % 5, n * 7 % 4, 3.0 + n % 3) for n in range(150)]
    histories = histories_of([[(m, 3.0 + m) for m in range(n % 4)] for n in range(5)])
    users, items = problem()
    expected_users, expected_items = copied(users), copied(items)
    expected = learn(cpu, expected_users, expected_items, batch_of(events, 0))
    expected_gains = solve(cpu, expected_users, expected_items, histories)
    held_users, held_items = gpu.hold(users, 2), gpu.hold(items, 4)
    monkeypatch.setattr(gpu_tables, "most_bytes", most_bytes)
    with caplog.at_level(logging.WARNING):
        scored = learn(gpu, gpu.hold(held_users, 5), held_items, gpu.keep(batch_of(events, 0)))
        gains = solve(gpu, held_users, held_items, histories)
    held_users.fetch()
    held_items.fetch()
    for one, other in zip((*users, *items), (*expected_users, *expected_items), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(np.stack(scored), np.stack(expected), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(gains, expected_gains, rtol=1e-3, atol=1e-4)
    assert ("GPU" in caplog.text) == (most_bytes < 1 << 16)


@pytest.mark.parametrize("most_bytes", [8, 0])
def test_short_memory_changes_no_row_of_clicks_or_other_losses(monkeypatch, caplog, most_bytes):
    users, items = problem()
    histories = histories_of([[(m, float(m % 2)) for m in range(n % 4)] for n in range(5)])
    gram, rows = gram_of(items.factors, np.ones(4, bool)), np.arange(5, dtype=np.int32)
    clicks = {"alpha": 2.0, "penalties": np.linspace(0.5, 1, 5, dtype=np.float32)}
    how = {"intercept": 0.2, "objective": OBJECTIVE._replace(loss=LOSSES["logistic"][0]), "of_users": True}
    for solve_all in (
        lambda kernels, own, other: kernels.implicit(own, other, rows, histories, gram, **clicks),
        lambda kernels, own, other: kernels.als(own, other, rows, histories, **how),
    ):
        expected, found = copied(users), copied(users)
        expected_gains = solve_all(cpu, expected, items)
        held, across = gpu.hold(found, 5), gpu.hold(items, 4)
        with monkeypatch.context() as short, caplog.at_level(logging.WARNING):
            short.setattr(gpu_tables, "most_bytes", most_bytes)
            gains = solve_all(gpu, held, across)
        held.fetch()
        for one, another in zip((*found, gains), (*expected, expected_gains), strict=True):
            np.testing.assert_allclose(one, another, rtol=1e-3, atol=1e-4)
    assert "half as many" in caplog.text


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("biased", [True, False])
def test_rows_of_every_loss_are_solved_on_the_device(monkeypatch, loss, biased):
    rng = np.random.default_rng(1)
    objective = Objective(Penalty(0.3, 0.3, 0.1, True), LOSSES[loss][0], biased=biased)
    rank = 20 if loss == "ordinal" else 3
    own, other = (side_for(objective, rng, n, rank) for n in (2, 4))
    histories = histories_of([list(enumerate(ratings_for(objective, rng, n).tolist())) for n in (4, 2)])
    expected, rows = copied(own), np.arange(2, dtype=np.int32)
    how = {"intercept": 0.2, "objective": objective, "of_users": True}
    expected_gains = reference.als(expected, other, rows, histories, **how)
    monkeypatch.setattr(gpu, "_cpu", None)
    gains = gpu.als(own, other, rows, histories, **how)
    for one, another in zip((*own, gains), (*expected, expected_gains), strict=True):
        np.testing.assert_allclose(one, another, rtol=1e-4, atol=1e-5)


def test_rows_that_float32_cannot_solve_are_solved_on_the_host():
    rng = np.random.default_rng(2)
    objective = Objective(Penalty(1e-6, 1e-6, 1e-6, False), LOSSES["logistic"][0])
    own, other = side(rng, 3, 4), side(rng, 6, 4)
    other.factors[:, 1] = other.factors[:, 0] + np.float32(1e-4) * other.factors[:, 1]
    histories = histories_of([[(m, float(m % 2)) for m in range(6)], [], [(0, 1.0), (3, 0.0)]])
    rows, held = np.array([2, 0, 1], np.int32), gpu.hold(other, 6)
    how = {"intercept": 0.2, "objective": objective, "of_users": True}
    gram, clicks = gram_of(other.factors, np.ones(6, bool)), {"alpha": 1e3, "penalties": np.array([1e-6, 0, 1e-6], np.float32)}
    found, expected = copied(own), copied(own)
    gains = gpu.als(found, held, rows, histories, **how), gpu.implicit(found, held, rows, histories, gram, **clicks)
    wanted = (
        reference.als(expected, other, rows, histories, **how),
        reference.implicit(expected, other, rows, histories, gram, **clicks),
    )
    for one, another in zip((*found, *gains), (*expected, *wanted), strict=True):
        np.testing.assert_allclose(one, another, rtol=1e-3, atol=1e-4)


def test_what_the_device_does_not_know_is_learned_by_the_processor():
    users, items = problem()
    expected_users, expected_items = copied(users), copied(items)
    objective = Objective(Penalty(0.0, 0.1, 0.1, False))
    batch = batch_of(EVENTS, 3)
    held = gpu.hold(users, 5), gpu.hold(items, 4)
    gpu.sgd(*held, batch, intercept=3.0, objective=objective, rates=RATES)
    cpu.sgd(expected_users, expected_items, batch, intercept=3.0, objective=objective, rates=RATES)
    learn(gpu, *held, batch)
    learn(cpu, expected_users, expected_items, batch)
    for one in held:
        one.fetch()
    np.testing.assert_allclose(users.factors, expected_users.factors, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("n_factors", [0, 3])
@pytest.mark.parametrize("most_bytes", [None, 0])
def test_the_host_gets_every_row_however_little_memory_is_left(monkeypatch, n_factors, most_bytes):
    monkeypatch.setattr(gpu_tables, "AT_ONCE", 4)
    rows = np.array([0, 1, 2, 5, 7, 8, 9, 10, 11, 14])
    one = Side(np.zeros((15, n_factors), np.float32), np.zeros(15, np.float32))
    held = gpu.hold(one, 15)
    expected = copied(one)
    for table in held.tables:
        table[rows] = 1.0
    for table in expected:
        table[rows] = 1.0
    held.tables.biases[12] = 5.0  # not said to have changed
    held.changed(rows)
    monkeypatch.setattr(gpu_tables, "most_bytes", most_bytes)
    held.fetch()
    assert bytes_of(one) == bytes_of(expected)


def test_rows_that_find_no_way_back_to_the_device_leave_it_for_good(monkeypatch, caplog):
    users, _ = problem()
    held, changed_there, changed_here = gpu.hold(users, 5), np.array([0, 3]), np.array([1, 3], np.int32)
    held.tables.biases[changed_there] = 7.0
    held.changed(changed_there)
    users.biases[changed_here] = 9.0
    monkeypatch.setattr(gpu_tables, "most_bytes", 0)
    held.send(changed_here)
    assert held.missing
    assert "does not fit on the GPU" in caplog.text
    assert users.biases[[0, 1, 3]].tolist() == [7.0, 9.0, 9.0]
    held.fetch()
    assert users.biases[[0, 1, 3]].tolist() == [7.0, 9.0, 9.0]


@pytest.mark.parametrize("most_bytes", [32, 0])
def test_memory_that_runs_short_in_the_middle_changes_nothing_that_is_learned(monkeypatch, most_bytes):
    users, items = problem()
    expected_users, expected_items = copied(users), copied(items)
    held = gpu.hold(users, 5), gpu.hold(items, 4)
    histories = histories_of([[(m, 3.0 + m) for m in range(n % 4)] for n in range(5)])
    for bytes_left in (None, most_bytes, None):
        monkeypatch.setattr(gpu_tables, "most_bytes", bytes_left)
        scored, gains = learn(gpu, *held, batch_of(EVENTS, 0)), solve(gpu, *held, histories)
        expected = learn(cpu, expected_users, expected_items, batch_of(EVENTS, 0))
        expected_gains = solve(cpu, expected_users, expected_items, histories)
        np.testing.assert_allclose(np.stack(scored), np.stack(expected), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(gains, expected_gains, rtol=1e-3, atol=1e-4)
    for one in held:
        one.fetch()
    for one, other in zip((*users, *items), (*expected_users, *expected_items), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_a_mean_that_was_taken_out_is_put_back_whatever_happens(monkeypatch):
    users, items = problem()
    before, held = copied(users), gpu.hold(users, 5)
    means, histories = np.full((5, 7), 0.5, np.float32), histories_of([[(0, 3.0)]] * 5)

    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "_als", fail)
    rows = np.arange(5, dtype=np.int32)
    with pytest.raises(KeyboardInterrupt):
        gpu.als(held, items, rows, histories, intercept=3.0, objective=OBJECTIVE, of_users=True, means=means)
    held.fetch()
    for one, other in zip(users, before, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_rows_that_hold_nothing_are_zero_and_tell_what_that_gained():
    users, items = problem()
    users.factors[2] = np.nan
    expected, histories = copied(users), histories_of([[(0, 3.0)], [], [], [(1, 4.0), (2, 2.0)], []])
    gains, expected_gains = solve(gpu, users, items, histories), solve(reference, expected, items, histories)
    for one, other in zip((*users, gains), (*expected, expected_gains), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert not users.factors[[1, 2, 4]].any()


def test_what_is_made_of_a_kept_batch_or_kept_histories_is_sent_anew():
    users, items = problem()
    batch, histories = batch_of(EVENTS, 3), histories_of([[(m, 3.0 + m) for m in range(n % 4)] for n in range(5)])
    kept, kept_histories = gpu.keep(batch), gpu.keep(histories)
    learn(gpu, copied(users), copied(items), kept)
    solve(gpu, copied(users), copied(items), kept_histories)
    outcomes = []
    for one, some in ((kept, kept_histories), (batch, histories)):
        own, other = copied(users), copied(items)
        scored = learn(gpu, own, other, one._replace(ratings=one.ratings + 1))
        gains = solve(gpu, own, other, some._replace(ratings=some.ratings + 1))
        outcomes.append([*scored, gains, *own, *other])
    assert bytes_of(outcomes[0]) == bytes_of(outcomes[1])


@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
def test_programs_that_find_no_run_left_look_at_nothing_behind_the_runs(monkeypatch, optimizer):
    n, n_programs, outcomes = 7, 40, []
    for further in (False, True):
        rng = np.random.default_rng(0)
        users, items, batch = side(rng, 3, 4), side(rng, n, 4), gpu.keep(batch_of([(m % 3, m, 4.0) for m in range(n)], 0))
        if further:
            for launcher in (gpu, gpu_learn, gpu_general_learn):
                monkeypatch.setattr(launcher, "programs", lambda width: n_programs)
            work = gpu_learn.work_of(batch, n_programs)
            batch.work[n_programs] = work._replace(starts=work.starts.repeat(3)[: n + 2])  # behind the runs, the same once more
        how = {"intercept": 3.0, "objective": OBJECTIVE, "rates": RATES, "optimizer": optimizer_for(optimizer, 3, n, 4)}
        outcomes.append([*gpu.sgd(users, items, batch, **how), *users, *items])
    assert bytes_of(outcomes[0]) == bytes_of(outcomes[1])
