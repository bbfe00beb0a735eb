"""`Ratings` against its meaning, at every size of pool, cut and order."""

from dataclasses import astuple
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorstream.worker.model.ratings import Held, Ratings
from tests.unit.model.reference_ratings import ReferenceRatings

N_USERS, N_ITEMS = 7, 5
RATE, UNRATE, FORGET_USER, REMOVE_ITEM = range(4)


def events(users=N_USERS, items=N_ITEMS, times=12, kinds=(RATE, RATE, RATE, UNRATE), size=120):
    """Strategy: lists of (kind, user, item, rating, time)."""
    event = st.tuples(
        st.sampled_from(kinds),
        st.integers(0, users - 1),
        st.integers(0, items - 1),
        st.sampled_from([-1.0, 0.0, 0.5, 2.0]),
        st.integers(1, times),
    )
    return st.lists(event, max_size=size)


def with_forgetting(**sizes):
    return events(kinds=(RATE,) * 8 + (UNRATE, FORGET_USER, REMOVE_ITEM), **sizes)


def columns(log):
    kinds = np.array([event[0] for event in log], np.uint8)
    users, items = (np.array([event[k] for event in log], np.int32) for k in (1, 2))
    return kinds, users, items, np.array([event[3] for event in log], np.float32), np.array([event[4] for event in log], np.int64)


def grown(ratings, n_users=N_USERS, n_items=N_ITEMS):
    ratings.grow(n_users, n_items)
    return ratings


def feed(ratings, log, **options):
    """Give *log* to *ratings*, forgettings between batches; return all that was answered."""
    answers, start = [], 0
    for at in [k for k, event in enumerate(log) if event[0] >= FORGET_USER] + [len(log)]:
        answers.append(ratings.accept(*columns(log[start:at]), **options))
        if at < len(log):
            kind, user, item, _, time = log[at]
            answers.append(ratings.forget_user(user, time) if kind == FORGET_USER else ratings.remove_item(item, time))
        start = at + 1
    return answers


def same(left, right):
    """Whether two answers are the same: values, types and lengths; NaN is NaN."""
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right, equal_nan=left.dtype.kind == "f")
    if isinstance(left, tuple | list):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return left == right if isinstance(left, int) else same(astuple(left), astuple(right))


def read(ratings):
    """Return everything that can be read from *ratings*."""
    users, items = np.arange(ratings.n_users, dtype=np.int32), np.arange(ratings.n_items, dtype=np.int32)[::-1]
    return [
        ratings.n_ratings,
        ratings.entries(),
        ratings.histories_of_users(users),
        ratings.all_histories(),
        ratings.histories_of_items(items),
        *(ratings.newest_items(users, limit) for limit in (0, 1, 3, 100)),
        *(ratings.user_counts, ratings.item_counts, ratings.user_floor_ms, ratings.item_floor_ms),
    ]


def meaning(reference):
    """Return the same of a reference."""
    users, items = np.arange(reference.n_rows[0]), np.arange(reference.n_rows[1])[::-1]
    return [
        reference.n_ratings,
        reference.entries(),
        reference.histories_of_users(users),
        reference.histories_of_users(users),
        reference.histories_of_items(items),
        *(reference.newest_items(users, limit) for limit in (0, 1, 3, 100)),
        *(reference.counts(0), reference.counts(1), reference.floor_ms(0), reference.floor_ms(1)),
    ]


@given(with_forgetting(), st.integers(1, 40), st.integers(0, 6), st.none() | st.integers(0, 6))
def test_any_log_leaves_what_the_reference_holds_and_answers_as_it_does(log, least_capacity, fold_in, fold_in_items):
    ratings, reference = grown(Ratings(least_capacity=least_capacity)), grown(ReferenceRatings())
    how = {"fold_in": fold_in, "fold_in_items": fold_in_items}
    assert same(feed(ratings, log, **how), feed(reference, log, **how))
    assert same(read(ratings), meaning(reference))
    assert same([ratings.user_newest_ms, ratings.item_newest_ms], [reference.newest_ms(0), reference.newest_ms(1)])


