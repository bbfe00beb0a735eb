"""What a person sees of `fit`: each iteration as it is done, on standard error, and the course of all of them at the end."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from factorstream.worker.cli.curve import curve

if TYPE_CHECKING:
    from factorstream.worker.fitting import Iteration


def shown(iterations: Iterable[Iteration], *, n: int, method: str) -> Iterator[Iteration]:
    """Yield *iterations*, at most *n*, and tell of each: a bar on a terminal, lines elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(method, total=n)
        for number, iteration in enumerate(iterations, 1):
            progress.update(task, completed=number)
            progress.console.print(line(number, iteration), soft_wrap=True)
            yield iteration


def line(number: int, iteration: Iteration) -> str:
    """Return what one iteration did."""
    rmse = "" if iteration.holdout_rmse is None else f"   holdout RMSE {iteration.holdout_rmse:.4f}"
    return f"{number:3}   objective {iteration.objective:.6g}{rmse}   {iteration.seconds:.3f} s"


def course(done: list[Iteration]) -> list[str]:
    """Return the curve of the objective, and of the error on what was held out, if they have one."""
    lines = ["objective", *curve([iteration.objective for iteration in done])]
    errors = [iteration.holdout_rmse for iteration in done if iteration.holdout_rmse is not None]
    if errors:
        lines += ["", "holdout RMSE", *curve(errors)]
    return [*lines, ""]


def print_course(done: list[Iteration]) -> None:
    """Draw the curves on standard error; for a single iteration there is nothing to draw."""
    if len(done) > 1:
        print("\n".join(course(done)), file=sys.stderr, flush=True)
