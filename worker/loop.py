"""THE loop: the system is what is here, and its order is the guarantee."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import structlog

from factorstream.worker.checkpoint import Facts, Snapshot
from factorstream.worker.errors import CheckpointFailed, PublisherUnavailable
from factorstream.worker.intake import Delivery, Intake
from factorstream.worker.learn.learner import Learned, Learner
from factorstream.worker.ports import CheckpointStore, DeadLetters, EventSource, Publisher
from factorstream.worker.publishing import Drafter
from factorstream.worker.state import State
from factorstream.worker.tick import Durable, Published, Tick
from factorstream.worker.timing import Clock, Every, Stopwatch

log = structlog.get_logger()

LONGEST_POLL_S = 0.1
"""A turn ends at least so often, so that signals, timers and metrics are never late."""
PUBLISHING_SHARE = 9.0
"""While many records wait, a publication that took t is followed by at least 9 t of learning: rows change often meanwhile."""
MANY_WAITING = 5_000
"""Records that have not been polled, from which on catching up comes before freshness."""
QUIET_S = 0.1
"""Without records, before idle sweeps begin: between a stream's bursts the processor is left to who delivers and who reads."""
RETRY_S = 1.0
"""Between attempts to reach a Redis that is away."""
HEARTBEAT_S = 1.0
"""Between publications when nothing changed: a Redis that lost its memory is noticed, and readers see that a worker lives."""
LEAST_GAIN = 1e-4
"""Of the ratings' variance: a whole sweep that gains less in idle time ends the idle sweeps."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the loop is made of; `wiring` knows which class each is."""

    source: EventSource
    intake: Intake
    learner: Learner
    drafter: Drafter
    publisher: Publisher
    checkpoints: CheckpointStore
    dead_letters: DeadLetters
    snapshot: Callable[[State], Snapshot]
    publish_every: Every
    heartbeat_every: Every
    checkpoint_every: Every
    sweep_when_idle: bool
    clock: Clock


@dataclass(slots=True)
class Turn:
    """What one turn has done so far."""

    watch: Stopwatch
    delivery: Delivery
    n_offered: int = 0
    n_accepted: int = 0
    squared: float = 0.0
    absolute: float = 0.0
    n_errors: int = 0
    n_diverged: int = 0
    n_hits: int = 0
    n_ranked: int = 0
    n_blocks: int = 0
    n_visits: int = 0
    published: Published | None = None
    durable: Durable | None = None
    checkpoint_failed: bool = False

    def count(self, learned: Learned) -> None:
        """Take the sums of one learned part."""
        if learned.accepted is not None:
            rated = ~np.isnan(learned.accepted.ratings)
            errors = learned.clipped[rated]
            finite = errors[np.isfinite(learned.errors[rated])].astype(np.float64)
            self.n_accepted += len(learned.accepted.ratings)
            self.squared += float(np.square(finite).sum())
            self.absolute += float(np.abs(finite).sum())
            self.n_errors += len(finite)
            self.n_diverged += len(errors) - len(finite)
            if learned.hits is not None:
                self.n_hits += int(np.count_nonzero(learned.hits == 1))
                self.n_ranked += int(np.count_nonzero(~np.isnan(learned.hits)))
        elif learned.solved is None:
            self.n_accepted += 1  # a forgetting
        if learned.solved is not None:
            self.n_blocks += 1
            self.n_visits += learned.solved.n_visits


def run(state: State, parts: Parts, *, stop: Callable[[], bool]) -> Iterator[Tick]:
    """Learn from a stream of ratings until *stop* says so; yield one `Tick` per turn, then settle.

    Rows are published before the checkpoint that holds them; a checkpoint is durable before its offsets are committed; a
    restart resumes at the checkpoint's offsets. So a crash on any line repeats ratings into the same model and loses none.
    Leaving early *is* a crash: there is deliberately no ``finally``.
    """
    worker = Worker(state, parts)
    while not stop():
        yield worker.turn()
    yield from worker.settle()


