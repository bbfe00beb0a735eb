"""A curve in a terminal, made of characters."""

from __future__ import annotations

from collections.abc import Sequence

EIGHTHS = " ▁▂▃▄▅▆▇█"


def curve(values: Sequence[float], *, width: int = 60, height: int = 6) -> list[str]:
    """Return lines that draw *values*, at least one, from left to right: the largest at the top, the smallest at the bottom."""
    low, high = min(values), max(values)
    n = min(width, len(values))
    shown = [values[round(j * (len(values) - 1) / max(1, n - 1))] for j in range(n)]
    span = (high - low) or 1.0
    heights = [1 + round((value - low) / span * (8 * height - 1)) for value in shown]
    labels = {0: f"{high:.6g}", height - 1: f"{low:.6g}"}
    margin = max(map(len, labels.values()))
    return [
        f"{labels.get(line, ''):>{margin}} │"
        + "".join(EIGHTHS[min(8, max(0, eighths - 8 * (height - 1 - line)))] for eighths in heights).rstrip()
        for line in range(height)
    ]
