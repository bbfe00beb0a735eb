"""Publishing to a Redis that is away, comes back, stops answering, is full, or drops keys."""

import contextlib
import threading
import time
import uuid

import psutil
import pytest
import redis
import structlog

from factorstream.embedding import unpack
from factorstream.keys import user_key
from factorstream.worker.adapters.redis import RedisPublisher, RedisTable
from factorstream.worker.errors import Fenced, PublisherUnavailable, UserMistake
from factorstream.worker.local import processes
from factorstream.worker.local import redis as local_redis
from tests.contracts.test_publisher import JOURNAL, publication


class Server:
    """A Redis of one test's own."""

    def __init__(self, folder):
        self.folder = folder
        self.port = processes.free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self):
        local_redis.start(self.folder, self.port)
        [self.process] = processes.running(self.folder, local_redis.WORD)

    def stop(self):
        processes.stop(processes.running(self.folder, local_redis.WORD), patience_s=5)

    def client(self):
        return redis.Redis.from_url(self.url)


@pytest.fixture
def server(tmp_path):
    made = Server(tmp_path)
    made.start()
    yield made
    with contextlib.suppress(psutil.NoSuchProcess):
        made.process.resume()
    made.stop()


def started(url, **settings):
    publisher = RedisPublisher(url, "m", **settings)
    publisher.take(publisher.peek()[0] + 1, JOURNAL, None)
    return publisher


def await_published(publisher, position, patience_s=10.0):
    """Publish until Redis takes it; return whether it was found as left."""
    until_s = time.monotonic() + patience_s
    while True:
        try:
            return publisher.publish(publication(position, ["u1"]))
        except PublisherUnavailable:
            assert time.monotonic() < until_s
            time.sleep(0.02)


def test_a_redis_that_is_not_there_is_named_without_its_password():
    port = processes.free_port()
    publisher = RedisPublisher(f"redis://:secret@127.0.0.1:{port}/3")
    with pytest.raises(PublisherUnavailable, match=rf"127\.0\.0\.1:{port}/3.*redis\.url") as caught:
        publisher.peek()
    assert "secret" not in str(caught.value)


def test_an_url_that_is_none_is_the_users_mistake():
    with pytest.raises(UserMistake, match=r"redis\.url"):
        RedisPublisher("localhost:6379")


def test_publishing_goes_on_when_redis_is_back_without_its_memory(server):
    publisher = started(server.url)
    assert publisher.publish(publication(1, ["u1"]))
    server.stop()
    with pytest.raises(PublisherUnavailable):
        publisher.publish(publication(2, ["u1"]))
    server.start()
    assert not await_published(publisher, 3)
    assert publisher.publish(publication(4, ["u1"]))
    with server.client() as client:
        assert unpack("u1", "user", client.get(user_key("m", "u1"))).version == (1, 4)


def test_a_redis_that_stops_answering_costs_little_time(server):
    publisher = started(server.url, timeout_s=0.3)
    server.process.suspend()
    began_s = time.monotonic()
    for position in range(200):
        with pytest.raises(PublisherUnavailable):
            publisher.publish(publication(position, ["u1"]))
    assert time.monotonic() - began_s < 2.0
    server.process.resume()
    assert await_published(publisher, 300)


def test_a_full_redis_says_so_and_keeps_what_it_has(server):
    publisher = started(server.url)
    publisher.publish(publication(1, ["u1"]))
    with server.client() as client:
        client.config_set("maxmemory", 1)
        with pytest.raises(PublisherUnavailable, match="memory"):
            publisher.publish(publication(2, ["u1"]))
        assert unpack("u1", "user", client.get(user_key("m", "u1"))).version == (1, 1)
        client.config_set("maxmemory", 0)
    assert await_published(publisher, 3)


def test_an_evicting_redis_is_warned_of(server):
    with server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    with structlog.testing.capture_logs() as logs:
        started(server.url)
    assert [entry["maxmemory_policy"] for entry in logs] == ["allkeys-lru"]
    with server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
    with structlog.testing.capture_logs() as logs:
        started(server.url)
    assert logs == []


def test_a_redis_that_hides_its_settings_is_not_warned_of(server):
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-config")
    assert RedisTable(server.url).evicting_policy() is None
    assert started(server.url).publish(publication(1, ["u1"]))


def test_readers_see_all_rows_of_a_transaction_or_none(server):
    publisher = started(server.url)
    names = [f"u{number}" for number in range(50)]
    publisher.publish(publication(0, names))
    done = threading.Event()
    seen = set()

    def read():
        keys = [user_key("m", name) for name in names]
        with server.client() as client:
            while not done.is_set():
                seen.add(frozenset(unpack("", "user", value).version for value in client.mget(keys)))

    reader = threading.Thread(target=read)
    reader.start()
    for position in range(1, 300):
        publisher.publish(publication(position, names))
    done.set()
    reader.join()
    assert all(len(versions) == 1 for versions in seen)
    assert len(seen) > 5


def test_a_worker_overtaken_while_it_publishes_writes_nothing_afterwards(redis_url):
    names = [f"u{number}" for number in range(300)]
    for _ in range(20):
        model = f"test-{uuid.uuid4().hex[:8]}"
        old, new = RedisPublisher(redis_url, model), RedisPublisher(redis_url, model)
        old.take(1, JOURNAL, None)
        fenced = threading.Event()

        def publish_on(old=old, fenced=fenced):
            with contextlib.suppress(Fenced):
                for position in range(100_000):
                    old.publish(publication(position, names))
                return
            fenced.set()

        worker = threading.Thread(target=publish_on)
        worker.start()
        time.sleep(0.01)
        new.take(2, JOURNAL, None)
        with redis.Redis.from_url(redis_url) as client:
            keys = [user_key(model, name) for name in names]
            then = client.mget(keys)
            worker.join(10)
            assert fenced.is_set()
            assert client.mget(keys) == then
            client.delete(*client.scan_iter(f"fs:{{{model}.*", count=10_000))
