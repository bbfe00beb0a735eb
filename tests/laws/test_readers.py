"""What readers see, whatever happens to Redis and to the worker."""

import itertools
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorstream.keys import item_uncertainty_prefix, meta_key, seen_prefix, user_uncertainty_prefix
from factorstream.meta import unpack_meta
from factorstream.seen import unpack_seen
from factorstream.uncertainty import unpack_uncertainty
from factorstream.worker.adapters.memory import MemoryTable
from factorstream.worker.errors import Fenced, ForeignJournal, PublisherUnavailable
from factorstream.worker.learn.posterior import remembered
from factorstream.worker.loop import Worker
from factorstream.worker.model.model import ITEMS, USERS
from tests.laws.strategies import START_MS, logs, rating_logs
from tests.laws.world import World, live, published, settings_of, worker

SETTINGS = settings_of("model.calibrate=false")
"""Readers get rows as they are, not corrected by what is known at the time."""


def assert_published(state, world):
    embeddings = published(world)
    for side, ids, factors in (
        ("user", state.identities.users, state.model.users),
        ("item", state.identities.items, state.model.items),
    ):
        for name, row in ids.items():
            if (side, name) in embeddings:
                assert embeddings.pop((side, name)).vector.tolist() == factors.factors[row].tolist()
            else:
                assert not (state.model.ratings.user_counts if side == "user" else state.model.ratings.item_counts)[row]
    assert not embeddings


