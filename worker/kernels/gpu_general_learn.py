"""Batches learned on the device with any objective and optimizer: what the kernels of `gpu_general` are started with."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch

from factorstream.worker.kernels import gpu_general, gpu_learn, losses
from factorstream.worker.kernels.api import Batch, Objective, Optimizer, Rates
from factorstream.worker.kernels.gpu_fold import room_of
from factorstream.worker.kernels.gpu_language import INTERPRETED
from factorstream.worker.kernels.gpu_learn import IN_ORDER, REGISTERS, Runs
from factorstream.worker.kernels.gpu_losses import edges_of
from factorstream.worker.kernels.gpu_moments import of_both
from factorstream.worker.kernels.gpu_tables import Resident, Tensor, empty, sent, width_of, zeros


def a_processor(width: int) -> int:
    """Return how many programs, of one warp, have room in one multiprocessor: rows come with what an optimizer remembers."""
    return 16 if width <= 64 else 12


def most_registers(width: int) -> int:
    """Return how many registers a thread may have so that `a_processor` programs fit; they are given out by eights."""
    return REGISTERS // (a_processor(width) * 32) // 8 * 8


@functools.cache
def programs(width: int) -> int:
    """Return how many programs of `gpu_general.learn_any_runs` surely run at the same time. Interpreted ones run one by one."""
    if INTERPRETED.value:
        return 1
    return gpu_learn.resident(a_processor(width))


@np.errstate(all="ignore")
def learn(
    users: Resident, items: Resident, batch: Batch, intercept: float, objective: Objective, rates: Rates, optimizer: Optimizer
) -> Tensor:
    """Learn from *batch* in exact order; return the columns of `Scored`. Raises `Full` before anything is changed."""
    rank, (of_users, of_items), loss = users.factors.shape[1], of_both(optimizer), objective.loss
    width, n_programs = width_of(rank), programs(width_of(rank))
    work = gpu_learn.work_of(batch, n_programs)
    tables = tuple(users.tables), tuple(items.tables), of_users.tables, of_items.tables
    edges = sent(edges_of(loss), np.float64), float(len(loss.cuts))
    numbers = float(intercept), 0.0 if objective.nonnegative else -math.inf, *numbers_of(objective, rates, optimizer)
    how: dict[str, Any] = {
        "LOSS": losses.KINDS[loss.name],
        "OPTIMIZER": gpu_general.OPTIMIZERS.index(optimizer.name),
        "WEIGHTED": bool(objective.penalty.weighted),
        "WIDTH": width,
        **IN_ORDER,
    }
    if isinstance(work, Runs):
        n = len(work.events)
        scored, signals = empty((4, n)), zeros((2 * n + 1,))
        runs = work.events, work.starts, *work.columns, work.waits, work.slots, signals, signals[2 * n :], scored
        how["maxnreg"] = most_registers(width)
        gpu_general.learn_any_runs[(min(n_programs, n),)](*tables, *runs, *edges, n, rank, *numbers, **how)
        return scored
    there, order, length = work
    n, n_accesses, n_reads = len(there.ratings), len(order.wait), len(there.user_histories.others)
    scored, signals = empty((4, n)), zeros((n_accesses + 1,))
    room = empty((min(n_programs, n), 2, room_of(width, length)), torch.float64)
    histories = tuple(there.user_histories), tuple(there.item_histories)
    columns = *there[:5], *histories, *order, signals, signals[n_accesses:], room, scored
    how |= {"BIASED": bool(objective.biased), "LONGEST": length}
    gpu_general.learn_any_events[(len(room),)](*tables, *columns, *edges, n, n_reads, rank, *numbers, **how)
    return scored


def numbers_of(objective: Objective, rates: Rates, optimizer: Optimizer) -> tuple[tuple[float, ...], ...]:
    """Return weights, stepping and turning as the kernels take them."""
    user, item, bias, _, user_lasso, item_lasso = objective.penalty
    factors, biases, decay, power = rates
    weights = user, item, bias, user_lasso, item_lasso
    stepping = factors, biases if objective.biased else 0.0, decay, power
    betas = optimizer.beta1, optimizer.beta2
    turning = *(number for beta in betas for number in (beta, 1.0 - beta, float(np.log(beta)))), optimizer.epsilon
    return tuple(map(float, weights)), tuple(map(float, stepping)), tuple(map(float, turning))
