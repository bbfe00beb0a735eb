"""From nothing, or from a checkpoint, to a state that may write: everything that happens before the first turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from factorstream.worker.checkpoint import Facts, Snapshot
from factorstream.worker.errors import CheckpointMismatch, PublisherUnavailable
from factorstream.worker.ports import CheckpointStore, EventSource, Publisher, SourceIdentity
from factorstream.worker.state import State

log = structlog.get_logger()

RETRY_S = 0.5
Answer = TypeVar("Answer")


def start(
    state: State,
    *,
    source: EventSource,
    publisher: Publisher,
    checkpoints: CheckpointStore,
    patience_s: float,
    seen_items: int,
    platform: str,
    wall_ms: Callable[[], int],
) -> Callable[[State], Snapshot]:
    """Bring the fresh *state* to where its checkpoint left off, and make this worker the only one that writes.

    Returns: A function that takes a snapshot of the state.

    The order is the guarantee: the folder is locked, then the log is opened where the checkpoint says, then the epoch and
    (for a new history) the journal's id are durable, and only then the fence in Redis is taken. A worker that is refused has
    written nothing: an empty checkpoint left behind would be taken for the newest one, once the lost ones are put back beside it.

    Raises what the ports raise, `CheckpointMismatch`, and `PublisherUnavailable` after *patience_s*.
    """
    checkpoints.lock()
    checkpoint = checkpoints.latest()
    known, left = None, None
    if checkpoint is not None:
        facts = checkpoint.facts
        check_shape(state, facts)
        if state.range != facts.range:
            log.warning("the range that the history began with stays; new ratings are held to the new one", range=facts.range)
        state.restore(checkpoint)
        if facts.seen_items != seen_items:
            state.pending.seen[: facts.n_users] = True  # readers have lists of another length
        if facts.learning.calibrate != state.learning.calibrate:
            state.pending.add_all(facts.n_users, facts.n_items)  # readers have rows that were read out otherwise
            state.pending.renewal = None  # all the model's own: nothing is to be removed
        known = SourceIdentity(facts.cluster_id, facts.topic, facts.topic_id)
        left = None if facts.anew else facts.sequence  # a renewal that was not finished begins again
        log.info("checkpoint restored", position=facts.position, n_ratings=facts.n_ratings, offsets=facts.offsets)
    epoch, journal_id = patiently(lambda: publisher.peek(state.journal_id), patience_s)
    identity = source.open(state.offsets, known)
    state.epoch = max(epoch, checkpoints.epoch()) + 1
    checkpoints.claim(state.epoch)
    snapshot = snapshooter(publisher, identity, seen_items, platform, wall_ms)
    if checkpoint is None:
        checkpoints.begin(snapshot(state))  # the journal's id must survive before Redis shows it
        checkpoints.wait()
        checkpoints.durable()
    takeover = patiently(lambda: publisher.take(state.epoch, state.journal_id, left), patience_s)
    if not takeover.intact:
        state.pending.add_all(state.model.users.n, state.model.items.n)
        if not epoch and journal_id is None:
            state.pending.renewal = None  # where nobody has written, nothing is to be removed
    return snapshot


def snapshooter(
    publisher: Publisher, identity: SourceIdentity, seen_items: int, platform: str, wall_ms: Callable[[], int]
) -> Callable[[State], Snapshot]:
    """Return a function that takes a snapshot of a state, knowing where its records come from and what was published."""
    source = (identity.cluster_id, identity.topic, identity.topic_id)

    def snapshot(state: State) -> Snapshot:
        return state.snapshot(
            sequence=publisher.sequence, source=source, seen_items=seen_items, platform=platform, created_ms=wall_ms()
        )

    return snapshot


def check_shape(state: State, facts: Facts) -> None:
    """Raise `CheckpointMismatch` unless the checkpoint is of the model that is asked for."""
    shape = {"rank": state.model.rank, **state.shape}
    asked = {name: (value, getattr(facts, name)) for name, value in shape.items()}
    for name in ("nonnegative", "rating_step"):
        asked[name] = getattr(state.learning, name), getattr(facts.learning, name)
    if facts.loss == "ordinal":  # its categories
        for end, name in enumerate(("rating_min", "rating_max")):
            asked[name] = state.range[end], facts.range[end]
    for name, (value, held) in asked.items():
        if held != value:
            raise CheckpointMismatch(
                f"the checkpoint was made with model.{name} = {held}, the settings say {value}: "
                f"set it back, or start anew with another checkpoint.dir and redis.replace = true"
            )


def patiently(ask: Callable[[], Answer], patience_s: float) -> Answer:
    """Return what *ask* answers, asking again while Redis is away, for *patience_s*."""
    until = time.monotonic() + patience_s
    while True:
        try:
            return ask()
        except PublisherUnavailable as error:
            if time.monotonic() > until:
                raise
            log.warning("waiting for redis", reason=str(error))
            time.sleep(RETRY_S)
