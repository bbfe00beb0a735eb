"""Checkpoints: how long one of a million rows stops learning, and how soon a worker goes on from one of ten million ratings.

    python -m tests.benchmarks.bench_checkpoint [--ratings 10000000]

A worker that has just restored 800,000 users and 200,000 items learns from a log in memory, 500 events a turn, and writes
checkpoints to the disk meanwhile: the loop itself is stopped while parameters are copied, and held up while another thread hashes
and writes. The restart is a real worker's, with code compiled before, from its start as a process to its first poll.
"""

import argparse
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from factorstream.worker import kernels
from factorstream.worker.adapters.files import FileCheckpoints
from factorstream.worker.adapters.group import Solo
from factorstream.worker.adapters.kafka_source import KafkaSource
from factorstream.worker.adapters.memory import MemoryDeadLetters, MemoryLog, MemoryPublisher, MemorySource, MemoryTable
from factorstream.worker.cli.run import collect_seldom
from factorstream.worker.config import load
from factorstream.worker.intake import Intake
from factorstream.worker.local import generated
from factorstream.worker.loop import Parts, run
from factorstream.worker.model.journal import Events
from factorstream.worker.pending import Pending
from factorstream.worker.publishing import Drafter
from factorstream.worker.startup import snapshooter
from factorstream.worker.timing import Every
from factorstream.worker.wiring import fresh_state, learner_of, wall_ms
from tests.benchmarks.live import fresh_worker, new_topic, running
from tests.benchmarks.table import Figure, show

N_USERS, N_ITEMS = 800_000, 200_000
N_EVENTS, EVENTS_A_TURN = 1_500_000, 500
N_CHECKPOINTS = 4
EPOCH, CHUNK = 1, 1_000_000
MOST_STALL_MS, MOST_RESTART_S = 100, 10
N_RESTARTS = 3
CHECKPOINT_EVERY_S = 2.0
NOW_MS = 1_700_000_000_000
RUNNING = '"event": "running"'
"""In the line that a worker logs when only its first poll is left to do."""


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--ratings", type=int, default=10_000_000, help="held when the worker restarts")
    asked = options.parse_args()
    for rank in (16, 64):
        show(f"A checkpoint of {N_USERS + N_ITEMS:,} rows, K = {rank}", stalls(rank))
    show(f"Restart from a checkpoint of {asked.ratings:,} ratings", restarts(asked.ratings))


def stalls(rank):
    """Return how long checkpoints stop, and hold up, a loop that learns."""
    settings = load(None, [f"model.rank={rank}"], {})
    log = MemoryLog()
    for value in events():
        log.append(0, value)
    with tempfile.TemporaryDirectory(prefix="factorstream-bench-") as folder:
        checkpoints = opened(folder)
        grown = save(checkpoints, rows_without_history(settings), log.identity)
        checkpoints.close()
        checkpoints = opened(folder)
        durable, writing, calm = [], [], []
        for tick in turns(settings, log, checkpoints):
            durable += [tick.durable] if tick.durable else []
            spent = sum(seconds for stage, seconds in tick.seconds.items() if stage != "publish")
            (writing if tick.durable or checkpoints.busy else calm).append(1e3 * spent)
            if len(durable) == N_CHECKPOINTS:
                break
        checkpoints.close()
    copies = [1e3 * one.stall_seconds for one in durable]
    return [
        Figure("the copy of a worker that has just grown to them", 1e3 * grown, "ms", at_most=MOST_STALL_MS),
        Figure("the loop stops for the copy, first after a start", copies[0], "ms", at_most=MOST_STALL_MS),
        Figure("the loop stops for the copy, longest of the next three", max(copies[1:]), "ms", at_most=MOST_STALL_MS),
        Figure("500 events learned while one is copied and written, longest", max(writing), "ms", at_most=MOST_STALL_MS),
        Figure("the same, median", statistics.median(writing), "ms"),
        Figure("500 events learned while none is, longest", max(calm, default=float("nan")), "ms"),
        Figure("the same, median", statistics.median(calm or [float("nan")]), "ms"),
        Figure("from the copy to the rename", statistics.median(one.seconds for one in durable), "s"),
        Figure("size", durable[-1].size_bytes / 1e6, "MB"),
    ]


def events():
    """Yield ratings of known users and items, as JSON."""
    random = np.random.default_rng(2)
    pairs = zip(random.integers(0, N_USERS, N_EVENTS).tolist(), random.integers(0, N_ITEMS, N_EVENTS).tolist(), strict=True)
    for n, (user, item) in enumerate(pairs):
        yield b'{"user_id":"u%d","item_id":"m%d","rating":%d,"timestamp_ms":%d}' % (user, item, n % 5 + 1, NOW_MS + n)


