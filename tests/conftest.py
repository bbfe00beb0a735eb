"""Real services for tests, and names that no other test uses.

Kafka and Redis are taken from ``FACTORSTREAM_TEST_KAFKA`` and ``FACTORSTREAM_TEST_REDIS`` where set; else each process that
runs tests starts a pair of its own. Services that do not start fail the tests that need them: they are never skipped.
"""

import os
import signal
import uuid
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
import redis
from hypothesis import settings

from factorstream.worker.local import services

settings.register_profile("patient", deadline=None)  # the first example of a test may compile, and cores are shared
settings.load_profile("patient")

# A shell that starts tests in the background has them ignore Ctrl-C, and every process they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def local_services(tmp_path_factory):
    """Start this session's own Kafka and Redis; stop them at its end, however it ends."""
    folder = tmp_path_factory.mktemp("services")
    try:
        yield services.start(folder)
    finally:
        services.stop(folder)


@pytest.fixture(scope="session")
def kafka(request):
    """Return the address, ``host:port``, of a real broker."""
    return os.environ.get("FACTORSTREAM_TEST_KAFKA") or request.getfixturevalue("local_services").kafka


@pytest.fixture(scope="session")
def redis_url(request):
    """Return the URL of a real Redis whose database tests may flush."""
    lent = os.environ.get("FACTORSTREAM_TEST_REDIS")
    return own_database(lent) if lent else request.getfixturevalue("local_services").redis


def own_database(url):
    """Return *url* with a database that no other process of this session flushes: the first one's is that of *url*."""
    parts, process = urlsplit(url), int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    if parts.scheme == "unix":
        options = dict(parse_qsl(parts.query))
        numbered = urlencode({**options, "db": int(options.get("db", 0)) + process})
        return f"unix://{parts.netloc}{parts.path}?{numbered}"
    return parts._replace(path=f"/{int(parts.path.strip('/') or 0) + process}").geturl()


@pytest.fixture
def flushed_redis(redis_url):
    """Return a client of the real Redis, emptied."""
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
        yield client


@pytest.fixture
def topic_name():
    """Return the name of a topic that does not exist."""
    return f"ratings-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def new_topic(kafka):
    """Return a function that makes an empty topic and returns its name: ``new_topic(n_partitions=4, **configs)``."""
    from kafka import KafkaAdminClient

    def make(n_partitions=4, **configs):
        name = f"ratings-{uuid.uuid4().hex[:12]}"
        kind = {"num_partitions": n_partitions, "replication_factor": 1}
        kind["configs"] = {key.replace("_", "."): value for key, value in configs.items()}
        admin.create_topics({name: kind}, wait_for_metadata=True)
        return name

    admin = KafkaAdminClient(bootstrap_servers=kafka)
    yield make
    admin.close()


@pytest.fixture
def topic(new_topic):
    """Return the name of a new topic of four partitions, empty."""
    return new_topic()


@pytest.fixture
def model_name():
    """Return the name of a model that no key of Redis has."""
    return f"model-{uuid.uuid4().hex[:12]}"