@given(with_forgetting(users=40, items=30, size=150, times=1000), st.integers(1, 60))
@settings(max_examples=50)
def test_a_merge_under_way_changes_nothing_that_is_read(log, least_capacity):
    ratings, reference = grown(Ratings(least_capacity=least_capacity), 40, 30), grown(ReferenceRatings(), 40, 30)
    for start in range(0, len(log), 7):
        feed(ratings, log[start : start + 7])
        feed(reference, log[start : start + 7])
        assert same(read(ratings), meaning(reference))


@given(events(), st.lists(st.integers(1, 9), max_size=200), st.integers(1, 20), st.integers(0, 6))
def test_batches_and_limits_cut_anywhere_give_the_same_answers(log, limits, least_capacity, fold_in):
    whole = grown(Ratings(least_capacity=least_capacity)).accept(*columns(log), fold_in=fold_in)
    ratings, parts, start = grown(Ratings(least_capacity=least_capacity)), [], 0
    for limit in [*limits, 10**6]:
        parts.append(ratings.accept(*columns(log), start=start, limit=limit, fold_in=fold_in))
        start = parts[-1].stop
    assert start == len(log)
    for name in ("event_index", "user_rows", "item_rows", "ratings", "timestamps_ms", "user_counts", "item_counts", "changes"):
        assert same(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name))
    for name in ("user_histories", "item_histories"):
        histories = [getattr(part, name) for part in parts]
        assert same(np.concatenate([np.diff(history.starts) for history in histories]), np.diff(getattr(whole, name).starts))
        assert same(np.concatenate([history.others for history in histories]), getattr(whole, name).others)
        assert same(np.concatenate([history.ratings for history in histories]), getattr(whole, name).ratings)


@given(with_forgetting(), st.integers(1, 20))
def test_a_log_told_twice_is_a_log_told_once(log, least_capacity):
    once, twice = grown(Ratings(least_capacity=least_capacity)), grown(Ratings(least_capacity=least_capacity))
    feed(once, log)
    feed(twice, log)
    again = feed(twice, log)
    assert same(read(once), read(twice))
    assert not any(len(answer) for answer in again)


@given(st.data(), with_forgetting(), st.integers(1, 20))
def test_the_order_of_events_does_not_matter_to_what_is_held(data, log, least_capacity):
    left, right = grown(Ratings(least_capacity=least_capacity)), grown(Ratings(least_capacity=least_capacity))
    feed(left, log)
    feed(right, data.draw(st.permutations(log)))
    assert same(read(left), read(right))


@given(with_forgetting(), with_forgetting(), st.integers(1, 20), st.integers(0, 6))
def test_a_store_loaded_from_entries_goes_on_as_the_one_they_came_from(log, later, least_capacity, fold_in):
    ratings = grown(Ratings(least_capacity=least_capacity))
    feed(ratings, log)
    loaded = Ratings.from_entries(
        ratings.entries(),
        user_floor_ms=ratings.user_floor_ms,
        item_floor_ms=ratings.item_floor_ms,
        user_newest_ms=ratings.user_newest_ms,
        item_newest_ms=ratings.item_newest_ms,
        least_capacity=least_capacity,
    )
    assert same(read(loaded), read(ratings))
    assert same(feed(loaded, later, fold_in=fold_in), feed(ratings, later, fold_in=fold_in))
    assert same(read(loaded), read(ratings))
    assert same([loaded.user_newest_ms, loaded.item_newest_ms], [ratings.user_newest_ms, ratings.item_newest_ms])


@given(with_forgetting(), st.integers(0, N_USERS), st.integers(0, N_USERS))
def test_entries_can_be_read_piece_by_piece(log, first, second):
    ratings = grown(Ratings(least_capacity=8))
    feed(ratings, log)
    cuts = [0, *sorted((first, second)), N_USERS]
    pieces = [ratings.entries(start, stop) for start, stop in pairwise(cuts)]
    assert same([np.concatenate(columns) for columns in zip(*pieces, strict=True)], list(ratings.entries()))


def random_log(n, n_users, n_items, seed):
    rng = np.random.default_rng(seed)
    users = (n_users * rng.random(n) ** 3).astype(np.int32)
    items = (n_items * rng.random(n) ** 3).astype(np.int32)
    kinds = (rng.random(n) < 0.1).astype(np.uint8)
    return kinds, users, items, rng.integers(1, 11, n).astype(np.float32), rng.integers(1, n, n)