def rows_without_history(settings):
    """Return a state of a million rows whose ratings are few: a checkpoint's copy is of rows."""
    state = fresh_state(settings)
    learner = learner_of(settings)
    rows = np.arange(N_USERS, dtype=np.int32)
    state.identities.users.rows([f"u{row}" for row in range(N_USERS)])
    state.identities.items.rows([f"m{row}" for row in range(N_ITEMS)])
    for _ in learn(state, learner, rows, rows % N_ITEMS, (rows % 5 + 1).astype(np.float32)):
        pass
    return state


def learn(state, learner, users, items, ratings):
    """Have *state* learn the ratings, each of a pair of its own; yield after each million."""
    for first in range(0, len(users), CHUNK):
        part = slice(first, first + CHUNK)
        n = len(users[part])
        times = NOW_MS - len(users) + first + np.arange(n, dtype=np.int64)
        for learned in learner.learn(state.model, Events(np.zeros(n, np.uint8), users[part], items[part], ratings[part], times)):
            state.absorb(learned)
        yield


def opened(folder):
    """Return the checkpoints of *folder*, locked."""
    checkpoints = FileCheckpoints(Path(folder))
    checkpoints.lock()
    return checkpoints


def save(checkpoints, state, identity):
    """Write a checkpoint of *state*, which has learned what is before the first record of *identity*, all of it published.

    Return the seconds that its copy took.
    """
    source = (identity.cluster_id, identity.topic, identity.topic_id)
    state.epoch, state.pending = EPOCH, Pending()
    began = time.monotonic()
    snapshot = state.snapshot(sequence=0, source=source, seen_items=256, platform=kernels.platform(), created_ms=wall_ms())
    seconds = time.monotonic() - began
    checkpoints.begin(snapshot)
    checkpoints.wait()
    checkpoints.durable()
    return seconds


def turns(settings, log, checkpoints):
    """Go on from the newest checkpoint; yield each turn of the loop."""
    clock = time.monotonic
    state = fresh_state(settings)
    state.restore(checkpoints.latest())
    source, publisher = MemorySource(log, max_records=EVENTS_A_TURN), MemoryPublisher(MemoryTable())
    identity = source.open(state.offsets)
    publisher.take(EPOCH, state.journal_id, None)
    collect_seldom()
    learner = learner_of(settings)
    parts = Parts(
        source=source,
        intake=Intake(rating_min=None, rating_max=None, max_reject_share=1.0),
        learner=learner,
        drafter=Drafter(learner.rule.readout, seen_items=256, block_bytes_per_s=8e6, loss="squared", clock=clock),
        publisher=publisher,
        checkpoints=checkpoints,
        dead_letters=MemoryDeadLetters(),
        snapshot=snapshooter(publisher, identity, 256, kernels.platform(), wall_ms),
        publish_every=Every(0.02, clock),
        heartbeat_every=Every(1.0, clock),
        checkpoint_every=Every(CHECKPOINT_EVERY_S, clock),
        sweep_when_idle=False,
        clock=clock,
    )
    return run(state, parts, stop=source.at_end)


def restarts(n_ratings):
    """Return how soon a real worker polls."""
    with running() as lent, fresh_worker(lent, new_topic(lent)) as command:
        settings = load(None, ["sweep.visits_per_rating=0", f"model.name={setting(command, 'model.name')}"], {})
        source = KafkaSource(lent.kafka, setting(command, "kafka.topic"), group=Solo())
        identity = source.open({})
        source.close()
        drawn = generated.ratings(n_ratings, n_ratings // 40, n_ratings // 200)
        state, learner = fresh_state(settings), learner_of(settings)
        state.identities.users.rows([f"u{row}" for row in range(n_ratings // 40)])
        state.identities.items.rows([f"m{row}" for row in range(n_ratings // 200)])
        checkpoints = opened(setting(command, "checkpoint.dir"))
        for _ in learn(state, learner, drawn.users, drawn.items, drawn.ratings):
            save(checkpoints, state, identity)
        checkpoints.close()
        size_bytes = sum(path.stat().st_size for path in Path(checkpoints.folder).rglob("*") if path.is_file())
        seconds = [seconds_to_first_poll(command) for _ in range(N_RESTARTS + 1)][1:]  # the first may compile
    return [
        Figure("from the process's start to its first poll, median", statistics.median(seconds), "s", at_most=MOST_RESTART_S),
        Figure("the same, longest", max(seconds), "s"),
        Figure("size of the folder", size_bytes / 1e6, "MB"),
    ]


def setting(command, key):
    """Return what *command* sets *key* to."""
    return next(word.partition("=")[2] for word in reversed(command) if word.startswith(f"{key}="))


def seconds_to_first_poll(command):
    """Start a worker, read its log up to the line before its first turn, and end it."""
    began = time.monotonic()
    worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        lines = []
        for line in worker.stderr:
            lines.append(line)
            if RUNNING in line:
                return time.monotonic() - began
        raise RuntimeError("the worker ended before its first poll:\n" + "".join(lines[-20:]))
    finally:
        worker.kill()
        worker.wait()


if __name__ == "__main__":
    main()
