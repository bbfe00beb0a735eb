"""Generated rating streams with what makes real ones hard: low rank, levels, noise, few very popular items."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FIRST_S = 1_700_000_000
CHUNK = 500_000


@dataclass(frozen=True, slots=True)
class Ratings:
    """Columns of equal length, in time order; no (user, item) twice."""

    users: NDArray[np.int32]
    items: NDArray[np.int32]
    ratings: NDArray[np.float32]
    """Half stars, 0.5 to 5."""
    timestamps_ms: NDArray[np.int64]
    """Whole seconds, with ties."""

    def __len__(self) -> int:
        return len(self.users)

    def write_csv(self, path: Path) -> None:
        """Write ``user_id,item_id,rating,timestamp``, ids as ``u7`` and ``m7``, times in unix seconds."""
        columns = (self.users.tolist(), self.items.tolist(), self.ratings.tolist(), (self.timestamps_ms // 1000).tolist())
        with path.open("w") as file:
            file.write("user_id,item_id,rating,timestamp\n")
            file.writelines(f"u{user},m{item},{rating},{time}\n" for user, item, rating, time in zip(*columns, strict=True))


def ratings(n_ratings: int, n_users: int, n_items: int, seed: int = 0, *, rank: int = 8, noise: float = 0.5) -> Ratings:
    """Draw *n_ratings* ratings; equal arguments give equal streams.

    Stars are ``3.5 + b + c + u·v + noise`` with standard deviations 0.4, 0.5 and 0.6, rounded to halves, so *noise* and the
    rounding (0.14) bound the RMSE from below. Items are drawn by Zipf's law, users by a log-normal one.

    Raises:
        ValueError: *n_ratings* is more than a quarter of all pairs.
    """
    if 4 * n_ratings > n_users * n_items:
        raise ValueError(f"{n_ratings} distinct ratings are more than a quarter of {n_users} × {n_items} pairs")
    random = np.random.default_rng(seed)
    users, items = _pairs(n_ratings, _activity(n_users, random), _popularity(n_items, random), random)
    stars = _stars(users, items, n_users, n_items, rank, noise, random)
    seconds = FIRST_S + np.cumsum(random.integers(0, 2, n_ratings))
    return Ratings(users, items, stars, seconds * 1000)


def _activity(n_users: int, random: np.random.Generator) -> NDArray[np.float64]:
    return np.cumsum(random.lognormal(sigma=1.0, size=n_users))


def _popularity(n_items: int, random: np.random.Generator) -> NDArray[np.float64]:
    return np.cumsum(random.permutation(1.0 / (10.0 + np.arange(n_items))))  # shifted: the top item is popular, not everything


def _pairs(
    n: int, activity: NDArray[np.float64], popularity: NDArray[np.float64], random: np.random.Generator
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Draw *n* distinct pairs, in the order drawn."""
    n_items = len(popularity)
    keys = np.empty(0, np.int64)
    while len(keys) < n:
        n_more = int(1.3 * (n - len(keys))) + 16
        drawn = _draw(n_more, activity, random).astype(np.int64) * n_items + _draw(n_more, popularity, random)
        keys = np.concatenate([keys, drawn])
        keys = keys[np.sort(np.unique(keys, return_index=True)[1])]
    return (keys[:n] // n_items).astype(np.int32), (keys[:n] % n_items).astype(np.int32)


def _draw(n: int, cumulative: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.int32]:
    drawn: NDArray[np.int64] = np.searchsorted(cumulative, random.random(n) * cumulative[-1], side="right")
    return drawn.astype(np.int32)


def _stars(
    users: NDArray[np.int32],
    items: NDArray[np.int32],
    n_users: int,
    n_items: int,
    rank: int,
    noise: float,
    random: np.random.Generator,
) -> NDArray[np.float32]:
    deviation = np.float32((0.6**2 / rank) ** 0.25)  # of each factor, so that u·v has 0.6
    p = deviation * random.standard_normal((n_users, rank), dtype=np.float32)
    q = deviation * random.standard_normal((n_items, rank), dtype=np.float32)
    level_users = random.normal(3.5, 0.4, n_users).astype(np.float32)
    level_items = random.normal(0.0, 0.5, n_items).astype(np.float32)
    scores = level_users[users] + level_items[items] + np.float32(noise) * random.standard_normal(len(users), dtype=np.float32)
    for first in range(0, len(users), CHUNK):
        part = slice(first, first + CHUNK)
        scores[part] += np.einsum("nk,nk->n", p[users[part]], q[items[part]])
    stars: NDArray[np.float32] = np.clip(np.rint(2 * scores) / 2, 0.5, 5.0).astype(np.float32)
    return stars
