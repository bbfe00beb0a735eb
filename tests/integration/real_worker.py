"""``factorstream run`` as a process of its own, on real services; and what it must leave behind, computed from the log alone."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError

import numpy as np
import redis
from kafka import KafkaProducer

from factorstream.blocks import unpack_block, unpack_versions
from factorstream.embedding import unpack
from factorstream.keys import block_key
from factorstream.meta import unpack_meta
from factorstream.seen import unpack_seen
from factorstream.worker import kernels
from factorstream.worker.adapters.files import FileCheckpoints
from factorstream.worker.checkpoint import restored_model
from factorstream.worker.learn.rule import rule_of
from factorstream.worker.local import processes
from factorstream.worker.local import redis as local_redis
from factorstream.worker.model.journal import ratings_of
from factorstream.worker.model.model import ITEMS, USERS
from tests.contracts.kafka_log import KafkaLog

COMMAND = [sys.executable, "-m", "factorstream.worker.cli.main"]
SEEN_ITEMS = 256
PATIENCE_S = 90
CORRECTED = 1.0
"""By how much the calibrator may since have changed its mind about a row that readers have; in ratings."""


def await_true(condition, timeout_s=40):
    """Return the first true answer of *condition*."""
    until = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < until, f"it did not come true within {timeout_s} s"
        time.sleep(0.02)
    return found


def command(*arguments, environment=None, timeout_s=PATIENCE_S):
    """Run another of our commands to its end."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], env=_environment(environment), capture_output=True, text=True, timeout=timeout_s
    )
    return Ended(done.returncode, done.stdout.splitlines(), done.stderr.splitlines())


def _environment(more):
    return {name: value for name, value in os.environ.items() if not name.startswith("FACTORSTREAM__")} | (more or {})


@dataclass
class Ended:
    """What a process said and how it ended."""

    code: int
    output: list
    errors: list

    @property
    def answer(self):
        """The JSON object in the last line of standard output."""
        return json.loads(self.output[-1])

    @property
    def logs(self):
        return [json.loads(line) for line in self.errors if line.startswith("{")]

    @property
    def complaints(self):
        """What is said to a person."""
        return [line for line in self.errors if not line.startswith("{")]

    def logged(self, event):
        return [line for line in self.logs if event in line["event"]]

    def refused(self, code, *words):
        """Assert that it ended with *code* and one line that has *words* in it."""
        assert self.code == code, self.errors
        assert len(self.complaints) == 1, self.errors
        assert self.complaints[0].startswith("factorstream: ")
        assert [word for word in words if word not in self.complaints[0]] == [], self.complaints
        assert not self.output

    def failed(self, code, *words):
        """Assert that it did its work but for what one line says, which has *words* in it."""
        assert self.code == code, self.errors
        assert len(self.complaints) == 1, self.errors
        assert [word for word in words if word not in self.complaints[0]] == [], self.complaints
        assert self.answer

    def settled(self):
        """Assert that it ended well; return its answer."""
        assert self.code == 0, self.errors
        assert not self.complaints, self.complaints
        assert self.logged("settled")
        return self.answer


