"""A fitted model as ``.npz``, without pickles: rows of ids and of factors go together."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.errors import UserMistake
from factorstream.worker.kernels.api import F32
from factorstream.worker.model.factors import Factors
from factorstream.worker.model.model import Model


def save(path: Path, model: Model, user_ids: Sequence[str], item_ids: Sequence[str], settings: str) -> None:
    """Write *model* and its *settings*, JSON. Raises `UserMistake`."""
    try:
        with path.open("wb") as file:
            np.savez(
                file,
                user_ids=np.array(user_ids),
                user_factors=model.users.factors,
                user_biases=model.users.biases,
                item_ids=np.array(item_ids),
                item_factors=model.items.factors,
                item_biases=model.items.biases,
                intercept=np.array(model.level.intercept),
                settings=np.array(settings),
            )
    except OSError as error:
        raise UserMistake(f"--out {path} could not be written: {error.strerror}") from error


def start_from_file(
    path: Path, model: Model, user_ids: Sequence[str], item_ids: Sequence[str], *, nonnegative: bool = False
) -> None:
    """Let *model*, which is prepared, start from the factors and biases that `save` wrote, by id; ids not in it stay as they are.

    Raises `UserMistake`, also when no id is in it or the rank is another.
    """
    try:
        with np.load(path, allow_pickle=False) as held:
            found = _start(path, model.users, user_ids, held["user_ids"], held["user_factors"], held["user_biases"])
            found += _start(path, model.items, item_ids, held["item_ids"], held["item_factors"], held["item_biases"])
    except FileNotFoundError as error:
        raise UserMistake(f"--start {path}: there is no such file (or say svd, or random)") from error
    except (OSError, ValueError, TypeError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise UserMistake(f"--start {path} is not what 'factorstream fit --out' writes") from error
    if nonnegative and any((parameters < 0).any() for parameters in model.parameters()):
        raise UserMistake(f"--start {path} has negative numbers, and nonnegative factors cannot start there: take one of nmf")
    if not found:
        raise UserMistake(f"--start {path} holds none of the users and items of this history: is it of other data?")


def _start(path: Path, rows: Factors, ids: Sequence[str], held_ids: NDArray[np.str_], factors: F32, biases: F32) -> int:
    """Take the rows whose ids are held; return how many."""
    if factors.shape[1:] != (rows.rank,):
        raise UserMistake(f"--start {path} has {factors.shape[-1]} factors a row, and model.rank is {rows.rank}: make them equal")
    place = {name: row for row, name in enumerate(held_ids.tolist())}
    known = [(row, place[name]) for row, name in enumerate(ids) if name in place]
    own, theirs = np.array(known, np.int64).reshape(-1, 2).T
    rows.factors[own], rows.biases[own] = factors[theirs], biases[theirs]
    return len(known)
