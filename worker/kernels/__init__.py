"""The compute kernels: three functions over plain arrays (`api.Kernels`), in several implementations.

Nothing is compiled or loaded until it is asked for: numba alone takes half a second to import.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from platform import machine

from factorstream.worker.kernels import gpu
from factorstream.worker.kernels.api import Kernels
from factorstream.worker.kernels.beliefs import Filters

DEVICES = ("auto", "cpu", "cuda")


class DeviceMissing(LookupError):
    """This machine or this version has no such device."""


def select(device: str) -> Kernels:
    """Return the kernels for *device*, one of `DEVICES`: ``auto`` takes the fastest there is.

    Raises `DeviceMissing`, with a message for the user.
    """
    if device not in DEVICES:
        raise DeviceMissing(f"model.device is {device!r}; choose one of {', '.join(DEVICES)}")
    if device == "cuda":
        raise DeviceMissing(f"model.device is 'cuda', but {gpu.missing()}; choose 'auto' or 'cpu'")
    return _cpu()


def available_kernels() -> list[Kernels]:
    """Return every set of kernels that runs on this machine, the reference first."""
    from factorstream.worker.kernels import reference

    return [reference, _cpu()]


def filters() -> Filters:
    """Return the kernels of the learner `posterior`: they run on the processor."""
    from factorstream.worker.kernels import cpu_filter

    return cpu_filter


def available_filters() -> list[Filters]:
    """Return every set of those, the reference first."""
    from factorstream.worker.kernels import reference_filter

    return [reference_filter, filters()]


def platform() -> str:
    """Return what the same bits can be expected on: the processor, what compiles for it, and these sources."""
    import llvmlite.binding
    import numba
    import numpy as np

    sources = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))
    return (
        f"{machine()} {llvmlite.binding.get_host_cpu_name()}, numba {numba.__version__}, numpy {np.__version__}, "
        f"kernels {sources.hexdigest()[:16]}"
    )


def _cpu() -> Kernels:
    from factorstream.worker.kernels import cpu

    return cpu