class Running:
    """A worker that runs."""

    def __init__(self, arguments):
        self.process = subprocess.Popen(
            [*COMMAND, "run", "--json", *arguments],
            env=_environment(None),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.output, self.errors = [], []
        self._readers = [
            threading.Thread(target=lines.extend, args=(stream,), daemon=True)
            for stream, lines in ((self.process.stdout, self.output), (self.process.stderr, self.errors))
        ]
        for reader in self._readers:
            reader.start()

    def ended(self, timeout_s=PATIENCE_S):
        """Wait for its end."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the worker did not end within {timeout_s} s; it said {self.errors}") from None
        for reader in self._readers:
            reader.join()
        return Ended(code, self.output, self.errors)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self, timeout_s=PATIENCE_S):
        """Ask it to settle and end."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended(timeout_s)

    def said(self, event):
        """Wait for a line of its log; return it."""

        def found():
            assert self.process.poll() is None or any(event in line for line in self.errors), self.errors
            return [json.loads(line) for line in list(self.errors) if line.startswith("{") and event in line]

        return await_true(found, PATIENCE_S)[-1]

    def get(self, path):
        """Return status and text of a page of its HTTP server."""
        url = self.said("metrics and health")["url"] + path
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()

    def metrics(self):
        """Return name (with labels) → value."""
        lines = [line.rpartition(" ") for line in self.get("/metrics")[1].splitlines() if not line.startswith("#")]
        return defaultdict(float, {name: float(value) for name, _, value in lines})

    def has_learned(self, n_records):
        """Wait until it has read *n_records* since its start and published what they changed."""
        self.said("running")
        await_true(
            lambda: (m := self.metrics())["factorstream_records_total"] >= n_records and m["factorstream_pending_rows"] == 0
        )


@dataclass
class Place:
    """A topic, a model, a folder: all that one worker works on."""

    kafka: str
    redis_url: str
    folder: Path
    n_partitions: int = 3
    model: str = field(default_factory=lambda: f"model-{uuid.uuid4().hex[:12]}")
    settings: dict = field(default_factory=dict)

    def __post_init__(self):
        self.log = KafkaLog(self.kafka, self.n_partitions)
        self.topic = self.log.topic
        self.dead_topic = f"{self.topic}.dead"
        self.redis = redis.Redis.from_url(self.redis_url)
        self.running = []

    def arguments(self, **settings):
        """Return command line arguments: ``checkpoint_interval_s=1`` sets ``checkpoint.interval_s``."""
        chosen = {
            "kafka.bootstrap_servers": self.kafka,
            "kafka.topic": self.topic,
            "kafka.dead_letter_topic": self.dead_topic,
            "kafka.group_id": self.log.group_id,
            "kafka.timeout_s": 10,
            "redis.url": self.redis_url,
            "model.name": self.model,
            "model.rank": 8,
            "model.calibrate": False,  # or readers have rows corrected by what was known at the time
            "checkpoint.dir": self.folder,
            "checkpoint.interval_s": 0.5,
            "metrics.port": 0,
        }
        chosen |= {name.replace("_", ".", 1): value for name, value in (self.settings | settings).items()}
        return [part for name, value in chosen.items() for part in ("--set", f"{name}={str(value).lower()}")]

    def start(self, **settings):
        """Start a worker."""
        return self._started(self.arguments(**settings))

    def run(self, *, until_idle=0.2, timeout_s=PATIENCE_S, **settings):
        """Let a worker work until it is idle."""
        return self._started([*self.arguments(**settings), "--until-idle", str(until_idle)]).ended(timeout_s)

    def _started(self, arguments):
        self.running.append(Running(arguments))
        return self.running[-1]

    def send(self, events):
        """Publish *events*: dictionaries, keyed by their user; bytes as they are."""
        producer = KafkaProducer(bootstrap_servers=self.kafka, acks="all", linger_ms=5)
        for event in events:
            is_event = isinstance(event, dict)
            key = str(event.get("user_id", "")).encode() if is_event else b"?"
            producer.send(self.topic, key=key, value=json.dumps(event).encode() if is_event else event)
        producer.flush()
        producer.close()

    def close(self):
        for worker in self.running:
            if worker.process.poll() is None:
                worker.kill()
        self.log.close()
        self.redis.close()

    # --- what the log says

    def truth(self):
        """Read the whole topic; apply last write wins. The test's own words of the contract, not the worker's code."""
        records = sorted(self.log.records(self.topic), key=lambda record: (record.partition, record.offset))
        return Truth.of([json.loads(record.value) for record in records], ends_of(records))

    @property
    def ends(self):
        """Partition → its end, where there are records."""
        return ends_of(self.log.records(self.topic))

    # --- what the worker left

    def checkpoint(self):
        """Read the newest checkpoint."""
        store = FileCheckpoints(self.folder)
        return store.read(store.manifest(store.manifests()[-1]))

    def keys(self):
        """Return every key of the model in Redis, without its prefix, and its value."""
        names = list(self.redis.scan_iter(f"fs:{{{self.model}.*", count=10_000))
        values = self.redis.mget(names) if names else []
        return {name.partition(b"}:")[2].decode(): value for name, value in zip(names, values, strict=True)}

    def offsets_left(self):
        """Return what is committed for lag tools."""
        return {partition: offset for partition, offset in self.log.committed.items() if offset}


def ends_of(records):
    """Return partition → the end of its *records*."""
    ends = Counter()
    for record in records:
        ends[record.partition] = max(ends[record.partition], record.offset + 1)
    return dict(ends)


@dataclass
class Truth:
    """What must be learned of a log."""

    held: dict
    """(user, item) → time, rating."""
    n_accepted: int
    """Events that apply; among them forgettings of somebody who is known."""
    ends: dict
    """Partition → the log's end, where it has records."""

    @classmethod
    def of(cls, events, ends):
        held, floors, known, n_accepted = {}, defaultdict(int), set(), 0
        for event in events:
            user, time_ms, kind = event["user_id"], event["timestamp_ms"], event.get("type", "rate")
            if kind == "forget_user":
                n_accepted += user in known
                floors[user] = max(floors[user], time_ms)
                held = {pair: write for pair, write in held.items() if pair[0] != user or write[0] > time_ms}
                known -= {user} - {pair[0] for pair in held}
                continue
            pair, unrated = (user, event["item_id"]), kind == "unrate"
            write = time_ms, unrated, 0.0 if unrated else float(np.float32(event["rating"]))
            if time_ms > floors[user]:
                known.add(user)
                if pair not in held or write > held[pair]:
                    held[pair] = write
                    n_accepted += 1
        rated = {pair: (time_ms, rating) for pair, (time_ms, unrated, rating) in held.items() if not unrated}
        return cls(rated, n_accepted, ends)

    def by(self, side):
        """Return id → its ratings, as (time, other id, rating); *side* 0 for users, 1 for items."""
        found = defaultdict(list)
        for pair, (time_ms, rating) in self.held.items():
            found[pair[side]].append((time_ms, pair[1 - side], rating))
        return found


def check_checkpoint(place, truth):
    """Assert that the newest checkpoint holds what *truth* says, learned once each."""
    checkpoint = place.checkpoint()
    facts = checkpoint.facts
    assert facts.n_accepted == truth.n_accepted, "each event that applies is learned exactly once"
    assert facts.n_ratings == len(truth.held)
    assert facts.offsets == truth.ends
    users, items = checkpoint.names["users"], checkpoint.names["items"]
    ratings = ratings_of(checkpoint.base, checkpoint.journal, facts.n_users, facts.n_items).entries()
    columns = (column.tolist() for column in ratings)
    held = {
        (users[user], items[item]): (time_ms, rating)
        for user, item, rating, time_ms in zip(*columns, strict=True)
        if not np.isnan(rating)
    }
    assert held == truth.held
    return checkpoint


def check_redis(place, checkpoint, truth):
    """Assert that readers see exactly the rows of *checkpoint*: embeddings, seen items, blocks and all."""
    keys, facts = place.keys(), checkpoint.facts
    meta = unpack_meta(keys.pop("meta"))
    assert (meta.journal_id, meta.rank) == (facts.journal_id, facts.rank)
    n_known = (len(list(filter(None, checkpoint.names[side]))) for side in ("users", "items"))
    assert (meta.n_users, meta.n_items, meta.offsets) == (*n_known, facts.offsets)
    keys.pop("fence")
    items = checkpoint.names["items"]
    vectors = {"user": _vectors(checkpoint, USERS), "item": _vectors(checkpoint, ITEMS)}
    corrected = CORRECTED if facts.learning.calibrate else 0.0
    for number in range(len(unpack_versions(keys.pop("blocks"))) if facts.n_items else 0):
        block = unpack_block(keys.pop(block_key(place.model, number).partition("}:")[2]))
        first = number * 1024
        assert list(block.ids) == [name or None for name in items[first : first + 1024]]
        alive = np.array([name is not None for name in block.ids])
        assert (np.abs(block.vectors - vectors["item"][first : first + 1024]) <= corrected)[alive].all()
    for side, (letter, names) in {"user": ("u", checkpoint.names["users"]), "item": ("i", items)}.items():
        held = truth.by(side == "item")
        for row, name in enumerate(names):
            if not name:
                continue
            embedding = unpack(name, side, keys.pop(f"{letter}:{name}"))
            assert (np.abs(embedding.augmented - vectors[side][row]) <= corrected).all()
            assert embedding.n_ratings == len(held[name])
            assert embedding.timestamp_ms >= max((time_ms for time_ms, _, _ in held[name]), default=0)
            if side == "user":
                seen = unpack_seen(keys.pop(f"s:{name}", b""))  # nothing seen: no key
                newest = sorted(held[name], reverse=True)
                assert {items[slot] for slot in seen} <= {item for _, item, _ in newest}
                assert len(seen) == min(SEEN_ITEMS, len(newest))
    assert not keys, "nobody's keys are left"


def _vectors(checkpoint, side):
    """Return what readers of *side* are to see, ``(n, K + 2)``."""
    learning, model = checkpoint.facts.learning, restored_model(checkpoint)
    own = model.users if side == USERS else model.items
    factors, biases = rule_of(learning, kernels.select("cpu")).readout(model, side, np.arange(own.n))
    ones = np.ones(own.n, np.float32)
    return np.column_stack([factors, biases, ones] if side == USERS else [factors, ones, biases])


def check_all(place):
    """Assert that the log, the checkpoint, Redis and the committed offsets say the same; return the log's truth."""
    truth = place.truth()
    check_redis(place, check_checkpoint(place, truth), truth)
    assert place.offsets_left() == truth.ends
    return truth


class PrivateRedis:
    """A Redis of one test's own, which may die."""

    def __init__(self, folder):
        self.folder, self.port = folder.resolve(), processes.free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self):
        """Start it, empty."""
        local_redis.start(self.folder, self.port)

    def kill(self):
        """End it as kill -9 does."""
        for process in processes.running(self.folder, local_redis.WORD):
            process.kill()
            process.wait(10)


def rate(user, item, rating=None, timestamp_ms=None):
    """Return an event; equal arguments, equal events."""
    value = (user * 7 + item * 3) % 10 / 2 + 0.5 if rating is None else rating
    time_ms = 1_600_000_000_000 + 1000 * (user * 31 + item) if timestamp_ms is None else timestamp_ms
    return {"user_id": f"u{user}", "item_id": f"m{item}", "rating": value, "timestamp_ms": time_ms}


def rates(n_users, n_items, *, first=0):
    """Return one event for each pair."""
    return [rate(user, item) for user in range(first, first + n_users) for item in range(n_items)]
