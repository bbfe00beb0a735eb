"""The store's loops: how it lies in memory, and that every step of a merge leaves it whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factorstream.worker.kernels.compiled import bare
from factorstream.worker.kernels.store import (
    FEW_OF_ROW,
    IDLE,
    ITEMS,
    MERGE_ITEMS,
    MERGE_USERS,
    SQUEEZE_ITEMS,
    SQUEEZE_USERS,
    USERS,
    find_in_row,
    new_store,
)
from factorstream.worker.kernels.store_chain import sort
from factorstream.worker.kernels.store_merge import advance, first_above, freeze
from factorstream.worker.model.ratings import Ratings


def filled(n, n_users, n_items, least_capacity, seed=0):
    """Return a store of about *n* pairs, in main and in the active pool, nothing under way."""
    rng = np.random.default_rng(seed)
    ratings = Ratings(least_capacity=least_capacity)
    ratings.grow(n_users, n_items)
    add(ratings, rng, n)
    advance(ratings._store, np.inf)
    return ratings, rng


def add(ratings, rng, n):
    """Accept *n* random events, a tenth of them unrates; more for some rows than for others."""
    users = (ratings.n_users * rng.random(n) ** 2).astype(np.int32)
    items = (ratings.n_items * rng.random(n) ** 2).astype(np.int32)
    kinds = (rng.random(n) < 0.1).astype(np.uint8)
    ratings.accept(kinds, users, items, rng.integers(1, 11, n).astype(np.float32), rng.integers(1, 1000, n))


def phase(ratings):
    return int(ratings._store.state["phase"][0])


def small_step(ratings):
    """Do the least that can be done of what is under way."""
    ratings._store.state["credit"] = 1e-3
    advance(ratings._store, 0.0)


def same(left, right):
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(left, right, strict=True))


def everything(ratings):
    users, items = np.arange(ratings.n_users, dtype=np.int32), np.arange(ratings.n_items, dtype=np.int32)
    return [*ratings.entries(), *ratings.histories_of_users(users), *ratings.histories_of_items(items)]


def assert_main_is_whole(ratings):
    """Rows follow each other without slack, each ascending, and both sides hold the same pairs."""
    pairs = []
    for side, index in ((USERS, ratings._store.by_user), (ITEMS, ratings._store.by_item)):
        n_rows, end = ratings._store.sides[side]
        rows = index.rows[:n_rows]
        assert rows["length"].sum() == end
        filled = rows[rows["length"] > 0]
        assert np.array_equal(filled["start"], np.cumsum(filled["length"]) - filled["length"])
        own, others = np.repeat(np.arange(n_rows), rows["length"]), index.others[:end]
        assert np.all((np.diff(own) > 0) | (np.diff(others) > 0))
        pairs.append((own, others, index.ratings[:end]) if side == USERS else (others, own, index.ratings[:end]))
    users, items, values = pairs[1]
    order = np.lexsort((items, users))
    assert same(pairs[0], (users[order], items[order], values[order]))


@pytest.mark.parametrize(("n_users", "n_items"), [(40, 30), (1, 500), (500, 1), (3_000, 20)])
def test_each_step_of_a_merge_leaves_every_row_as_it_was(n_users, n_items):
    ratings, _ = filled(600, n_users, n_items, least_capacity=64)
    before, seen = everything(ratings), set()
    freeze(ratings._store)
    while phase(ratings) != IDLE:
        seen.add(phase(ratings))
        small_step(ratings)
        if phase(ratings) in (MERGE_USERS, MERGE_ITEMS):
            assert same(everything(ratings), before)
    assert same(everything(ratings), before)
    assert {MERGE_USERS, MERGE_ITEMS} <= seen
    assert_main_is_whole(ratings)


def test_events_between_the_steps_of_a_merge_are_neither_lost_nor_doubled():
    slow, rng = filled(2_000, 50, 40, least_capacity=200)
    fast, same_rng = filled(2_000, 50, 40, least_capacity=1 << 16)
    for _ in range(10):
        freeze(slow._store)
        while phase(slow) != IDLE:
            small_step(slow)
            if rng.random() < 0.1:
                state = rng.bit_generator.state
                add(slow, rng, 3)
                same_rng.bit_generator.state = state
                add(fast, same_rng, 3)
                user, time = int(rng.integers(50)), int(rng.integers(300))
                assert np.array_equal(slow.forget_user(user, time), fast.forget_user(user, time))
                item, time = int(rng.integers(40)), int(rng.integers(300))
                assert np.array_equal(slow.remove_item(item, time), fast.remove_item(item, time))
        assert same(everything(slow), everything(fast))
        assert_main_is_whole(slow)


def test_forgotten_pairs_are_squeezed_out_of_memory():
    ratings, rng = filled(5_000, 300, 100, least_capacity=64)
    seen, largest = set(), 0
    for user in range(0, 300, 2):
        ratings.forget_user(user, 1000)
        add(ratings, rng, 20)
        expected = everything(ratings)
        largest = max(largest, int(ratings._store.sides["end"][USERS]))
        while phase(ratings) != IDLE:
            small_step(ratings)
            seen.add(phase(ratings))
        assert same(everything(ratings), expected)
    assert {SQUEEZE_USERS, SQUEEZE_ITEMS} <= seen
    freeze(ratings._store)
    advance(ratings._store, np.inf)
    assert_main_is_whole(ratings)
    n_forgotten = np.isinf(ratings._store.by_user.ratings[: ratings._store.sides["end"][USERS]]).sum()
    assert n_forgotten == ratings._store.state["n_forgotten"][0]
    assert n_forgotten < len(ratings.entries().user_rows) / 8
    assert ratings._store.sides["end"][USERS] < largest


def being_squeezed():
    """Return a store of which all is forgotten and about to be squeezed out of the users' main, and its pairs in main."""
    ratings, _ = filled(5_000, 300, 100, least_capacity=64)
    freeze(ratings._store)
    advance(ratings._store, np.inf)
    for user in range(300):
        ratings.forget_user(user, 1000)
    items = ratings._store.by_user.others[: ratings._store.sides["end"][USERS]].copy()
    users = np.repeat(np.arange(300, dtype=np.int32), ratings._store.by_user.rows["length"][:300])
    freeze(ratings._store)
    while phase(ratings) != SQUEEZE_USERS:
        small_step(ratings)
    return ratings, users, items


