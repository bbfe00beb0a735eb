"""The compute kernels: three functions over plain arrays (`api.Kernels`), in several implementations.

Nothing is compiled or loaded until it is asked for: numba alone takes half a second to import.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from platform import machine

from factorstream.worker.kernels import devices
from factorstream.worker.kernels.api import Kernels
from factorstream.worker.kernels.beliefs import Filters

DEVICES = ("auto", "cpu", "cuda")


class DeviceMissing(LookupError):
    """This machine or this version has no such device."""


class DeviceWrong(DeviceMissing):
    """The device is there, and computes something else than the reference."""


def select(device: str) -> Kernels:
    """Return the kernels for *device*, one of `DEVICES`: ``auto`` is the processor, as long as no GPU has been measured.

    Raises `DeviceMissing`, with a message for the user.
    """
    if device not in DEVICES:
        raise DeviceMissing(f"model.device is {device!r}; choose one of {', '.join(DEVICES)}")
    if device != "cuda":
        return _cpu()
    if reason := devices.missing():
        raise DeviceMissing(f"model.device is 'cuda', but {reason}; choose 'auto' or 'cpu'")
    if wrong := _disagreement():
        raise DeviceWrong(f"model.device is 'cuda', but {wrong}; choose 'auto' or 'cpu'")
    return _gpu()


@functools.cache
def _disagreement() -> str | None:
    """Return in which of its parts the GPU disagrees with the reference, and by how much; None when in none."""
    from factorstream.worker.kernels import selftest

    differences = selftest.differences(_gpu()) | selftest.filter_differences(_gpu_filter())
    wrong = {what: apart for what, apart in differences.items() if not apart <= selftest.TOLERANCE}
    if not wrong:
        return None
    parts = ", ".join(f"{what} by {apart:.2g}" for what, apart in wrong.items())
    return f"the GPU does not compute what it should: its self-test is off in {parts}, where {selftest.TOLERANCE} is allowed"


def available_kernels() -> list[Kernels]:
    """Return every set of kernels that runs on this machine, the reference first."""
    from factorstream.worker.kernels import reference

    return [reference, _cpu(), *([_gpu()] if devices.interpretable() else [])]


def filters(kernels: Kernels) -> Filters:
    """Return the kernels of the learner `posterior` that run where *kernels* do."""
    return _gpu_filter() if kernels.name == "gpu" else _cpu_filter()


def available_filters() -> list[Filters]:
    """Return every set of those, the reference first."""
    from factorstream.worker.kernels import reference_filter

    return [reference_filter, _cpu_filter(), *([_gpu_filter()] if devices.interpretable() else [])]


def platform(device: str = "cpu") -> str:
    """Return what the same bits can be expected on: the processor, the GPU if it learns, what compiles, and these sources."""
    import llvmlite.binding
    import numba
    import numpy as np

    sources = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))
    return (
        f"{machine()} {llvmlite.binding.get_host_cpu_name()}, numba {numba.__version__}, numpy {np.__version__}, "
        f"kernels {sources.hexdigest()[:16]}{devices.description() if select(device).name == 'gpu' else ''}"
    )


def _cpu() -> Kernels:
    from factorstream.worker.kernels import cpu

    return cpu


def _gpu() -> Kernels:
    from factorstream.worker.kernels import gpu

    return gpu


def _cpu_filter() -> Filters:
    from factorstream.worker.kernels import cpu_filter

    return cpu_filter


def _gpu_filter() -> Filters:
    from factorstream.worker.kernels import gpu_filter

    return gpu_filter
