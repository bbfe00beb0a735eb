"""``factorstream run``: the worker."""

from __future__ import annotations

import gc
import signal
import time
from typing import TYPE_CHECKING, Annotated

import typer

from factorstream.worker.cli.options import Config, Set
from factorstream.worker.cli.printing import Json, answer, shown_version

if TYPE_CHECKING:
    from factorstream.worker.ports import EventSource
    from factorstream.worker.tick import Tick


GC_THRESHOLDS = (100_000, 20, 100)
"""More objects than one poll makes; the defaults are 700, 10, 10."""


def run(
    config: Config = None,
    assignments: Set = None,
    until_idle: Annotated[
        float | None,
        typer.Option("--until-idle", help="End when the topic's end is reached and nothing new came for so many seconds."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Learn from a topic and publish embeddings until told to stop; SIGTERM and Ctrl-C settle first."""
    from factorstream.worker.cli.logs import log_to_stderr
    from factorstream.worker.config import load

    log = log_to_stderr()
    settings = load(config, assignments or [])

    from factorstream.worker.errors import CheckpointFailed  # after the settings: a mistake in them is told at once
    from factorstream.worker.loop import run as turns
    from factorstream.worker.wiring import serve_metrics, wire

    stop = Stop(until_idle)
    metrics, server = serve_metrics(settings)
    log.info("metrics and health", url=server.url)
    wired = wire(settings)
    stop.watch(wired.parts.source)
    totals = Totals()
    collect_seldom()
    log.info("running", model=settings.model.name, topic=settings.kafka.topic, epoch=wired.state.epoch)
    for tick in turns(wired.state, wired.parts, stop=stop):
        metrics.observe(tick)
        stop.observe(tick)
        totals.add(tick)
    wired.close()
    server.close()
    log.info("settled", **totals.summary())
    answer(totals.summary(), as_json=as_json, line=totals.line())
    if totals.checkpoint_failed:
        raise CheckpointFailed(
            f"the last checkpoint could not be written to {settings.checkpoint.dir} (the log says why): free space or mend it; "
            "nothing is lost, and the next start learns again what came since the checkpoint before"
        )


def collect_seldom() -> None:
    """Look for cycles seldom, and never among what was made so far.

    Records pass as tuples by the ten thousand, none of them in a cycle. Looking through them took a third of the time of
    reading them; looking through the names of all ids would stop the loop.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


class Stop:
    """When to end: at a signal, or once the stream has been idle for long enough."""

    def __init__(self, until_idle_s: float | None) -> None:
        self._until_idle_s = until_idle_s
        self._signalled = False
        self._source: EventSource | None = None
        self._idle_since: float | None = None

    def watch(self, source: EventSource) -> None:
        """Ask *source* whether its end is reached, and settle at a signal from now on; before, one ends the process at once."""
        self._source = source
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def observe(self, tick: Tick) -> None:
        """Start the clock anew when there were records; it does not run before the end of every partition is reached."""
        at_end = self._source is not None and self._source.at_end()
        if tick.n_records or not at_end:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = time.monotonic()

    def __call__(self) -> bool:
        """Whether to end."""
        idle_s = 0.0 if self._idle_since is None else time.monotonic() - self._idle_since
        return self._signalled or (
            self._until_idle_s is not None and self._idle_since is not None and idle_s >= self._until_idle_s
        )

    def _on_signal(self, number: int, frame: object) -> None:
        self._signalled = True
        signal.signal(number, signal.SIG_DFL)  # a second one does not wait


class Totals:
    """What a whole run did."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._n_records = self._n_accepted = self._n_stale = self._n_rejects = self._n_errors = 0
        self._squared = self._absolute = 0.0
        self._last: Tick | None = None
        self._busy_since: float | None = None
        self._busy_until: float | None = None

    def add(self, tick: Tick) -> None:
        """Add a turn."""
        self._n_records += tick.n_records
        self._n_accepted += tick.n_accepted
        self._n_stale += tick.n_stale
        self._n_rejects += sum(tick.rejects.values())
        self._squared += tick.squared_error
        self._absolute += tick.absolute_error
        self._n_errors += tick.n_errors
        self._last = tick
        self._note_time(tick)

    def _note_time(self, tick: Tick) -> None:
        """Note when the turn with the first records began, and when the last ones so far were learned and published."""
        now = time.monotonic()
        if tick.n_records:
            self._busy_until = None
            if self._busy_since is None:
                self._busy_since = now - sum(tick.seconds.values())
        if self._busy_until is None and tick.n_users and not tick.n_unseen and not any(tick.lag.values()):
            self._busy_until = now

    @property
    def checkpoint_failed(self) -> bool:
        """Whether what was learned last is not durable."""
        return self._last is not None and self._last.checkpoint_failed

    def summary(self) -> dict[str, object]:
        """Return the totals; ``busy_seconds`` from the first records' turn until all of them were learned and published."""
        last = self._last
        n = max(1, self._n_errors)
        return {
            "n_records": self._n_records,
            "n_accepted": self._n_accepted,
            "n_stale": self._n_stale,
            "n_rejects": self._n_rejects,
            "rmse": (self._squared / n) ** 0.5 if self._n_errors else None,
            "mae": self._absolute / n if self._n_errors else None,
            "n_sweeps": last.n_sweeps if last else 0,
            "n_users": last.n_users if last else 0,
            "n_items": last.n_items if last else 0,
            "n_ratings": last.n_ratings if last else 0,
            "n_pending": last.n_pending if last else 0,
            "version": (last.epoch, last.position) if last else None,
            "seconds": round(time.monotonic() - self._began, 3),
            "busy_seconds": round(self._busy_s(), 3),
        }

    def _busy_s(self) -> float:
        return 0.0 if self._busy_since is None else (self._busy_until or time.monotonic()) - self._busy_since

    def line(self) -> str:
        """Return the totals in words."""
        facts = self.summary()
        rmse = "none" if facts["rmse"] is None else f"{facts['rmse']:.4f}"
        version = "none" if self._last is None else shown_version((self._last.epoch, self._last.position))
        return (
            f"learned {facts['n_accepted']} of {facts['n_records']} records in {facts['seconds']} s"
            f" ({facts['n_stale']} old news, {facts['n_rejects']} unreadable):"
            f" {facts['n_users']} users, {facts['n_items']} items,"
            f" {facts['n_ratings']} ratings held, live RMSE {rmse}, {facts['n_sweeps']} sweeps, version {version}"
        )
