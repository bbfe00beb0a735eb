"""Where CUDA kernels will live. This version has none; this module is the one place that says so."""

from __future__ import annotations


def missing() -> str | None:
    """Return why this machine cannot run CUDA kernels, or None when it can."""
    return "this version of factorstream has no CUDA kernels"
