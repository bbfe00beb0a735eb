"""What a person sees of `fit`: a line for each iteration, and the course of all of them at the end."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from factorstream.worker.cli.curve import curve

if TYPE_CHECKING:
    from factorstream.worker.fitting import Iteration


def line(number: int, iteration: Iteration) -> str:
    """Return what one iteration did."""
    rmse = "" if iteration.holdout_rmse is None else f"   holdout RMSE {iteration.holdout_rmse:.4f}"
    ranking = "" if iteration.holdout_ranking is None else f"   recall@10 {iteration.holdout_ranking.recall_at_10:.4f}"
    return f"{number:3}   objective {iteration.objective:.6g}{rmse}{ranking}   {iteration.seconds:.3f} s"


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
