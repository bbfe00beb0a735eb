"""A dense matrix, as numpy writes it, is a history too: rows are users, columns items, and there are no times."""

from __future__ import annotations

import io

import numpy as np

from factorstream.worker.errors import UserMistake
from factorstream.worker.history.history import History


def read(content: bytes, path: str, limit: int | None = None, *, zero_is_missing: bool = False) -> History:
    """Return the places of a matrix that hold a rating, row after row; NaN is none, and with *zero_is_missing* neither is 0.

    Ids are the numbers of rows and columns, from 0; all of them are there. Times are 0: any event of a stream is newer.
    *path* names the file in messages. Raises `UserMistake`.
    """
    try:
        matrix = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserMistake(f"{path} begins like a numpy array, but cannot be read: {error}") from error
    if matrix.ndim != 2 or matrix.dtype.kind not in "biuf":
        raise UserMistake(
            f"{path} holds an array of shape {matrix.shape} and type {matrix.dtype}: a matrix of numbers is wanted, users × items"
        )
    held = ~np.isnan(matrix)
    if zero_is_missing:
        held &= matrix != 0
    users, items = (rows[:limit] for rows in np.nonzero(held))
    ratings = matrix[users, items].astype(np.float32)
    if not len(ratings):
        raise UserMistake(f"{path} holds no ratings: of its {matrix.size} places none has a number{_but_zero(zero_is_missing)}")
    bad = np.flatnonzero(~np.isfinite(ratings))
    if len(bad):
        place = f"row {users[bad[0]]}, column {items[bad[0]]}"
        raise UserMistake(f"{path}, {place}: {matrix[users[bad[0]], items[bad[0]]]} is no finite rating; NaN means missing")
    names = [list(map(str, range(n))) for n in matrix.shape]
    return History(users.astype(np.int32), items.astype(np.int32), ratings, np.zeros(len(ratings), np.int64), *names)


def _but_zero(zero_is_missing: bool) -> str:
    return " but 0" if zero_is_missing else ""