@pytest.mark.parametrize(("n_users", "n_items"), [(1, 30_000), (30_000, 1), (3_000, 300)])
def test_large_rows_and_many_merges_leave_the_last_write_of_every_pair(n_users, n_items):
    kinds, users, items, values, times = random_log(100_000, n_users, n_items, seed=1)
    ratings = grown(Ratings(least_capacity=3_000), n_users, n_items)
    for start in range(0, len(kinds), 5_000):
        part = slice(start, start + 5_000)
        ratings.accept(kinds[part], users[part], items[part], values[part], times[part])
    values[kinds == UNRATE] = np.nan
    order = np.lexsort((values, kinds, times, items, users))
    last = np.append((np.diff(users[order]) != 0) | (np.diff(items[order]) != 0), True)
    expected = [column[order[last]] for column in (users, items, values, times)]
    assert same(list(ratings.entries()), expected)
    held = [column[~np.isnan(expected[2])] for column in expected]
    by_item = np.lexsort((held[0], held[1]))
    histories = ratings.histories_of_items(np.arange(n_items, dtype=np.int32))
    assert same([histories.others, histories.ratings], [held[0][by_item], held[2][by_item]])
    assert same(np.diff(histories.starts).astype(np.int32), np.array(ratings.item_counts))
    assert ratings.n_ratings == len(held[0])


def test_users_forgotten_while_others_rate_leave_no_trace():
    kinds, users, items, values, times = random_log(100_000, 3_000, 300, seed=2)
    ratings = grown(Ratings(least_capacity=3_000), 3_000, 300)
    forgotten = np.arange(0, 3_000, 3)
    for batch, start in enumerate(range(0, len(kinds), 5_000)):
        part = slice(start, start + 5_000)
        ratings.accept(kinds[part], users[part], items[part], values[part], times[part])
        for user in np.array_split(forgotten, 20)[batch]:
            ratings.forget_user(int(user), 10**6)
            ratings.remove_item(int(user) % 300, 500)
    entries = ratings.entries()
    assert not np.isin(entries.user_rows, forgotten).any()
    floors = np.maximum(ratings.user_floor_ms[users], ratings.item_floor_ms[items])
    kept = times > floors
    assert set(zip(entries.user_rows, entries.item_rows, strict=True)) == set(zip(users[kept], items[kept], strict=True))
    assert np.array_equal(np.bincount(entries.user_rows[~np.isnan(entries.ratings)], minlength=3_000), ratings.user_counts)


def test_histories_of_a_store_that_is_merged_whole_are_read_where_they_lie():
    users, items = np.array([0, 0, 2], np.int32), np.array([1, 3, 0], np.int32)
    entries = Held(users, items, np.ones(3, np.float32), np.arange(3))
    never = np.iinfo(np.int64).min
    floors = {"user_floor_ms": np.full(3, never), "item_floor_ms": np.full(4, never)}
    ratings = Ratings.from_entries(entries, **floors)
    assert np.shares_memory(ratings.all_histories().others, ratings._store.by_user.others)
    user, item = np.array([0], np.int32), np.array([3], np.int32)
    ratings.accept(np.ones(1, np.uint8), user, item, np.zeros(1, np.float32), np.array([9]))  # takes one back
    assert not np.shares_memory(ratings.all_histories().others, ratings._store.by_user.others)
    assert ratings.all_histories().others.tolist() == [1, 0]


def test_a_row_that_was_not_grown_is_an_error():
    with pytest.raises(IndexError, match="grow"):
        grown(Ratings()).accept(*columns([(RATE, 0, N_ITEMS, 1.0, 1)]))


def test_entries_out_of_order_are_refused():
    ratings = grown(Ratings())
    feed(ratings, [(RATE, 0, 0, 1.0, 1), (RATE, 1, 0, 1.0, 1)])
    entries = [column[::-1] for column in ratings.entries()]
    with pytest.raises(ValueError, match="ascending"):
        Ratings.from_entries(entries, user_floor_ms=ratings.user_floor_ms, item_floor_ms=ratings.item_floor_ms)


def test_minus_zero_is_zero():
    left, right = grown(Ratings()), grown(Ratings())
    feed(left, [(RATE, 0, 0, -0.0, 1), (RATE, 0, 0, 0.0, 1)])
    feed(right, [(RATE, 0, 0, 0.0, 1), (RATE, 0, 0, -0.0, 1)])
    assert left.entries().ratings.tobytes() == right.entries().ratings.tobytes()
