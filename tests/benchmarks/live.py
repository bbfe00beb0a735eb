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


def fill(lent, history, first=0, stop=None):
    """Return a new topic that holds the ratings *first* to before *stop* of *history*, in order of time.

    Records are those of `factorstream.Producer`; their batches are made here, for it is not the producer
    that is measured, and this is five times as fast.
    """
    topic = new_topic(lent)
    stop = len(history) if stop is None else stop
    partitions = [(murmur2(name.encode()) & 0x7FFFFFFF) % N_PARTITIONS for name in history.user_names]
    host, port = lent.kafka.split(":")
    with socket.create_connection((host, int(port))) as broker:
        for begin in range(first, stop, CHUNK):
            end = min(stop, begin + CHUNK)
            records = [[] for _ in range(N_PARTITIONS)]
            codes = history.user_codes[begin:end].tolist()
            for code, event in zip(codes, events(history, begin, end), strict=True):
                records[partitions[code]].append((event.user_id.encode(), encode(event)))
            for partition, of_partition in enumerate(records):
                for start in range(0, len(of_partition), BATCH):
                    _produce(broker, topic, partition, _batch(of_partition[start : start + BATCH]))
    return topic


def _batch(records):
    now_ms = time.time_ns() // 1_000_000
    builder = MemoryRecordsBuilder(2, 0, MOST_BYTES)
    for key, value in records:
        builder.append(timestamp=now_ms, key=key, value=value)
    builder.close()
    return builder.buffer()


def _produce(broker, topic, partition, batch):
    """Send *batch* with a Produce request, acks = 1, and wait for the broker's word."""
    name = topic.encode()
    header = struct.pack(">hhih", PRODUCE, VERSION, 0, -1)
    body = struct.pack(f">hhiih{len(name)}siii", -1, 1, 30_000, 1, len(name), name, 1, partition, len(batch))
    broker.sendall(struct.pack(">i", len(header) + len(body) + len(batch)) + header + body + batch)
    (size,) = struct.unpack(">i", _receive(broker, 4))
    answer = _receive(broker, size)
    (error,) = struct.unpack_from(">h", answer, 4 + 4 + 2 + len(name) + 4 + 4)
    if error:
        raise RuntimeError(f"the broker refused a batch with error {error}")


def _receive(broker, n_bytes):
    received = b""
    while len(received) < n_bytes:
        received += broker.recv(n_bytes - len(received))
    return received


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
