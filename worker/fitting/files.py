"""A fitted model as ``.npz``, without pickles: rows of ids and of factors go together."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.errors import UserMistake
from factorstream.worker.kernels.api import F32
from factorstream.worker.learn.priors import priors_of
from factorstream.worker.model.factors import Factors
from factorstream.worker.model.model import Model

SIDES = "user", "item"


def save(path: Path, model: Model, user_ids: Sequence[str], item_ids: Sequence[str], settings: str) -> None:
    """Write *model* and its *settings*, JSON. Raises `UserMistake`."""
    try:
        with path.open("wb") as file:
            priors = priors_of(model)
            said: dict[str, Any] = {}
            if priors is not None:
                said = {f"{side}_effects": priors.tables()[f"{side}s.said"] for side in SIDES}
            np.savez(
                file,
                **said,
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
    """Let *model*, which is prepared, start from what `save` wrote of its rows, by id; ids not in it stay as they are.

    Raises `UserMistake`, also when no id is in it or the rank is another.
    """
    try:
        with np.load(path, allow_pickle=False) as held:
            found = 0
            for side, rows, ids in zip(SIDES, (model.users, model.items), (user_ids, item_ids), strict=True):
                own, theirs = _known(ids, held[f"{side}_ids"])
                _start(path, rows, own, held[f"{side}_factors"][theirs], held[f"{side}_biases"][theirs])
                if f"{side}_effects" in held:
                    _say(model, SIDES.index(side), own, held[f"{side}_effects"][theirs])
                found += len(own)
    except FileNotFoundError as error:
        raise UserMistake(f"--start {path}: there is no such file (or say svd, or random)") from error
    except (OSError, ValueError, TypeError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise UserMistake(f"--start {path} is not what 'factorstream fit --out' writes") from error
    if nonnegative and any((parameters < 0).any() for parameters in model.parameters()):
        raise UserMistake(f"--start {path} has negative numbers, and nonnegative factors cannot start there: take one of nmf")
    if not found:
        raise UserMistake(f"--start {path} holds none of the users and items of this history: is it of other data?")


def _known(ids: Sequence[str], held_ids: NDArray[np.str_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which of *ids* are held, and where."""
    place = {name: row for row, name in enumerate(held_ids.tolist())}
    known = [(row, place[name]) for row, name in enumerate(ids) if name in place]
    own, theirs = np.array(known, np.int64).reshape(-1, 2).T
    return own, theirs


def _start(path: Path, rows: Factors, own: NDArray[np.int64], factors: F32, biases: F32) -> None:
    """Let the rows *own* be what is held of them."""
    if factors.shape[1:] != (rows.rank,):
        raise UserMistake(f"--start {path} has {factors.shape[-1]} factors a row, and model.rank is {rows.rank}: make them equal")
    rows.factors[own], rows.biases[own] = factors, biases


def _say(model: Model, side: int, own: NDArray[np.int64], said: F32) -> None:
    """Let the rows *own* say what they said of those they met, where priors are learned."""
    priors = priors_of(model)
    if priors is None:
        return
    priors.grow(model.users.n, model.items.n)
    priors.effects[side].said[own] = said
    priors.effects[side].send(own)
