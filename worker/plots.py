"""Pictures of what was learned: arrays in, a figure of matplotlib's out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.errors import UserMistake

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

F64 = NDArray[np.float64]
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee8866", "#44bb99")
"""Told apart by colour-blind eyes too (Paul Tol's bright scheme, and two more)."""
GREY, INK = "#b8bcc4", "#22262e"
STYLE: Any = {
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#80858f",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "xtick.color": "#565b66",
    "ytick.color": "#565b66",
    "svg.fonttype": "none",
    "svg.hashsalt": "factorstream",
    "svg.id": "factorstream",
}
FORMATS = (".svg", ".png", ".pdf")
Arguments = ParamSpec("Arguments")


@dataclass(frozen=True, slots=True)
class Items:
    """Items on a map: entry j of every column is one item."""

    places: F64
    """``(n, 2)``."""
    n_ratings: NDArray[np.int32]
    kinds: Sequence[str | None]
    """By which they are coloured; None: grey."""
    names: Sequence[str]


@dataclass(frozen=True, slots=True)
class Course:
    """A line."""

    x: F64
    y: F64


def check_installed() -> None:
    """Raise `UserMistake` when matplotlib is missing."""
    if find_spec("matplotlib") is None:
        raise UserMistake("'factorstream plot' needs matplotlib: pip install 'factorstream[plots]'")


def save(figure: Figure, path: Path) -> None:
    """Write *figure* in the format that the name of *path* ends with. Raises `UserMistake`."""
    import matplotlib as mpl

    options: dict[str, Any] = {".svg": {"metadata": {"Date": None}}, ".png": {"pil_kwargs": {"optimize": True}}}
    try:
        with mpl.rc_context(STYLE):
            figure.savefig(path, dpi=130, **options.get(path.suffix, {}))
    except OSError as error:
        raise UserMistake(f"--out {path} could not be written: {error.strerror}") from error


def styled(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Let *draw* draw in this module's style, whatever the user's matplotlib is set to."""

    @wraps(draw)
    def drawn(*arguments: Arguments.args, **named: Arguments.kwargs) -> Figure:
        import matplotlib as mpl

        with mpl.rc_context(STYLE):
            return draw(*arguments, **named)

    return drawn


@styled
def map_of(items: Items, *, title: str, n_names: int = 40) -> Figure:
    """Draw *items*, larger ones rated more often, and name those of the *n_names* most often rated that have room."""
    across, up = np.ptp(items.places, axis=0) if len(items.names) > 1 else (1.0, 1.0)
    figure, axes = _figure(7.6, float(np.clip(1.0 + 6.0 * up / across, 3.0, 9.0)) if across else 6.0)
    sizes = 6.0 + 60.0 * items.n_ratings / items.n_ratings.max()
    kinds = sorted({kind for kind in items.kinds if kind is not None})[: len(COLOURS)]
    coloured = [kind if kind in kinds else None for kind in items.kinds]
    for kind, colour in [(None, GREY), *zip(kinds, COLOURS, strict=False)]:
        chosen = np.array([one == kind for one in coloured], bool)
        x, y = items.places[chosen].T
        axes.scatter(x, y, sizes[chosen], color=colour, alpha=0.8, linewidths=0, label=kind if kind else "other")
    axes.set_aspect("equal", adjustable="box")
    axes.margins(0.04)
    axes.set_xlabel("first factor")
    axes.set_ylabel("second factor")
    axes.set_title(title)
    if kinds:
        legend = axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handletextpad=0.1)
        for handle in filter(None, legend.legend_handles):
            handle.set(sizes=[30.0])
    _name(figure, axes, items, n_names)
    return figure


@styled
def against_seconds(objective: Mapping[str, Course], holdout: Mapping[str, Course], *, title: str) -> Figure:
    """Draw how methods, by name, lower the objective and the error on ratings held out, both against seconds of learning."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = _sheet(8.2, 3.4)
    places = figure.subplots(1, 2)
    for place, courses, label in zip(places, (objective, holdout), ("objective", "RMSE on ratings held out"), strict=True):
        for (name, course), colour in zip(courses.items(), COLOURS, strict=False):
            place.plot(course.x, course.y, marker="o", markersize=3.5, linewidth=1.4, color=colour, label=name)
        place.set_xscale("log")
        place.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        place.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
        place.xaxis.set_minor_formatter(NullFormatter())
        place.set_xlabel("seconds of learning")
        place.set_title(label)
        place.grid(alpha=0.25)
        place.legend()
        place.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure


@styled
def live(courses: Mapping[str, Course], *, title: str) -> Figure:
    """Draw the error of predicting each rating just before it is learned, as ratings come."""
    figure, axes = _figure(7.6, 3.4)
    for (name, course), colour in zip(courses.items(), (GREY, *COLOURS[1:]), strict=False):
        axes.plot(course.x, course.y, linewidth=1.6, color=colour, label=name)
    axes.set_xlabel("ratings learned")
    axes.set_ylabel("RMSE before learning")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(lambda n, _: f"{n:,.0f}")
    axes.set_title(title)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=len(courses))
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = _sheet(width, height)
    return figure, figure.subplots()


def _sheet(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure((width, height), layout="constrained")


def _name(figure: Figure, axes: Axes, items: Items, n_names: int) -> None:
    """Write names beside their items, the most often rated first, where no other name is."""
    figure.draw_without_rendering()
    taken: list[Bbox] = []
    for row in np.argsort(-items.n_ratings, kind="stable")[:n_names]:
        for across, up, side in ((5, 3, "left"), (-5, 3, "right"), (5, -9, "left"), (-5, -9, "right")):
            text = axes.annotate(
                items.names[row], items.places[row], (across, up), textcoords="offset points", fontsize=7, ha=side
            )
            text.set_bbox({"facecolor": "white", "alpha": 0.6, "linewidth": 0, "pad": 0.3})
            box = text.get_window_extent().padded(1.0)
            inside = axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1)
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()
