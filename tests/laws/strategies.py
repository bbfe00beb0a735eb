"""Logs of events, as hypothesis makes them: few ids, so that everything happens to everything."""

from hypothesis import strategies as st

START_MS = 1_600_000_000_000

user_ids = st.sampled_from(["u0", "u1", "u2", "007", "ü"])
item_ids = st.sampled_from(["i0", "i1", "i2", "i3", "0111161"])
times = st.integers(START_MS, START_MS + 40)
stars = st.sampled_from([0.5, 1.0, 2.0, 3.5, 5.0])

rates = st.fixed_dictionaries({"user_id": user_ids, "item_id": item_ids, "rating": stars, "timestamp_ms": times})
unrates = st.fixed_dictionaries({"type": st.just("unrate"), "user_id": user_ids, "item_id": item_ids, "timestamp_ms": times})
forgets = st.fixed_dictionaries({"type": st.just("forget_user"), "user_id": user_ids, "timestamp_ms": times})
removals = st.fixed_dictionaries({"type": st.just("remove_item"), "item_id": item_ids, "timestamp_ms": times})

events = st.one_of(rates, rates, rates, rates, rates, rates, unrates, forgets, removals)


def logs(*, max_size=60):
    return st.lists(events, max_size=max_size)


def rating_logs(*, max_size=60):
    return st.lists(rates, max_size=max_size)
