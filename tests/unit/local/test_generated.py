"""The generated stream: equal for equal seeds, distinct pairs, in time order, as hard as it says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorstream.worker.local import generated


@given(st.integers(0, 200), st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_any_size_that_fits_gives_distinct_pairs_in_time_order_of_half_stars(n_ratings, n_users, n_items, seed):
    n_ratings = min(n_ratings, n_users * n_items // 4)
    stream = generated.ratings(n_ratings, n_users, n_items, seed)
    pairs = set(zip(stream.users.tolist(), stream.items.tolist(), strict=True))
    assert len(pairs) == len(stream) == n_ratings
    assert all(0 <= user < n_users and 0 <= item < n_items for user, item in pairs)
    assert np.all(np.diff(stream.timestamps_ms) >= 0)
    assert set((2 * stream.ratings).tolist()) <= set(range(1, 11))


def test_equal_seeds_give_equal_streams_and_others_do_not():
    first, same, other = (generated.ratings(500, 100, 50, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.ratings, same.ratings)
    assert np.array_equal(first.users, same.users)
    assert not np.array_equal(first.items, other.items)


def test_levels_and_factors_explain_what_the_noise_does_not():
    quiet = generated.ratings(20_000, 2_000, 400, noise=0.0).ratings.std()
    noisy = generated.ratings(20_000, 2_000, 400, noise=1.0).ratings.std()
    assert 0.7 < quiet < 1.0 < noisy


def test_a_few_items_are_met_far_more_often_than_most():
    counts = np.sort(np.bincount(generated.ratings(20_000, 5_000, 1_000).items, minlength=1_000))[::-1]
    assert counts[0] > 20 * counts[500]


def test_more_ratings_than_a_quarter_of_the_pairs_are_refused():
    with pytest.raises(ValueError, match="more than a quarter of 2 × 3 pairs"):
        generated.ratings(2, 2, 3)


def test_the_file_holds_the_stream(tmp_path):
    stream = generated.ratings(50, 20, 20)
    stream.write_csv(tmp_path / "ratings.csv")
    header, *rows = (line.split(",") for line in (tmp_path / "ratings.csv").read_text().splitlines())
    assert header == ["user_id", "item_id", "rating", "timestamp"]
    assert [user for user, *_ in rows] == [f"u{user}" for user in stream.users]
    assert [float(rating) for *_, rating, _ in rows] == stream.ratings.tolist()
    assert [1000 * int(time) for *_, time in rows] == stream.timestamps_ms.tolist()
