"""How benchmarks speak: one table each, in Markdown, so that README.md can keep it as it was printed."""

import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple


class Figure(NamedTuple):
    """One measurement, and what it must be."""

    what: str
    value: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def wanted(self):
        """The bound in words; empty when there is none."""
        if self.at_least is not None:
            return f"≥ {number(self.at_least)}"
        return "" if self.at_most is None else f"≤ {number(self.at_most)}"

    @property
    def verdict(self):
        """Whether the bound is kept; empty when there is none."""
        if not self.wanted:
            return ""
        kept = (self.at_least is None or self.value >= self.at_least) and (self.at_most is None or self.value <= self.at_most)
        return "kept" if kept else "MISSED"


def show(title, figures):
    """Print *figures* under *title*, the machine and the date."""
    print(f"\n**{title}** · {machine()} · {datetime.now(UTC):%Y-%m-%d}\n")
    print("| what | figure | | wanted | |\n|---|--:|---|---|---|")
    for figure in figures:
        print(f"| {figure.what} | {number(figure.value)} | {figure.unit} | {figure.wanted} | {figure.verdict} |")
    print(flush=True)


def number(value):
    """Return *value* with as many digits as it is worth."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 10 else f"{value:.4g}" if value >= 1 else f"{value:.3f}"


def machine():
    """Return the processor's name and how many cores this process may use."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return f"{found[1] if found else platform.processor()}, {len(os.sched_getaffinity(0))} cores"
