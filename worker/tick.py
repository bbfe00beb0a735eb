"""What one turn of the loop did: facts for metrics, progress and tests; nothing here has an effect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Published:
    """One successful publication."""

    n_users: int
    n_items: int
    n_blocks: int
    seconds: float
    oldest_record_ms: int | None
    """Record time of the oldest event whose rows this made readable; None when there was none (solved rows only)."""


@dataclass(frozen=True, slots=True)
class Durable:
    """One checkpoint that became durable in this turn."""

    position: int
    size_bytes: int
    seconds: float
    """From its copy to its rename."""
    stall_seconds: float
    """How long the copy held the loop."""


@dataclass(frozen=True, slots=True)
class Tick:
    """One turn. Counts are of this turn; the rest is as of its end."""

    n_records: int
    n_accepted: int
    n_stale: int
    """Events that last-write-wins found to be old news."""
    rejects: Mapping[str, int]
    """Unreadable records by reason."""
    squared_error: float
    """Sum over this turn's accepted ratings of the squared test-then-train error, predictions clipped to the range."""
    absolute_error: float
    n_errors: int
    """How many ratings are in these sums."""
    n_diverged: int
    """Ratings whose score was not finite: learned by nobody until their rows are solved again."""
    n_hits: int
    """Implicit loss: new pairs whose item was among the ten best of a hundred sampled ones, before it was learned."""
    n_ranked: int
    """New pairs of which that was asked."""
    n_blocks: int
    """Blocks of ALS solved."""
    n_visits: int
    """Ratings visited by them."""
    published: Published | None
    durable: Durable | None
    checkpoint_failed: bool
    """A checkpoint could not be written; learning goes on, nothing was committed."""
    seconds: Mapping[str, float]
    """Where the turn went: poll, decode, learn, sweep, publish, checkpoint."""

    lag: Mapping[int, int]
    """Records waiting, by partition."""
    publisher_up: bool
    n_pending: int
    """Rows changed and not yet published."""
    n_unseen: int
    """Those of them that hold ratings which readers have not seen; the others were solved by a sweep."""
    n_sweeps: int
    """Whole sweeps since the model began."""
    sweep_progress: float
    """0 to 1, of the sweep under way."""
    n_users: int
    n_items: int
    n_ratings: int
    position: int
    epoch: int