def rate(ratings, users, items):
    """Rate pairs, which have not been since what was forgotten, and see that both sides of main hold them."""
    n = len(users)
    ratings.accept(np.zeros(n, np.uint8), users, items, np.ones(n, np.float32), np.full(n, 1001))
    assert ratings.n_ratings == n
    freeze(ratings._store)
    advance(ratings._store, np.inf)
    assert_main_is_whole(ratings)


def test_forgotten_pairs_rated_again_while_memory_is_squeezed_are_kept_on_both_sides():
    ratings, users, items = being_squeezed()
    rate(ratings, users[::-1], items[::-1])


def test_forgotten_pairs_rated_again_just_before_a_pool_is_full_are_kept_on_both_sides():
    ratings, users, items = being_squeezed()
    held = set(zip(users.tolist(), items.tolist(), strict=True))
    n_new = int(ratings._store.pools["capacity"][ratings._store.state["active"][0]]) + 5
    new = [(user, item) for user in range(300) for item in range(100) if (user, item) not in held][:n_new]
    new_users, new_items = np.array(new, np.int32).T
    rate(ratings, np.concatenate([users[-20:], new_users]), np.concatenate([items[-20:], new_items]))


def test_forgotten_pairs_rated_again_at_the_end_of_a_call_are_kept_on_both_sides():
    ratings, users, items = being_squeezed()
    while ratings._store.state["cursor"][0] < 200:
        small_step(ratings)
    rate(ratings, users[-60:], items[-60:])


