"""Real services of a benchmark's own, topics filled in bulk, and the real worker as its user starts it."""

import json
import socket
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import redis
from kafka import KafkaAdminClient
from kafka.partitioner.default import murmur2
from kafka.record import MemoryRecordsBuilder

from factorstream.codec import encode
from factorstream.worker.history.replay import events
from factorstream.worker.local import services

PROGRAM = [str(Path(sys.executable).with_name("factorstream"))]
N_PARTITIONS = 4
CHUNK = 20_000
"""Events encoded at once."""
BATCH = 1_000
"""Records of a batch: about what a busy producer sends."""
MOST_BYTES = 1 << 20
PRODUCE, VERSION = 0, 3


@contextmanager
def running():
    """Lend a Kafka and a Redis."""
    with tempfile.TemporaryDirectory(prefix="factorstream-bench-") as folder:
        try:
            yield services.start(Path(folder))
        finally:
            services.stop(Path(folder))


def new_topic(lent):
    """Return the name of an empty topic of four partitions."""
    topic = f"bench-{uuid.uuid4().hex[:8]}"
    admin = KafkaAdminClient(bootstrap_servers=lent.kafka)
    admin.create_topics({topic: {"num_partitions": N_PARTITIONS, "replication_factor": 1}}, wait_for_metadata=True)
    admin.close()
    return topic


def fill(lent, history):
    """Return a new topic that holds *history*, in order of time."""
    topic = new_topic(lent)
    with Bulk(lent.kafka, topic) as bulk:
        for begin in range(0, len(history), CHUNK):
            bulk.send(events(history, begin, min(len(history), begin + CHUNK)))
    return topic


class Bulk:
    """Puts events into a topic of four partitions: the records of `factorstream.Producer`, at a fifth of its cost.

    For streams whose producer is not what is measured: batches are made here, of up to 1,000 records.
    """

    def __init__(self, address, topic):
        host, port = address.split(":")
        self._broker = socket.create_connection((host, int(port)))
        self._topic = topic.encode()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._broker.close()

    def send(self, ratings):
        """Send *ratings* and wait until the broker has them."""
        records = [[] for _ in range(N_PARTITIONS)]
        for rating in ratings:
            records[partition_of(rating.user_id)].append((rating.user_id.encode(), encode(rating)))
        n_requests = 0
        for partition, of_partition in enumerate(records):
            for start in range(0, len(of_partition), BATCH):
                self._produce(partition, _batch(of_partition[start : start + BATCH]))
                n_requests += 1
        for _ in range(n_requests):
            self._check_answer()

    def _produce(self, partition, batch):
        """Send a Produce request with acks = 1."""
        name = self._topic
        header = struct.pack(">hhih", PRODUCE, VERSION, 0, -1)
        body = struct.pack(f">hhiih{len(name)}siii", -1, 1, 30_000, 1, len(name), name, 1, partition, len(batch))
        self._broker.sendall(struct.pack(">i", len(header) + len(body) + len(batch)) + header + body + batch)

    def _check_answer(self):
        (size,) = struct.unpack(">i", self._receive(4))
        (error,) = struct.unpack_from(">h", self._receive(size), 4 + 4 + 2 + len(self._topic) + 4 + 4)
        if error:
            raise RuntimeError(f"the broker refused a batch with error {error}")

    def _receive(self, n_bytes):
        received = b""
        while len(received) < n_bytes:
            received += self._broker.recv(n_bytes - len(received))
        return received


@cache
def partition_of(user_id):
    """Return where Kafka's clients put the events of a user."""
    return (murmur2(user_id.encode()) & 0x7FFFFFFF) % N_PARTITIONS


def _batch(records):
    now_ms = time.time_ns() // 1_000_000
    builder = MemoryRecordsBuilder(2, 0, MOST_BYTES)
    for key, value in records:
        builder.append(timestamp=now_ms, key=key, value=value)
    builder.close()
    return builder.buffer()


@contextmanager
def fresh_worker(lent, topic, *settings):
    """Lend the command of a worker that has neither a checkpoint nor anything in Redis; ``--set`` more with *settings*."""
    with redis.Redis.from_url(lent.redis) as client:
        client.flushdb()
    with tempfile.TemporaryDirectory(prefix="factorstream-bench-") as folder:
        yield command(lent, topic, f"checkpoint.dir={folder}", f"model.name=bench-{uuid.uuid4().hex[:8]}", *settings)


def command(lent, topic, *settings):
    """Return the command line of a worker."""
    own = [f"kafka.bootstrap_servers={lent.kafka}", f"kafka.topic={topic}", f"redis.url={lent.redis}", "metrics.port=0"]
    assignments = [word for setting in (*own, *settings) for word in ("--set", setting)]
    return [*PROGRAM, "run", *assignments, "--json"]


def finish(worker_command):
    """Run a worker until the topic's end; return what it says in the end."""
    done = subprocess.run([*worker_command, "--until-idle", "1"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the worker ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])
