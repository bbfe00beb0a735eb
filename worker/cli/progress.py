"""How far a long command is: a bar on a terminal, nothing elsewhere. Always on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator


def shown(steps: Iterable[int], *, total: int, doing: str) -> Iterator[int]:
    """Yield *steps*, which count up to *total*, and show them under the name *doing*."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(doing, total=total)
        for step in steps:
            progress.update(task, completed=step)
            yield step
