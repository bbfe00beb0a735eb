"""A history as a stream of events, at a steady rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from factorstream.rating import EARLIEST_TIMESTAMP_MS, RATING_MAX, RATING_MIN, Rating
from factorstream.worker.errors import UserMistake
from factorstream.worker.history.history import History
from factorstream.worker.timing import Clock

BURST_S = 0.005
"""Events that fall due within this time are sent together."""
UNPACED_BURST = 1_000


def replay(
    history: History, send: Callable[[Rating], None], *, rate: float | None, clock: Clock, sleep: Callable[[float], None]
) -> Iterator[int]:
    """Send the events of *history* in order; yield after each burst how many have been sent so far.

    Args:
        rate: Events a second, evenly; None: as fast as *send* takes them.
    """
    n, began = len(history), clock()
    burst = UNPACED_BURST if rate is None else max(1, round(rate * BURST_S))
    for first in range(0, n, burst):
        if rate is not None:
            sleep(max(0.0, began + first / rate - clock()))
        for rating in events(history, first, min(n, first + burst)):
            send(rating)
        yield min(n, first + burst)


def events(history: History, first: int, stop: int) -> Iterator[Rating]:
    """Yield the ratings *first* to before *stop*."""
    part = slice(first, stop)
    users, items = history.user_names, history.item_names
    columns = (history.user_codes, history.item_codes, history.ratings, history.timestamps_ms)
    for user, item, rating, timestamp_ms in zip(*(column[part].tolist() for column in columns), strict=True):
        yield Rating(users[user], items[item], rating, timestamp_ms)


def check_acceptable(history: History, rating_min: float = RATING_MIN, rating_max: float = RATING_MAX) -> None:
    """Raise `UserMistake` for ratings that no worker with this range would accept."""
    early = np.flatnonzero(history.timestamps_ms < EARLIEST_TIMESTAMP_MS)
    if len(early):
        raise UserMistake(
            f"{len(early)} ratings are older than March 1973 (the first has the timestamp"
            f" {history.timestamps_ms[early[0]] / 1000:g}): events carry milliseconds"
            " since 1970, and smaller numbers are rejected as seconds; give the file real times"
        )
    outside = np.flatnonzero((history.ratings < rating_min) | (history.ratings > rating_max))
    if len(outside):
        raise UserMistake(
            f"{len(outside)} of {len(history)} ratings are not within {rating_min:g} to {rating_max:g} (the first is"
            f" {history.ratings[outside[0]]:g}): mend the file, or, for a worker whose model.rating_min or rating_max is set"
            " further, say so with --rating-min or --rating-max"
        )