@given(logs(), st.integers(0, 20), st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_redis_may_be_away_and_nothing_is_lost_or_late_for_ever(log, goes, comes):
    world = World()
    world.write(log)
    state, _, turns = worker(world, SETTINGS)
    for n, tick in enumerate(turns):
        world.table.available = not goes <= n < comes
        assert tick.n_records or n >= len(log) // 3, "learning goes on"
    world.table.available = True
    if tick.n_pending:  # it ended while Redis was away: the next start publishes what was left
        state, _, turns = worker(world, SETTINGS)
        list(turns)
    assert_published(state, world)


@given(rating_logs(), st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_redis_may_lose_its_memory(log, when):
    world = World()
    world.write(log)
    state, _, turns = worker(world, SETTINGS)
    for n, _ in enumerate(turns):
        if n == when:
            world.table.values.clear()
    if n == when:  # after the last write of the run: the next start finds it empty
        state, _, turns = worker(world, SETTINGS)
        list(turns)
    assert_published(state, world)


@given(rating_logs(), st.integers(0, 10))
@settings(max_examples=30, deadline=None)
def test_a_zombie_writes_nothing(log, when):
    world = World()
    world.write(log)
    _, _, zombie = worker(world, SETTINGS)
    for _, _ in zip(range(when), zombie, strict=False):
        pass
    state, _, turns = worker(world, SETTINGS)
    list(turns)
    values = dict(world.table.values)
    with suppress(Fenced):  # it may have ended before
        list(zombie)
    assert world.table.values == values
    assert_published(state, world)


def test_a_worker_that_was_replaced_says_by_whom():
    world = World()
    world.write([rate(1, 1)])
    _, _, zombie = worker(world, SETTINGS)
    list(worker(world, SETTINGS)[2])
    with pytest.raises(Fenced, match="its epoch is 2"):
        list(zombie)


def test_numbers_that_are_not_finite_stay_away_from_readers_and_heal():
    world = World()
    world.write([rate(user, item) for user in range(4) for item in range(4)])
    state, parts, turns = worker(world, settings_of("sweep.visits_per_rating=0", "sgd.fold_in=0"))
    for _ in turns:
        pass
    good = published(world)
    assert ("item", "i1") in good
    state.model.items.factors[state.identities.items["i1"]] = np.nan
    state.pending.add_items(np.array([state.identities.items["i1"]], np.int32))
    list(Worker(state, parts).settle())
    assert published(world)["item", "i1"].vector.tolist() == good["item", "i1"].vector.tolist()
    while state.model.sweep.n_sweeps < 2:  # a whole sweep solves the row again
        state.absorb(parts.learner.solve_idle_block(state.model))
    assert np.isfinite(state.model.items.factors).all()


def rate(user, item):
    return {"user_id": f"u{user}", "item_id": f"i{item}", "rating": float((user * item) % 5), "timestamp_ms": 1_600_000_000_000}


def test_keys_of_another_journal_are_refused_unless_they_may_be_replaced():
    world = World()
    world.write([rate(1, 1)])
    list(worker(world, SETTINGS)[2])
    other = World(table=world.table)
    other.write([rate(2, 2)])
    with pytest.raises(ForeignJournal, match=r"redis\.replace"):
        worker(other, SETTINGS, journal_id="another")
    assert not other.folder.checkpoints, "it would be newer than the lost ones that are put back beside it"
    list(worker(other, settings_of("redis.replace=true"), journal_id="another")[2])
    assert {name for side, name in published(other) if side == "user"} == {"u2"}


@given(logs(), st.lists(st.sampled_from([0, 1, 2, 4, 100]), min_size=2, max_size=4), st.lists(st.integers(0, 30), max_size=3))
@settings(max_examples=60, deadline=None)
def test_lists_of_seen_items_are_as_long_as_the_settings_say_also_when_these_changed(log, lengths, crashes):
    world = World()
    for n, length in enumerate(lengths):
        world.write(log[n :: len(lengths)])
        state = live(world, settings_of(f"publish.seen_items={length}"), crashes=crashes[n : n + 1])
        ids, ratings = state.identities.users, state.model.ratings
        assert seen_lists(world) == {
            name: newest
            for name, row in ids.items()
            if (newest := ratings.newest_items(np.array([row]), length).item_rows.tolist())
        }


def seen_lists(world):
    prefix = seen_prefix("default", 0).encode()
    return {
        key.removeprefix(prefix).decode(): unpack_seen(value).tolist()
        for key, value in world.table.values.items()
        if key.startswith(prefix)
    }


POSTERIOR = ["model.learner=posterior", "model.calibrate=false"]


@given(logs(), st.lists(st.booleans(), min_size=1, max_size=4), st.lists(st.integers(0, 30), max_size=3))
@settings(max_examples=40, deadline=None)
def test_each_row_has_its_uncertainty_beside_it_when_the_settings_say_so_and_nobody_has_otherwise(log, choices, crashes):
    world = World()
    for n, chosen in enumerate(choices):
        world.write(log[n :: len(choices)])
        chosen_settings = settings_of(*POSTERIOR, f"publish.uncertainty={chosen}")
        state = live(world, chosen_settings, crashes=crashes[n : n + 1])
        found, model = uncertainties(world), state.model
        assert set(found) == (set(published(world)) if chosen else set())
        rows = {"user": state.identities.users, "item": state.identities.items}
        for (side, name), uncertainty in found.items():
            outlook = remembered(model).beliefs[USERS if side == "user" else ITEMS].outlook[rows[side][name]]
            assert uncertainty.variances.tolist() == outlook[[*range(model.rank), 2 * model.rank]].tolist()
            assert uncertainty.version == published(world)[side, name].version


def test_more_ratings_make_the_model_surer_than_the_prior():
    world = World()
    world.write([rate(user, item) for user in range(8) for item in range(8)])
    live(world, settings_of("model.learner=posterior", "publish.uncertainty=true"))
    priors = unpack_meta(world.table.values[meta_key("default").encode()]).uncertainty
    for (side, _), uncertainty in uncertainties(world).items():
        of_factors, of_bias = priors.user if side == "user" else priors.item
        assert (uncertainty.variances[:-1] < of_factors).all()
        assert uncertainty.variances[-1] < of_bias


def uncertainties(world):
    """Return ``{("user" or "item", id): Uncertainty}``."""
    return {
        (side, name): unpack_uncertainty(name, side, value)
        for side, prefix in (("user", user_uncertainty_prefix("default", 0)), ("item", item_uncertainty_prefix("default", 0)))
        for key, value in world.table.values.items()
        if (name := key.decode().removeprefix(prefix)) != key.decode()
    }


class FalteringTable(MemoryTable):
    """Goes away for a moment just when a publication is done and keys are looked through."""

    n_scans = 0

    def scan(self, prefix):
        self.n_scans += 1
        if self.n_scans == 1:
            raise PublisherUnavailable("away")
        return super().scan(prefix)


def test_a_redis_that_goes_away_while_anothers_keys_are_removed_has_them_removed_later():
    world = World(table=FalteringTable())
    world.write([rate(1, 1)])
    list(worker(world, SETTINGS)[2])
    other = World(table=world.table)
    other.write([rate(2, 2)])
    world.table.n_scans = 0
    _, _, turns = worker(other, settings_of("redis.replace=true"), journal_id="another")
    assert len(list(turns)) > 1
    list(worker(other, SETTINGS, journal_id="another")[2])
    assert world.table.n_scans > 1
    assert {name for side, name in published(other) if side == "user"} == {"u2"}


def test_a_worker_learns_on_while_it_removes_anothers_keys():
    world = World()
    world.table.values.update({f"fs:{{default.0}}:u:{number}".encode(): b"of a worker long gone" for number in range(20_000)})
    world.write([rate(1, 1)])
    list(worker(world, SETTINGS)[2])
    other = World(table=world.table)
    other.write([rate(2, 2)])
    at_work = Worker(*worker(other, settings_of("redis.replace=true"), journal_id="another")[:2])
    left = []
    while len(world.table.values) > 100:
        if len(left) % 4 == 3:
            other.write([rate(len(left), 2)])
        assert at_work.turn().n_records <= 1
        left.append(len(world.table.values))
    steps = [before - after for before, after in itertools.pairwise(left) if before > after]
    assert len(steps) >= 20
    assert max(steps) <= 1_000
    list(at_work.settle())
    assert_published(at_work.state, other)


def test_rows_are_read_out_anew_when_the_calibrator_is_turned_on_or_off():
    world = World()
    world.write(
        [{"user_id": f"u{n % 5}", "item_id": f"i{n % 7}", "rating": n % 5, "timestamp_ms": START_MS + n} for n in range(60)]
    )
    live(world, settings_of("model.calibrate=true", "sweep.visits_per_rating=0"))
    state = live(world, settings_of("model.calibrate=false", "sweep.visits_per_rating=0"))
    assert_published(state, world)
