"""What the demonstration looks like: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from factorstream.worker.local.scrape import Facts

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 32
"""Of a curve, in characters."""
PLAIN_EVERY_S = 2.0


@dataclass(slots=True)
class View:
    """The course of a replay, as it is drawn."""

    console: Console
    title: str
    n_expected: int
    rates: list[float] = field(default_factory=list)
    rmses: list[float] = field(default_factory=list)
    last: tuple[float, Facts] | None = None
    ended: bool = False
    _live: Live | None = None
    _told_at_s: float = float("-inf")

    def live(self) -> AbstractContextManager[object]:
        """Return a context within which `show` draws in place."""
        if not self.console.is_terminal:
            return nullcontext()
        self._live = Live(console=self.console, refresh_per_second=8)
        return self._live

    def show(self, now_s: float, facts: Facts, *, last: bool) -> None:
        """Draw *facts*, seen at *now_s*; plain lines only now and then, but the *last* always."""
        if self.last is not None and now_s > self.last[0] and facts.n_accepted:
            self.rates.append((facts.n_accepted - self.last[1].n_accepted) / (now_s - self.last[0]))
        if facts.rmse is not None:
            self.rmses.append(facts.rmse)
        self.last = now_s, facts
        self.ended = last
        if self._live is not None:
            self._live.update(self._panel(facts))
        elif last or now_s - self._told_at_s >= PLAIN_EVERY_S:
            self._told_at_s = now_s
            self.console.print(self._line(facts), soft_wrap=True)

    def rate(self) -> float:
        """Return ratings a second, over the last second or so; at the end over all."""
        recent = self.rates if self.ended else self.rates[-4:]
        return sum(recent) / max(1, len(recent))

    def _rows(self, facts: Facts) -> list[tuple[str, str, str]]:
        rmse = "—" if facts.rmse is None else f"{facts.rmse:.4f}"
        return [
            ("ratings a second", f"{self.rate():,.0f}", curve(self.rates)),
            ("waiting in Kafka", "—" if facts.lag is None else f"{facts.lag:,}", ""),
            ("live RMSE", rmse, curve(self.rmses)),
            ("exact sweeps", f"{facts.n_sweeps}", f"{meter(facts.sweep_progress)} of the next"),
            ("event → Redis", f"p50 {milliseconds(facts.fresh_within(0.5))}", f"p99 {milliseconds(facts.fresh_within(0.99))}"),
            (
                "embeddings",
                f"{facts.n_users + facts.n_items:,}",
                f"{facts.n_users:,} users, {facts.n_items:,} items; {facts.n_written:,} writes",
            ),
        ]

    def _panel(self, facts: Facts) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim")
        table.add_column(justify="right", style="bold")
        table.add_column(style="cyan")
        for row in self._rows(facts):
            table.add_row(*row)
        head = Table.grid(padding=(0, 2))
        head.add_row(
            ProgressBar(total=self.n_expected, completed=facts.n_accepted, width=48),
            Text(f"{facts.n_accepted:,} of {self.n_expected:,} ratings learned", style="bold"),
        )
        return Panel(
            Group(head, Text(), table), title=self.title, title_align="left", border_style="blue", padding=(1, 2), width=92
        )

    def _line(self, facts: Facts) -> str:
        told = ", ".join(f"{name} {value}" for name, value, _ in self._rows(facts)[:4])
        fresh = f"event → Redis p50 {milliseconds(facts.fresh_within(0.5))}, p99 {milliseconds(facts.fresh_within(0.99))}"
        return f"{facts.n_accepted:>7,} of {self.n_expected:,} learned: {told}, {fresh}"


def curve(values: Sequence[float]) -> str:
    """Return *values* as `WIDTH` bars at most, each the mean of a stretch of them."""
    n = min(WIDTH, len(values))
    if not n:
        return ""
    cuts = [len(values) * k // n for k in range(n + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    low, high = min(means), max(means)
    return "".join(BARS[round((len(BARS) - 1) * (mean - low) / (high - low))] if high > low else BARS[0] for mean in means)


def meter(share: float) -> str:
    """Return *share* of one as a bar of ten."""
    done = round(10 * share)
    return "━" * done + "╌" * (10 - done)


def milliseconds(seconds: float | None) -> str:
    """Return a time for people."""
    return "—" if seconds is None else f"{1000 * seconds:.0f} ms"


def ranking(title: str, note: str, rows: Sequence[tuple[str, str]], number: str, width: int) -> Table:
    """Return a list of films, at most *width* characters wide: name and number of each."""
    table = Table(title=title, caption=note, title_justify="left", caption_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.add_column("film", overflow="ellipsis", no_wrap=True, width=width - len(number) - 7)
    table.add_column(number, justify="right", style="bold cyan")
    for name, value in rows:
        table.add_row(name, value)
    return table


def side_by_side(*parts: RenderableType) -> RenderableType:
    """Return *parts* beside each other."""
    table = Table.grid(padding=(0, 2))
    table.add_row(*parts)
    return table
