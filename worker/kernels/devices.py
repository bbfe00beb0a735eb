"""Which devices this machine has, told without loading what runs on them."""

from __future__ import annotations

import ctypes
import functools
from importlib.util import find_spec

from factorstream.worker.kernels.api import Objective, Optimizer

MOST_FACTORS = 128
"""K on a GPU: a row's K × K matrix has to fit into the registers of one program."""
LONGEST = 32
"""Ratings of rows that are folded in there: an n × n matrix of float64 has to fit into the registers of one warp."""


def too_wide(rank: int) -> str | None:
    """Return why the GPU's kernels cannot solve rows of *rank* factors, or None when they can."""
    return f"there are {rank} factors, more than {MOST_FACTORS}" if rank > MOST_FACTORS else None


def too_long(fold_in: int) -> str | None:
    """Return why the GPU's kernels cannot fold in rows of up to *fold_in* ratings, or None when they can."""
    return f"rows of up to {fold_in} ratings are folded in, more than {LONGEST}" if fold_in > LONGEST else None


def is_plain(objective: Objective, optimizer: Optimizer) -> bool:
    """Whether events are learned by the kernels for least squares and plain steps, which know rows of any width."""
    return objective.is_least_squares and optimizer.name == "sgd"


@functools.cache
def missing() -> str | None:
    """Return why this machine cannot run CUDA kernels, or None when it can."""
    if not _n_devices():
        return "this machine has no NVIDIA GPU, or no driver for it"
    if not interpretable():
        return "PyTorch is not installed: pip install 'factorstream[worker,gpu]'"
    import torch

    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} cannot use this machine's GPU (is it a build for CUDA, and new enough a driver?)"
    major, minor = torch.cuda.get_device_capability()
    if major < 7:
        return f"its GPU, of compute capability {major}.{minor}, is older than 7.0"
    return None


def description() -> str:
    """Return what the same bits can be expected on: the GPU, and what compiles for it."""
    import torch
    import triton

    return f", {torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}"


def interpretable() -> bool:
    """Whether the GPU's kernels can be run at all, be it interpreted."""
    return find_spec("torch") is not None and find_spec("triton") is not None


def _n_devices() -> int:
    """Return how many devices the driver has, 0 without one."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0
