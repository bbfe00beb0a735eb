"""What ids mean while some are forgotten and come back."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from factorstream.codec import Decoded
from factorstream.worker.identities import Identities
from factorstream.worker.model.ratings import Ratings
from factorstream.worker.pending import Pending

names = st.sampled_from("abcd")
histories = st.lists(st.tuples(st.sampled_from([0, 0, 0, 0, 1, 2, 3]), names, names, st.integers(0, 9)), max_size=30)


class Reading:
    """Identities at work, on ratings that hold nothing: so whoever is forgotten is erased."""

    def __init__(self):
        self.identities, self.held, self.pending = Identities.new(b"k" * 32), Ratings(), Pending()
        self.seen = []

    def read(self, history):
        kinds, users, items, times = ([event[k] for event in history] for k in range(4))
        n = len(history)
        decoded = Decoded(
            np.array(kinds, np.uint8), users, items, np.zeros(n, np.float32), np.array(times, np.int64), np.arange(n), []
        )
        for events in self.identities.events(decoded, self.held, self.pending):
            self.held.grow(len(self.identities.users.names), len(self.identities.items.names))
            columns = (events.kinds, events.user_rows, events.item_rows, events.timestamps_ms)
            self.seen += zip(*(column.tolist() for column in columns), strict=True)


@given(histories, st.integers(1, 9))
def test_who_an_event_is_about_does_not_depend_on_how_events_were_cut(history, n):
    whole, cut = Reading(), Reading()
    whole.read(history)
    for start in range(0, len(history), n):
        cut.read(history[start : start + n])
    assert whole.seen == cut.seen
    assert whole.identities.users.names == cut.identities.users.names
    assert whole.identities.items.names == cut.identities.items.names


@given(histories)
def test_nothing_older_than_a_forgetting_is_accepted_nor_gives_an_id_a_row(history):
    reading = Reading()
    reading.read(history)
    floors, expected = {}, []
    for kind, user, item, time in history:
        floor = max(floors.get(("user", user), -1), floors.get(("item", item), -1))
        if kind <= 1 and time > floor:
            expected.append((kind, time))
        elif kind > 1:
            key = ("user", user) if kind == 2 else ("item", item)
            floors[key] = max(time, floors.get(key, -1))
    passed = [event for event in reading.seen if event[0] <= 1]
    floor_of_user, floor_of_item = reading.held.user_floor_ms, reading.held.item_floor_ms
    assert [(kind, time) for kind, user, item, time in passed if time > max(floor_of_user[user], floor_of_item[item])] == expected
    assert {row for _, row, _, _ in passed} == set(range(len(reading.identities.users.names)))
    assert {row for _, _, row, _ in passed} == set(range(len(reading.identities.items.names)))
