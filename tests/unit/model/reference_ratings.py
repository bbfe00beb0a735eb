"""What `Ratings` means, with dictionaries and no thought for speed."""

import math

import numpy as np

from factorstream.worker.model.ratings import Accepted, Held, Histories, Newest

NEVER = np.iinfo(np.int64).min


def order(timestamp_ms, rating):
    """Return what decides between two events of a pair; a NaN rating is an unrate."""
    return (timestamp_ms, 1, 0.0) if math.isnan(rating) else (timestamp_ms, 0, rating)


class ReferenceRatings:
    """Pairs → (rating, time); NaN is a tombstone. Forgotten pairs are gone."""

    def __init__(self):
        self.pairs = {}
        self.n_rows = [0, 0]
        self.floors = [{}, {}]
        self.newest = [{}, {}]

    @property
    def n_ratings(self):
        return len(self.held())

    def held(self):
        return {pair: held for pair, held in self.pairs.items() if not math.isnan(held[0])}

    def grow(self, n_users, n_items):
        self.n_rows = [max(self.n_rows[0], n_users), max(self.n_rows[1], n_items)]

    def accept(self, kinds, user_rows, item_rows, ratings, timestamps_ms, *, start=0, limit=10**9, fold_in=0, fold_in_items=None):
        most = fold_in, fold_in if fold_in_items is None else fold_in_items
        accepted, histories, stop = [], [[], []], start
        while stop < len(kinds) and len(accepted) < limit:
            pair = int(user_rows[stop]), int(item_rows[stop])
            rating = math.nan if kinds[stop] else float(ratings[stop])
            n_before = len(self.held())
            if self.apply(pair, rating, int(timestamps_ms[stop])):
                rows = [self.row(side, pair[side]) for side in (0, 1)]
                change = len(self.held()) - n_before
                accepted.append((stop, *pair, rating, int(timestamps_ms[stop]), len(rows[0]), len(rows[1]), change))
                for side in (0, 1):
                    histories[side].append(rows[side] if len(rows[side]) <= most[side] else [])
            stop += 1
        kinds_of_columns = (np.int64, np.int32, np.int32, np.float32, np.int64, np.int32, np.int32, np.int8)
        columns = [np.array([entry[k] for entry in accepted], kind) for k, kind in enumerate(kinds_of_columns)]
        return Accepted(stop, *columns, *map(columns_of, histories))

    def apply(self, pair, rating, timestamp_ms):
        if any(timestamp_ms <= self.floors[side].get(pair[side], NEVER) for side in (0, 1)):
            return False
        if pair in self.pairs and order(timestamp_ms, rating) <= order(self.pairs[pair][1], self.pairs[pair][0]):
            return False
        self.pairs[pair] = rating, timestamp_ms
        for side in (0, 1):
            self.newest[side][pair[side]] = max(self.newest[side].get(pair[side], 0), timestamp_ms)
        return True

    def row(self, side, row):
        """Return (other row, rating) of all ratings a row holds, ascending."""
        return sorted((pair[1 - side], rating) for pair, (rating, _) in self.held().items() if pair[side] == row)

    def forget(self, side, row, timestamp_ms):
        self.floors[side][row] = max(timestamp_ms, self.floors[side].get(row, NEVER))
        gone = {pair: held for pair, held in self.pairs.items() if pair[side] == row and held[1] <= timestamp_ms}
        for pair in gone:
            del self.pairs[pair]
        return np.array(sorted(pair[1 - side] for pair, held in gone.items() if not math.isnan(held[0])), np.int32)

    def forget_user(self, row, timestamp_ms):
        return self.forget(0, row, timestamp_ms)

    def remove_item(self, row, timestamp_ms):
        return self.forget(1, row, timestamp_ms)

    def histories_of_users(self, rows):
        return columns_of([self.row(0, row) for row in rows])

    def histories_of_items(self, rows):
        return columns_of([self.row(1, row) for row in rows])

    def newest_items(self, user_rows, limit):
        rows = [sorted(((t, i) for (u, i), (_, t) in self.held().items() if u == row), reverse=True)[:limit] for row in user_rows]
        return Newest(starts_of(rows), np.array([item for row in rows for _, item in row], np.int32))

    def entries(self):
        pairs = sorted((*pair, *held) for pair, held in self.pairs.items())
        return Held(
            *(np.array([pair[k] for pair in pairs], kind) for k, kind in enumerate((np.int32, np.int32, np.float32, np.int64)))
        )

    def counts(self, side):
        return np.array([len(self.row(side, row)) for row in range(self.n_rows[side])], np.int32)

    def newest_ms(self, side):
        return np.array([self.newest[side].get(row, 0) for row in range(self.n_rows[side])], np.int64)

    def floor_ms(self, side):
        return np.array([self.floors[side].get(row, NEVER) for row in range(self.n_rows[side])], np.int64)


def starts_of(rows):
    return np.cumsum([0, *map(len, rows)]).astype(np.int64)


def columns_of(rows):
    pairs = [pair for row in rows for pair in row]
    return Histories(starts_of(rows), np.array([p[0] for p in pairs], np.int32), np.array([p[1] for p in pairs], np.float32))
