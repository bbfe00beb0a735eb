"""Ticks become Prometheus metrics, served over HTTP beside two health checks.

A metric is a line in one of the tables below: its name, what it says, and where a `Tick` holds it. `Metrics` adds ticks up
and is itself the collector that a scrape reads, under one lock: a scrape sees all of a turn or nothing of it.
"""

from __future__ import annotations

import math
import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import accumulate
from socket import AF_INET, AF_INET6
from typing import NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from factorstream.worker.errors import MetricsUnavailable
from factorstream.worker.tick import Durable, Published, Tick

PREFIX = "factorstream_"
RMSE_RATINGS = 10_000
"""The live RMSE forgets with this many ratings (a weight of 1/e)."""
FRESHNESS_S = (0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)
PUBLISH_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Figure(NamedTuple):
    """A metric that is one number of a tick."""

    name: str
    documentation: str
    of: Callable[[Tick], float]


class Figures(NamedTuple):
    """A metric that is several numbers of a tick, told apart by one label."""

    name: str
    documentation: str
    label: str
    of: Callable[[Tick], Mapping[str, float] | Mapping[int, int]]


class DurableFigure(NamedTuple):
    """A metric that is one number of the newest durable checkpoint."""

    name: str
    documentation: str
    of: Callable[[Durable], float]


def _writes(tick: Tick) -> Mapping[str, float]:
    done = tick.published
    return {"user": done.n_users, "item": done.n_items, "block": done.n_blocks} if done else {}


TOTALS = (
    Figure("records", "Records read from Kafka, unreadable ones included.", lambda tick: tick.n_records),
    Figure("ratings_accepted", "Events that applied and were learned.", lambda tick: tick.n_accepted),
    Figure("ratings_stale", "Events that were old news: repeated, late or before a forgetting.", lambda tick: tick.n_stale),
    Figure(
        "live_squared_error", "Sum of squared errors, each taken before its rating was learned.", lambda tick: tick.squared_error
    ),
    Figure(
        "live_absolute_error",
        "Sum of absolute errors, each taken before its rating was learned.",
        lambda tick: tick.absolute_error,
    ),
    Figure("live_errors", "Ratings in the sums of errors.", lambda tick: tick.n_errors),
    Figure(
        "live_hits",
        "Implicit loss: new pairs with the item among the ten best of sampled ones, before.",
        lambda tick: tick.n_hits,
    ),
    Figure("live_ranked", "Implicit loss: new pairs ranked before they were learned.", lambda tick: tick.n_ranked),
    Figure("diverged", "Ratings whose score was not finite.", lambda tick: tick.n_diverged),
    Figure("checkpoint_failures", "Checkpoints that could not be written.", lambda tick: tick.checkpoint_failed),
    Figure("sweep_blocks", "Blocks of rows solved exactly.", lambda tick: tick.n_blocks),
    Figure("sweep_visits", "Ratings visited by those solves.", lambda tick: tick.n_visits),
)
LABELLED_TOTALS = (
    Figures("dead_letters", "Unreadable records.", "reason", lambda tick: tick.rejects),
    Figures("turn_seconds", "Where the loop's time went.", "stage", lambda tick: tick.seconds),
    Figures("redis_writes", "Rows and blocks written to Redis.", "kind", _writes),
)
LEVELS = (
    Figure("sweep_progress_ratio", "How much of the sweep under way is done, 0 to 1.", lambda tick: tick.sweep_progress),
    Figure("publisher_up", "Whether Redis took the last publication.", lambda tick: tick.publisher_up),
    Figure("pending_rows", "Rows changed and not yet published.", lambda tick: tick.n_pending),
    Figure("ratings_held", "Pairs of user and item with a rating.", lambda tick: tick.n_ratings),
    Figure("position", "Ratings accepted and blocks solved since the model began.", lambda tick: tick.position),
    Figure("epoch", "How often a worker has taken this model over.", lambda tick: tick.epoch),
)
LABELLED_LEVELS = (
    Figures("lag_records", "Records waiting in Kafka.", "partition", lambda tick: tick.lag),
    Figures("rows", "Users and items known.", "side", lambda tick: {"user": tick.n_users, "item": tick.n_items}),
)
CHECKPOINT_LEVELS = (
    DurableFigure("checkpoint_seconds", "From the newest checkpoint's copy to its rename.", lambda durable: durable.seconds),
    DurableFigure(
        "checkpoint_stall_seconds", "How long the newest checkpoint's copy held the loop.", lambda durable: durable.stall_seconds
    ),
    DurableFigure("checkpoint_bytes", "Size of the newest checkpoint.", lambda durable: durable.size_bytes),
)


