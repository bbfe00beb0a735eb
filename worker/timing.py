"""Time as an argument: clocks are passed in, and a test moves them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Clock = Callable[[], float]
"""Seconds, monotonic."""


class Every:
    """Something that is due once in a while."""

    def __init__(self, seconds: float, clock: Clock) -> None:
        self.seconds = seconds
        self._clock = clock
        self._next = clock() + seconds

    def due(self) -> bool:
        """Whether the time has come; stays true until `again`."""
        return self._clock() >= self._next

    def left(self) -> float:
        """Seconds until it is due, at least 0."""
        return max(0.0, self._next - self._clock())

    def again(self, at_least: float = 0.0) -> None:
        """Start the wait anew from now; *at_least* stretches this one wait."""
        self._next = self._clock() + max(self.seconds, at_least)


class Stopwatch:
    """Where a turn's time goes, by stage."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to *name*."""
        began = self._clock()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self._clock() - began