@dataclass(slots=True)
class Worker:
    """One turn, in its order: poll, decode, accept and learn, publish, checkpoint, commit."""

    state: State
    parts: Parts
    publisher_up: bool = True
    begun: tuple[Facts, float, float] | None = None
    """The checkpoint being written: its facts, when it began, and how long its copy held the loop."""
    saved: tuple[object, ...] | None = None
    """How things stood at the newest checkpoint; None: there is none that holds."""
    lag: Mapping[int, int] = field(default_factory=dict)
    """Records waiting after this turn's poll, by partition."""
    rest_until_s: float = 0.0
    """Until when nothing more is published while many records wait."""
    records_at_s: float = -QUIET_S
    """When records came last."""
    strangers: Iterator[int] | None = None
    """The removal of keys that belong to nobody, while it goes on."""
    n_strangers: int = 0
    """Keys that it has removed."""

    def turn(self) -> Tick:
        """Do one turn."""
        parts, watch = self.parts, Stopwatch(self.parts.clock)
        with watch.stage("poll"):
            polled = parts.source.poll(self._patience())
        with watch.stage("decode"):
            turn = Turn(watch, parts.intake.read(polled))
            self._reject(turn.delivery)
            self._note(turn.delivery)
        with watch.stage("learn"):
            self._learn(turn)
        if not turn.delivery.n_records:
            with watch.stage("sweep"):
                self._sweep_idly(turn)
        with watch.stage("publish"):
            if not self._until_publication() and (self._unpublished() or parts.heartbeat_every.due()):
                self._publish(turn)
            self._remove_strangers(turn)
        with watch.stage("checkpoint"):
            self._checkpoint(turn)
        return self._tick(turn)

    def settle(self) -> Iterator[Tick]:
        """Publish what is left, blocks and all, make it durable, commit. A Redis that is away is left to the next start."""
        turn = Turn(Stopwatch(self.parts.clock), self.parts.intake.read([]))
        self.parts.checkpoints.wait()
        self._end_checkpoint(turn)
        turn.checkpoint_failed = False  # what counts now is the last one
        while self._publish(turn, everything=True) and self._unpublished():
            pass
        while self._remove_strangers(turn):
            pass
        self._begin_checkpoint(turn)
        self.parts.checkpoints.wait()
        self._end_checkpoint(turn)
        yield self._tick(turn)

    def _reject(self, delivery: Delivery) -> None:
        """Keep what could not be read. Raises `TooManyRejects`, once they are kept."""
        self.parts.dead_letters.put(delivery.rejects)
        too_many = self.parts.intake.too_many(delivery)
        if too_many is not None:
            self.parts.dead_letters.flush()
            raise too_many

    def _patience(self) -> float:
        """Return how long to wait for records: not at all while there is something better to do."""
        if self.strangers is not None or self._idle_work():
            return 0.0
        waits = [LONGEST_POLL_S]
        if not self.parts.checkpoints.busy:  # else the next one has to wait, however long it has been due
            waits.append(self.parts.checkpoint_every.left())
        if self._unpublished():
            waits.append(self._until_publication())
        return min(waits)

    def _note(self, delivery: Delivery) -> None:
        """Note how busy the stream is."""
        self.lag = self.parts.source.lag()
        if delivery.n_records:
            self.records_at_s = self.parts.clock()

    def _until_publication(self) -> float:
        """Return for how many seconds nothing is published."""
        rest = self.rest_until_s - self.parts.clock() if sum(self.lag.values()) > MANY_WAITING else 0.0
        return max(self.parts.publish_every.left(), rest)

    def _learn(self, turn: Turn) -> None:
        state = self.state
        for events in state.events(turn.delivery.decoded):
            for learned in self.parts.learner.learn(state.model, events):
                state.absorb(learned)
                turn.count(learned)
        state.offsets.update(turn.delivery.offsets)
        oldest, pending = turn.delivery.oldest_record_ms, state.pending
        if oldest is not None:
            pending.oldest_record_ms = oldest if pending.oldest_record_ms is None else min(oldest, pending.oldest_record_ms)

    def _idle_work(self) -> bool:
        quiet = self.parts.sweep_when_idle and self.parts.clock() - self.records_at_s >= QUIET_S
        return quiet and self.parts.learner.sweeper.worthwhile(self.state.model, LEAST_GAIN)

    def _sweep_idly(self, turn: Turn) -> None:
        if self._idle_work():
            learned = self.parts.learner.solve_idle_block(self.state.model)
            self.state.absorb(learned)
            turn.count(learned)

    def _unpublished(self) -> bool:
        model, pending = self.state.model, self.state.pending
        n_rows = pending.n_rows(model.users.n, model.items.n)
        listed = pending.seen[: model.users.n].any()
        return bool(n_rows or listed or pending.blocks or pending.removed_users or pending.removed_items)

    def _publish(self, turn: Turn, *, everything: bool = False) -> bool:
        """Publish what changed; return whether Redis took it. One that is away keeps the rows changed, and learning goes on."""
        began = self.parts.clock()
        draft = self.parts.drafter.draft(self.state, everything=everything)
        oldest = self.state.pending.oldest_record_ms
        try:
            intact = self.parts.publisher.publish(draft.publication)
        except PublisherUnavailable as error:
            if self.publisher_up:
                log.warning("redis is away; learning goes on, rows are kept", reason=str(error))
            self.publisher_up = False
            self.parts.publish_every.again(RETRY_S)
            return False
        if not self.publisher_up:
            log.info("redis is back")
        self.publisher_up = True
        draft.published(self.state)
        if not intact:
            log.warning("redis lost its memory; publishing every row again")
            self.state.pending.add_all(self.state.model.users.n, self.state.model.items.n)
        seconds = self.parts.clock() - began
        self.parts.publish_every.again()
        self.rest_until_s = began + (1 + PUBLISHING_SHARE) * seconds
        self.parts.heartbeat_every.again()
        written = draft.publication
        turn.published = Published(len(written.users.ids), len(written.items.ids), len(written.blocks), seconds, oldest)
        return True

    def _remove_strangers(self, turn: Turn) -> bool:
        """Once everything is published anew, remove this model's other keys: another journal's, or a restored Redis's.

        That begins after a publication and goes on for some keys a turn; return whether there is more to do.
        """
        renewal = self.state.pending.renewal
        if renewal is None or not renewal.done:
            self.strangers = None
        elif self.strangers is None and turn.published is not None and self.parts.source.at_end():
            self.strangers, self.n_strangers = self.parts.publisher.remove_other_epochs(), 0
        if self.strangers is None:
            return False
        try:
            n_removed = next(self.strangers, None)
        except PublisherUnavailable:
            self.strangers = None  # begins again after the next publication, which says that Redis is away
            return False
        self.n_strangers += n_removed or 0
        if n_removed is None:
            self.strangers = self.state.pending.renewal = None
            if self.n_strangers:
                log.info("removed keys that were not this model's", n_removed=self.n_strangers)
        return n_removed is not None

    def _checkpoint(self, turn: Turn) -> None:
        """End the checkpoint that became durable, commit *its* offsets; begin the next when due. One is in flight."""
        if self.parts.checkpoints.busy:
            return
        self._end_checkpoint(turn)
        if self.parts.checkpoint_every.due():
            if self.state.standing() != self.saved or self.parts.checkpoints.remembers_forgotten:
                self._begin_checkpoint(turn)
            self.parts.checkpoint_every.again()

    def _begin_checkpoint(self, turn: Turn) -> None:
        self.parts.dead_letters.flush()  # acknowledged before the checkpoint that passes them
        began = self.parts.clock()
        self.saved = self.state.standing()
        snapshot = self.parts.snapshot(self.state)
        self.parts.checkpoints.begin(snapshot)
        self.begun = (snapshot.facts, began, self.parts.clock() - began)

    def _end_checkpoint(self, turn: Turn) -> None:
        if self.begun is None:
            return
        (facts, began, stalled), self.begun = self.begun, None
        try:
            written = self.parts.checkpoints.durable()
        except CheckpointFailed as error:
            log.error("checkpoint failed; learning goes on, nothing is committed", reason=str(error))
            turn.checkpoint_failed = True
            self.saved = None
            return
        if written is not None and written.position == facts.position:
            self.parts.source.commit(facts.offsets)
            turn.durable = Durable(facts.position, written.size_bytes, self.parts.clock() - began, stalled)

    def _tick(self, turn: Turn) -> Tick:
        model, sweeper = self.state.model, self.parts.learner.sweeper
        n_offered = len(turn.delivery.decoded.kinds)
        return Tick(
            n_records=turn.delivery.n_records,
            n_accepted=turn.n_accepted,
            n_stale=n_offered - turn.n_accepted,
            rejects=Counter(reject.reason for reject in turn.delivery.rejects),
            squared_error=turn.squared,
            absolute_error=turn.absolute,
            n_errors=turn.n_errors,
            n_diverged=turn.n_diverged,
            n_hits=turn.n_hits,
            n_ranked=turn.n_ranked,
            n_blocks=turn.n_blocks,
            n_visits=turn.n_visits,
            published=turn.published,
            durable=turn.durable,
            checkpoint_failed=turn.checkpoint_failed,
            seconds=turn.watch.seconds,
            lag=self.lag,
            publisher_up=self.publisher_up,
            n_pending=self.state.pending.n_rows(model.users.n, model.items.n),
            n_unseen=self.state.pending.n_rated(model.users.n, model.items.n),
            n_sweeps=model.sweep.n_sweeps,
            sweep_progress=sweeper.progress(model),
            n_users=len(self.state.identities.users),
            n_items=len(self.state.identities.items),
            n_ratings=model.ratings.n_ratings,
            position=model.position,
            epoch=self.state.epoch,
        )