class Metrics(Collector):
    """Facts of a running worker, added up tick by tick.

    Args:
        registry: Where to register; by default a new registry, with the process's own memory and processor time.
        info: Labels of the metric ``factorstream_model_info``: version, model, rank …
        live_within_s: How long a turn may take before the worker counts as stuck.
        clock: Seconds since the Unix epoch.
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        info: Mapping[str, str] | None = None,
        live_within_s: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock, self._live_within_s, self._info = clock, live_within_s, dict(info or {})
        self._lock = threading.Lock()
        self._last: Tick | None = None
        self._turned_at = self._saved_at = clock()
        self._saved_position = 0
        self._durable: Durable | None = None
        self._totals = [0.0] * len(TOTALS)
        self._labelled_totals: list[defaultdict[str, float]] = [defaultdict(float) for _ in LABELLED_TOTALS]
        self._n_sweeps = 0
        self._live_mse, self._live_recall = _FadingMean(RMSE_RATINGS), _FadingMean(RMSE_RATINGS)
        self._freshness_s = _Distribution(FRESHNESS_S)
        self._publish_s = _Distribution(PUBLISH_S)
        self.registry = CollectorRegistry() if registry is None else registry
        self.registry.register(self)
        if registry is None:
            ProcessCollector(registry=self.registry)

    def observe(self, tick: Tick) -> None:
        """Add one turn. Costs some 4 µs, and waits for at most a scrape's copy, 0.6 ms."""
        with self._lock:
            self._add(tick)
            self._live_mse.add(tick.squared_error, tick.n_errors)
            self._live_recall.add(tick.n_hits, tick.n_ranked)
            if tick.published is not None:
                self._add_published(tick.published)
            if self._last is None:
                self._saved_position = tick.position
            else:
                self._n_sweeps += max(0, tick.n_sweeps - self._last.n_sweeps)
            self._turned_at = self._clock()
            if tick.durable is not None:
                self._durable, self._saved_position, self._saved_at = tick.durable, tick.durable.position, self._turned_at
            elif tick.position == self._saved_position:  # nothing was learned that is not durable
                self._saved_at = self._turned_at
            self._last = tick

    def _add(self, tick: Tick) -> None:
        for index, figure in enumerate(TOTALS):
            self._totals[index] += figure.of(tick)
        for figures, totals in zip(LABELLED_TOTALS, self._labelled_totals, strict=True):
            for label, value in figures.of(tick).items():
                totals[str(label)] += value

    def _add_published(self, published: Published) -> None:
        self._publish_s.add(published.seconds)
        if published.oldest_record_ms is not None:
            self._freshness_s.add(max(0.0, self._clock() - published.oldest_record_ms / 1000))  # a producer's clock may run ahead

    def why_not_live(self) -> str | None:
        """Return in one line why the loop counts as stuck; None while it turns."""
        silent_s = self._clock() - self._turned_at
        if self._last is None:
            return "starting: the loop has not turned yet"
        if silent_s > self._live_within_s:
            return f"stuck: the loop last turned {silent_s:.0f} s ago, more than {self._live_within_s:.0f} s"
        return None

    def why_not_ready(self) -> str | None:
        """Return in one line why readers do not see fresh rows; None when Kafka has been polled and Redis takes writes."""
        reason = self.why_not_live()
        if reason is None and self._last is not None and not self._last.publisher_up:
            return f"Redis does not answer: {self._last.n_pending} rows wait to be published"
        return reason

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, as of one moment."""
        with self._lock:
            metrics = [*self._collect_totals(), *self._collect_levels(), *self._collect_checkpoint()]
        yield from metrics

    def describe(self) -> list[Metric]:
        """Return nothing: names are known to be unique, and registering shall not count as a scrape."""
        return []

    def _collect_totals(self) -> Iterator[Metric]:
        for figure, total in zip(TOTALS, self._totals, strict=True):
            yield CounterMetricFamily(PREFIX + figure.name, figure.documentation, value=total)
        for figures, totals in zip(LABELLED_TOTALS, self._labelled_totals, strict=True):
            family = CounterMetricFamily(PREFIX + figures.name, figures.documentation, labels=[figures.label])
            for label, total in totals.items():
                family.add_metric([label], total)
            yield family
        yield CounterMetricFamily(PREFIX + "sweeps", "Whole sweeps finished by this process.", value=self._n_sweeps)
        yield self._freshness_s.metric(
            "freshness_seconds", "From a record's time to its rows being readable; the oldest of each publication."
        )
        yield self._publish_s.metric("publish_seconds", "How long publications took.")

    def _collect_levels(self) -> Iterator[Metric]:
        yield InfoMetricFamily(PREFIX + "model", "What this worker runs.", value=self._info)
        if self._last is None:
            return
        yield _gauge(
            "live_rmse", f"Root mean square of live errors, over about the last {RMSE_RATINGS} ratings.", self._live_mse.root()
        )
        if self._live_recall.known:
            yield _gauge(
                "live_recall_at_10",
                f"Implicit loss: share of hits, over about the last {RMSE_RATINGS} new pairs ranked.",
                self._live_recall.mean(),
            )
        for figure in LEVELS:
            yield _gauge(figure.name, figure.documentation, figure.of(self._last))
        for figures in LABELLED_LEVELS:
            family = GaugeMetricFamily(PREFIX + figures.name, figures.documentation, labels=[figures.label])
            for label, value in figures.of(self._last).items():
                family.add_metric([str(label)], value)
            yield family

    def _collect_checkpoint(self) -> Iterator[Metric]:
        yield _gauge(
            "checkpoint_last_timestamp_seconds",
            "When the newest checkpoint became durable, or was last seen to hold everything; before it, the start.",
            self._saved_at,
        )
        if self._last is not None:
            yield _gauge(
                "checkpoint_position",
                "Position of the newest durable checkpoint; before it, that at start.",
                self._saved_position,
            )
        if self._durable is not None:
            for figure in CHECKPOINT_LEVELS:
                yield _gauge(figure.name, figure.documentation, figure.of(self._durable))

    def serve(self, host: str, port: int) -> Server:
        """Serve ``/metrics``, ``/health/live`` and ``/health/ready`` from a thread of their own; port 0 picks a free one.

        Raises `MetricsUnavailable` when *host* and *port* cannot be listened on.
        """
        return Server(self, host, port)


class Server:
    """A running HTTP server; its thread ends with `close` or with the process."""

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        try:
            self._http = _Http(metrics, host, port)
        except OSError as error:
            raise MetricsUnavailable(
                f"cannot serve metrics on {host} port {port} ({error.strerror}): "
                "set metrics.port to a free port (0 picks one), or metrics.host to an address of this machine"
            ) from error
        self.host, self.port = host, int(self._http.server_address[1])
        self._thread = threading.Thread(target=self._http.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the server answers, without a path."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def close(self) -> None:
        """Stop listening. Safe to call twice."""
        if self._thread.is_alive():
            self._http.shutdown()
            self._thread.join()
        self._http.server_close()


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        self.metrics = metrics
        self.address_family = AF_INET6 if ":" in host else AF_INET
        super().__init__((host, port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    timeout = 10  # a client that sends nothing shall not keep a thread
    server: _Http

    def do_GET(self) -> None:
        metrics, path = self.server.metrics, self.path.partition("?")[0]
        if path == "/metrics":
            encode, content_type = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, encode(metrics.registry), content_type)
        elif path == "/health/live":
            self._answer_health("live", metrics.why_not_live())
        elif path == "/health/ready":
            self._answer_health("ready", metrics.why_not_ready())
        else:
            self._answer_line(404, f"no page {path}: there are /metrics, /health/live and /health/ready")

    def _answer_health(self, state: str, why_not: str | None) -> None:
        self._answer_line(200 if why_not is None else 503, why_not or state)

    def _answer_line(self, status: int, line: str) -> None:
        self._answer(status, f"{line}\n".encode(), "text/plain; charset=utf-8")

    def _answer(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is the base class's
        """Stay silent: a line every scrape would bury the worker's own."""


class _FadingMean:
    """Mean of numbers whose weight falls by 1/e every *span* numbers; NaN before the first."""

    def __init__(self, span: float) -> None:
        self._span, self._sum, self._weight = span, 0.0, 0.0

    def add(self, total: float, count: int) -> None:
        """Add *count* numbers that sum up to *total*."""
        if count:
            kept = math.exp(-count / self._span)
            self._sum = kept * self._sum + (1 - kept) * total / count
            self._weight = kept * self._weight + (1 - kept)

    @property
    def known(self) -> bool:
        return self._weight > 0

    def mean(self) -> float:
        return self._sum / self._weight if self._weight else math.nan

    def root(self) -> float:
        return math.sqrt(self.mean())


class _Distribution:
    """A histogram: how many values are at most each of *bounds*."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds, self._counts, self._sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def metric(self, name: str, documentation: str) -> HistogramMetricFamily:
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(self._counts)), strict=True))
        return HistogramMetricFamily(PREFIX + name, documentation, buckets=buckets, sum_value=self._sum)


def _gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, documentation, value=value)
