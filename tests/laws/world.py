"""A whole worker on memory twins: a log, a folder and a table that outlive the workers, which crash where a test wants."""

import itertools
import json
from dataclasses import dataclass, field

import numpy as np

from factorstream.embedding import unpack
from factorstream.keys import item_prefix, user_prefix
from factorstream.worker import kernels
from factorstream.worker.adapters.memory import MemoryDeadLetters, MemoryLog, MemoryPublisher, MemorySource, MemoryTable
from factorstream.worker.adapters.memory_checkpoints import MemoryCheckpoints, MemoryFolder
from factorstream.worker.config import load
from factorstream.worker.intake import Intake
from factorstream.worker.learn import uncertainty
from factorstream.worker.learn.learner import Learner
from factorstream.worker.loop import Parts, run
from factorstream.worker.publishing import Drafter
from factorstream.worker.startup import start
from factorstream.worker.state import State
from factorstream.worker.timing import Every
from factorstream.worker.wiring import fresh_model, learning_of
from tests.laws.disk import Disk

KEY = bytes(range(32))
EFFECTS = {"poll", "put", "flush", "publish", "take", "claim", "begin", "commit"}
NOW_MS = 1_700_000_000_000
PLATFORM = kernels.platform()


class Crash(Exception):
    """The process is gone."""


class Fuse:
    """Burns with every effect of the worker; a crash comes before the effect at which it has burnt down."""

    def __init__(self, length=None):
        self.left = length

    def burn(self):
        if self.left is not None:
            if self.left == 0:
                raise Crash
            self.left -= 1


class Fused:
    """A port whose effects burn a fuse."""

    def __init__(self, port, fuse):
        self._port, self._fuse = port, fuse

    def __getattr__(self, name):
        if name in EFFECTS:
            self._fuse.burn()
        return getattr(self._port, name)


@dataclass
class World:
    """What survives crashes."""

    log: MemoryLog = field(default_factory=MemoryLog)
    folder: MemoryFolder | Disk = field(default_factory=MemoryFolder)
    table: MemoryTable = field(default_factory=MemoryTable)
    dead: MemoryDeadLetters = field(default_factory=MemoryDeadLetters)

    def write(self, events, partition_of=lambda event: 0):
        for event in events:
            self.log.append(partition_of(event), json.dumps(event).encode(), NOW_MS)


def settings_of(*assignments):
    return load(None, ["model.rank=3", "publish.seen_items=4", "sweep.block_visits=7", "sweep.when_idle=false", *assignments], {})


def opened(folder, fuse):
    """Return the checkpoints in *folder* for a worker that starts: one that is dead holds no lock."""
    if isinstance(folder, Disk):
        return folder.open(fuse)
    folder.locked = False
    return MemoryCheckpoints(folder)


def worker(world, settings, *, fuse=None, max_records=3, journal_id="journal"):
    """Start a worker in *world*; return its state, its parts and its turns."""
    fuse = fuse or Fuse()
    ticks = itertools.count()

    def clock():
        return float(next(ticks)) / 10

    def wall_ms():
        return NOW_MS

    source = Fused(MemorySource(world.log, max_records=max_records), fuse)
    publisher = Fused(
        MemoryPublisher(world.table, uncertainty=settings.publish.uncertainty, replace=settings.redis.replace), fuse
    )
    checkpoints = Fused(opened(world.folder, fuse), fuse)
    learning = learning_of(settings)
    learner = Learner(kernels.select("cpu"), learning)
    shape = {"name": "default", "loss": settings.model.loss, "learner": "sgd", "seed": settings.model.seed}
    state = State(fresh_model(settings), learning, journal_id=journal_id, key=KEY, shape=shape)
    snapshot = start(
        state,
        source=source,
        publisher=publisher,
        checkpoints=checkpoints,
        patience_s=0,
        seen_items=settings.publish.seen_items,
        platform=PLATFORM,
        wall_ms=wall_ms,
    )
    parts = Parts(
        source=source,
        intake=Intake(
            rating_min=settings.model.range[0],
            rating_max=settings.model.range[1],
            rating_step=settings.model.category_step,
            max_reject_share=1.0,
        ),
        learner=learner,
        drafter=Drafter(
            learner.rule.readout,
            uncertainty if settings.publish.uncertainty else None,
            seen_items=settings.publish.seen_items,
            block_bytes_per_s=1e6,
            loss=settings.model.loss,
            clock=clock,
        ),
        publisher=publisher,
        checkpoints=checkpoints,
        dead_letters=Fused(world.dead, fuse),
        snapshot=snapshot,
        publish_every=Every(0.5, clock),
        heartbeat_every=Every(1.0, clock),
        checkpoint_every=Every(2.0, clock),
        sweep_when_idle=settings.sweep.when_idle,
        clock=clock,
    )
    return state, parts, run(state, parts, stop=source.at_end)


def live(world, settings, *, crashes=(), max_records=3):
    """Work to the end of the log, crashing after each of *crashes* effects and starting again; return the last state."""
    for length in [*crashes, None]:
        try:
            state, _, turns = worker(world, settings, fuse=Fuse(length), max_records=max_records)
            for _ in turns:
                pass
        except Crash:
            continue
        return state
    raise AssertionError("unreachable")


def held(state):
    """Return the ratings held, by id: ``{(user_id, item_id): (rating, time)}``, tombstones left out."""
    users, items, ratings, times = state.model.ratings.entries()
    return {
        (state.identities.users.names[user], state.identities.items.names[item]): (rating, time)
        for user, item, rating, time in zip(users.tolist(), items.tolist(), ratings.tolist(), times.tolist(), strict=True)
        if not np.isnan(rating)
    }


def published(world):
    """Return what readers see: ``{("user" or "item", id): Embedding}``."""
    found = {}
    for side, prefix in (("user", user_prefix("default", 0)), ("item", item_prefix("default", 0))):
        for key, value in world.table.values.items():
            name = key.decode()
            if name.startswith(prefix):
                found[side, name.removeprefix(prefix)] = unpack(name.removeprefix(prefix), side, value)
    return found


def last_of(world, settings, crashes, *, max_records, n_turns):
    """Let workers crash one after another, and a last one go on for *n_turns*; return its state, which has a checkpoint."""
    for length in [*crashes, None]:
        try:
            state, parts, turns = worker(world, settings, fuse=Fuse(length), max_records=max_records)
            for _, _ in zip(range(n_turns), turns, strict=False):
                pass
            parts.checkpoints.begin(parts.snapshot(state))
        except Crash:
            continue
    return state
