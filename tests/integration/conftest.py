"""Places for real workers."""

import subprocess
import sys

import pytest

from tests.integration.real_worker import Place, PrivateRedis

COMPILE = (
    "from factorstream.worker.config import load; from factorstream.worker.wiring import learner_of, warm_up;"
    "settings = load(None, [], {}); warm_up(learner_of(settings), settings)"
)


@pytest.fixture(scope="session")
def compiled():
    """Have a machine that has never run a worker compile it, so that no test waits for that."""
    subprocess.run([sys.executable, "-c", COMPILE], check=True, timeout=600)


@pytest.fixture
def make_place(kafka, redis_url, tmp_path, compiled):
    """Return a function that makes a place with a topic, a model and a folder of its own; its workers end with the test."""

    def make(**parts):
        parts.setdefault("folder", tmp_path / f"checkpoints-{len(places)}")
        places.append(Place(**{"kafka": kafka, "redis_url": redis_url, **parts}))
        return places[-1]

    places = []
    yield make
    for place in places:
        place.close()


@pytest.fixture
def place(make_place):
    """Return a place."""
    return make_place()


@pytest.fixture
def private_redis(tmp_path):
    """Return a Redis that may be killed, running."""
    server = PrivateRedis(tmp_path / "redis")
    server.start()
    yield server
    server.kill()