@pytest.mark.parametrize("n_items", [0, 1, 15, 16, 17, FEW_OF_ROW - 1, FEW_OF_ROW, FEW_OF_ROW + 1, 3 * FEW_OF_ROW, 1000])
def test_pairs_are_found_in_rows_of_any_length_wherever_they_begin(n_items):
    wanted = np.arange(-1, 2 * n_items + 2)
    for n_before in range(20):
        index = new_store(0).by_user
        index.others[: n_before + n_items + 20] = np.concatenate([np.arange(n_before), 2 * np.arange(n_items), np.arange(20)])
        index.rows["start"][0], index.rows["length"][0] = n_before, n_items
        expected = [n_before + other // 2 if 0 <= other < 2 * n_items and other % 2 == 0 else -1 for other in wanted]
        assert places(index, wanted).tolist() == expected


@bare
def fill_places(index, wanted, places):
    for k in range(wanted.size):
        places[k] = find_in_row(index, index.rows[0], wanted[k])


def places(index, wanted):
    found = np.empty(len(wanted), np.int64)
    fill_places(index, wanted, found)
    return found


@pytest.mark.parametrize(("n_users", "n_items"), [(200, 3), (3, 200), (2_000, 2)])
@pytest.mark.parametrize("rework", [0, 5_000])
def test_pairs_of_main_rated_again_by_the_hundred_are_new_on_both_sides(n_users, n_items, rework):
    users, items = (row.ravel().astype(np.int32) for row in np.indices((n_users, n_items)))
    n = len(users)
    ratings = Ratings(least_capacity=64)
    ratings.grow(n_users, n_items)
    ratings.accept(np.zeros(n, np.uint8), users, items, np.ones(n, np.float32), np.ones(n, np.int64))
    freeze(ratings._store)
    advance(ratings._store, np.inf)
    order = np.random.default_rng(0).permutation(
        np.repeat(np.arange(n), 2)
    )  # each twice, some while the first waits to be written
    values = np.arange(len(order), dtype=np.float32)
    accepted = ratings.accept(
        np.zeros(len(order), np.uint8), users[order], items[order], values, 2 + np.arange(len(order)), rework=rework
    )
    newest = np.zeros((n_users, n_items), np.float32)
    for k, pair in enumerate(order):
        newest[users[pair], items[pair]] = values[k]
        if rework:
            of_item = slice(*accepted.item_histories.starts[k : k + 2])
            assert dict(zip(*(column[of_item] for column in accepted.item_histories[1:]), strict=True))[users[pair]] == values[k]
    assert np.array_equal(ratings.histories_of_users(np.arange(n_users, dtype=np.int32)).ratings, newest.ravel())
    assert np.array_equal(ratings.histories_of_items(np.arange(n_items, dtype=np.int32)).ratings, newest.T.ravel())
    assert_main_is_whole(ratings)


@given(st.lists(st.integers(0, 2**63 - 1), max_size=200, unique_by=lambda key: key >> 32))
def test_keys_are_sorted(keys):
    keys = np.array(keys, np.uint64)
    ours, n = keys.copy(), len(keys)
    sort(ours, np.empty_like(keys), np.empty(257, np.int64), n)
    assert np.array_equal(ours, np.sort(keys))


@bare
def place(others, start, stop, other):
    return first_above(others, start, stop, other)


around = st.lists(st.integers(0, 300), max_size=20)


@given(st.sets(st.integers(0, 300)), st.integers(-1, 301), around, around)
def test_the_place_of_an_entry_is_found(others, other, before, behind):
    """Whatever the rows before and behind hold."""
    columns = np.array([*before, *sorted(others), *behind], np.int32)
    start, stop = len(before), len(before) + len(others)
    assert place(columns, start, stop, other) == start + np.searchsorted(columns[start:stop], other, "right")
