"""Ticks for tests of what is fed by them."""

from factorstream.worker.tick import Durable, Published, Tick

QUIET = Tick(
    n_records=0,
    n_accepted=0,
    n_stale=0,
    rejects={},
    squared_error=0.0,
    absolute_error=0.0,
    n_errors=0,
    n_diverged=0,
    n_hits=0,
    n_ranked=0,
    n_blocks=0,
    n_visits=0,
    published=None,
    durable=None,
    checkpoint_failed=False,
    seconds={},
    lag={},
    publisher_up=True,
    n_pending=0,
    n_unseen=0,
    n_sweeps=0,
    sweep_progress=0.0,
    n_users=0,
    n_items=0,
    n_ratings=0,
    position=0,
    epoch=1,
)
"""A turn in which nothing happened."""

PUBLISHED = Published(n_users=90, n_items=40, n_blocks=2, seconds=0.004, oldest_record_ms=1_700_000_000_000)
DURABLE = Durable(position=5_000, size_bytes=1_000_000, seconds=0.2, stall_seconds=0.01)
