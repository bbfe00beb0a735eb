"""How well held-out items are ranked among all that their users had not met."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.api import F32
from factorstream.worker.model.model import Model
from factorstream.worker.model.ratings import Held, Ratings

AT_ONCE = 1 << 25
"""Scores held in memory."""
MOST = 10_000
"""Pairs that are ranked; of more, so many at equal distances."""
N_BEST = 10


class Ranking(NamedTuple):
    """Means over held-out pairs with a rating above 0, each of which is the one thing to be found."""

    recall_at_10: float
    """How often it is among the ten best."""
    ndcg_at_10: float
    """``1 / log2(1 + place)`` of those, 0 of the others."""


def ranking(model: Model, holdout: Held) -> Ranking | None:
    """Rank each held-out item among those its user's training ratings do not name; None when nothing is held out."""
    chosen = np.flatnonzero(holdout.ratings > 0)
    if not len(chosen):
        return None
    chosen = chosen[:: -(-len(chosen) // MOST)]
    users, items = holdout.user_rows[chosen], holdout.item_rows[chosen]
    return of_places(places(model.users.factors, model.items.factors, model.ratings, users, items))


def of_places(found: NDArray[np.int64]) -> Ranking:
    """Return the means for items found at these places, the best being 0."""
    hits = found < N_BEST
    return Ranking(float(hits.mean()), float((hits / np.log2(2.0 + found)).mean()))


def places(
    users: F32, items: F32, known: Ratings, user_rows: NDArray[np.int32], item_rows: NDArray[np.int32]
) -> NDArray[np.int64]:
    """Return how many items that ``user_rows[j]`` does not know score at least as high as ``item_rows[j]``, which it may know."""
    found = np.empty(len(user_rows), np.int64)
    step = max(1, AT_ONCE // max(1, len(items)))
    for first in range(0, len(user_rows), step):
        rows, tested = user_rows[first : first + step], item_rows[first : first + step]
        scores = users[rows] @ items.T
        at = np.arange(len(rows))
        reached = scores[at, tested]
        histories = known.histories_of_users(rows)
        scores[np.repeat(at, np.diff(histories.starts)), histories.others] = -np.inf
        scores[at, tested] = -np.inf
        found[first : first + step] = (scores >= reached[:, None]).sum(axis=1)
    return found
