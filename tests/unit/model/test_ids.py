"""Ids and rows: every id one row for ever, and a forgotten id nowhere."""

from hypothesis import example, given
from hypothesis import strategies as st

from factorstream.worker.model.forgotten import Forgotten
from factorstream.worker.model.ids import Ids

KEY = b"k" * 32


@given(st.lists(st.text(min_size=1, max_size=3)))
def test_rows_are_given_in_order_of_first_sight(names):
    ids = Ids(KEY)
    rows = ids.rows(names).tolist()
    assert ids.names == list(dict.fromkeys(names))
    assert [ids.names[row] for row in rows] == names


def test_ids_that_look_like_numbers_keep_their_zeros():
    assert Ids(KEY).rows(["7", "07", "007"]).tolist() == [0, 1, 2]


def test_a_forgotten_id_is_nowhere_and_comes_back_as_another_row():
    ids = Ids(KEY, ["a", "secret"])
    ids.raise_floor("secret", 10)
    assert ids.erase(1) == "secret"
    assert "secret" not in ids
    assert "secret" not in repr((ids.names, ids.forgotten.array().tolist()))
    assert ids["secret"] == 2


@given(st.lists(st.integers(0, 100), min_size=1))
def test_the_latest_forgetting_counts_in_any_order(times):
    ids = Ids(KEY)
    for time in times:
        ids.raise_floor("x", time)
    assert ids.floor_of("x") == max(times)
    assert ids.floor_of("y") is None


def test_the_hash_of_a_forgotten_id_cannot_be_made_without_the_key():
    one, other = Ids(KEY), Ids(b"o" * 32)
    one.raise_floor("x", 1)
    other.raise_floor("x", 1)
    assert set(one.forgotten).isdisjoint(other.forgotten)


@given(st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.integers(-(2**62), 2**62))))
@example([(bytes(16), 5), (b"a" + bytes(15), 3), (bytes(16), 4)])
def test_who_was_forgotten_outlives_a_checkpoint(forgettings):
    forgotten, latest = Forgotten(), {}
    for hashed, time in forgettings:
        forgotten.raise_floor(hashed, time)
        latest[hashed] = max(time, latest.get(hashed, time))
    for held in (forgotten, Forgotten(forgotten.array())):
        assert {hashed: held.get(hashed) for hashed in held} == latest
        assert len(held) == len(latest)
        assert held.get(b"never forgotten!") == latest.get(b"never forgotten!")


def test_a_copy_for_a_checkpoint_is_not_touched_afterwards():
    forgotten = Forgotten()
    forgotten.raise_floor(b"a" * 16, 1)
    copy = forgotten.array()
    forgotten.raise_floor(b"a" * 16, 2)
    forgotten.raise_floor(b"b" * 16, 3)
    assert copy["time"].tolist() == [1]
