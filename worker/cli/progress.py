"""How far a long command is: a bar on a terminal, nothing elsewhere. Always on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Step = TypeVar("Step")


def told(steps: Iterable[Step], *, n: int, doing: str, line: Callable[[int, Step], str]) -> Iterator[Step]:
    """Yield *steps*, at most *n*, and print a *line* about each, numbered from 1; on a terminal there is a bar below."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False, markup=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(doing, total=n)
        for number, step in enumerate(steps, 1):
            progress.update(task, completed=number)
            console.print(line(number, step), soft_wrap=True)
            yield step


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
