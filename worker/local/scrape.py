"""What a worker's ``/metrics`` says, as numbers."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

PREFIX = "factorstream_"
SAMPLE = re.compile(r"^(\w+)(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)
BOUND = re.compile(r'le="([^"]+)"')


@dataclass(frozen=True, slots=True)
class Facts:
    """A worker at one moment."""

    n_records: int
    n_accepted: int
    lag: int | None
    """Records waiting in Kafka; None before the first fetch."""
    rmse: float | None
    """Live, over about the last 10,000 ratings."""
    n_sweeps: int
    sweep_progress: float
    """0 to 1."""
    n_users: int
    n_items: int
    n_pending: int
    """Rows changed and not yet in Redis."""
    n_written: int
    """Rows and blocks written to Redis."""
    checkpoint_bytes: int | None
    """None before the first checkpoint."""
    freshness: Mapping[float, float]
    """Upper bound in seconds → publications whose oldest event became readable within it."""

    def fresh_within(self, share: float) -> float | None:
        """Return within how many seconds *share* of the publications made their events readable; None before the first."""
        bounds = sorted(self.freshness.items())
        if not bounds or not bounds[-1][1]:
            return None
        wanted = share * bounds[-1][1]
        for (low, before), (high, upto) in pairwise([(0.0, 0.0), *bounds]):
            if upto >= wanted:
                return low if high == float("inf") else low + (high - low) * (wanted - before) / max(upto - before, 1e-9)
        return bounds[-1][0]


def scrape(url: str, *, timeout_s: float = 1.0) -> Facts | None:
    """Return what the worker at *url* says now; None when it does not answer, or has not turned yet."""
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=timeout_s) as answer:
            return parse(answer.read().decode())
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return None


def parse(page: str) -> Facts | None:
    """Read a page of metrics; None when the worker has not turned yet."""
    sums: dict[str, float] = {}
    labelled: dict[tuple[str, str], float] = {}
    for name, labels, value in SAMPLE.findall(page):
        short = name.removeprefix(PREFIX)
        labelled[short, labels] = float(value)
        sums[short] = sums.get(short, 0.0) + float(value)
    if "position" not in sums:
        return None
    rmse = sums.get("live_rmse", float("nan"))
    buckets = [(labels, value) for (name, labels), value in labelled.items() if name == "freshness_seconds_bucket"]
    return Facts(
        n_records=int(sums["records_total"]),
        n_accepted=int(sums["ratings_accepted_total"]),
        lag=int(sums["lag_records"]) if "lag_records" in sums else None,
        rmse=rmse if rmse == rmse else None,
        n_sweeps=int(sums["sweeps_total"]),
        sweep_progress=sums["sweep_progress_ratio"],
        n_users=int(labelled["rows", 'side="user"']),
        n_items=int(labelled["rows", 'side="item"']),
        n_pending=int(sums["pending_rows"]),
        n_written=int(sums.get("redis_writes_total", 0)),
        checkpoint_bytes=int(sums["checkpoint_bytes"]) if "checkpoint_bytes" in sums else None,
        freshness={float(found[1]): value for labels, value in buckets if (found := BOUND.search(labels))},
    )
