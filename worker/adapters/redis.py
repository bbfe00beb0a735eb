"""The table of embeddings in Redis, with redis-py: one fenced transaction a write."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from factorstream.worker.adapters.fenced import FencedPublisher
from factorstream.worker.adapters.packing import Changes
from factorstream.worker.adapters.resp import command, mset
from factorstream.worker.errors import PublisherPaused, PublisherUnavailable, UserMistake
from factorstream.worker.ports import Takeover

log = structlog.get_logger()

SCANNED_AT_ONCE = 1000
PAUSE_PER_FAILURE = 4.0
"""After a failed attempt, none is made for this many times as long as it took: a Redis that is away must not hold up learning."""
MIN_PAUSE_S, MAX_PAUSE_S = 0.1, 15.0


class RedisTable:
    """Keys and values in one Redis. A connection that broke is made anew by the next call, after a pause."""

    def __init__(self, url: str, *, timeout_s: float = 3.0, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Connect later.

        Args:
            timeout_s: How long to wait for Redis to accept a connection, and for each answer.

        Raises:
            UserMistake: *url* is none of Redis.
        """
        try:
            self._client = redis.Redis.from_url(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                retry=Retry(NoBackoff(), 0),  # a transaction repeated blindly might undo a newer one
            )
            pool = self._client.connection_pool
            pool.connection_class(**pool.connection_kwargs)  # connects to nothing, but minds a parameter that there is not
        except (TypeError, ValueError) as error:
            raise UserMistake(f"redis.url is no address of a Redis ({error}); write redis://HOST:6379/0") from error
        self.address = _address(self._client.connection_pool.connection_kwargs)
        self._clock_s = clock_s
        self._again_at_s = 0.0
        self._failure = ""

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._connected() as connection:
            return _exchange(connection, [command(b"GET", key) for key in keys])

    def write(self, fence_key: bytes, expected: Collection[bytes | None], changes: Changes, fence: bytes) -> bytes | None:
        commands = [command(b"MULTI")]
        if changes.removed:
            commands.append(command(b"UNLINK", *changes.removed))
        if changes.keys:
            commands.append(mset(changes.keys, changes.values))
        commands += [command(b"SET", fence_key, fence), command(b"EXEC")]
        with self._connected() as connection:
            while True:
                found: bytes | None = _exchange(connection, [command(b"WATCH", fence_key), command(b"GET", fence_key)])[1]
                if found not in expected:
                    _exchange(connection, [command(b"UNWATCH")])
                    return found
                if _exchange(connection, commands)[-1] is not None:
                    return found

    def scan(self, prefix: bytes) -> Iterator[list[bytes]]:
        cursor = b"0"
        while True:
            with self._connected() as connection:
                [(cursor, keys)] = _exchange(
                    connection, [command(b"SCAN", cursor, b"MATCH", prefix + b"*", b"COUNT", b"%d" % SCANNED_AT_ONCE)]
                )
            yield keys
            if cursor == b"0":
                return

    def heads(self, keys: Sequence[bytes], n_bytes: int) -> list[bytes]:
        with self._connected() as connection:
            return _exchange(connection, [command(b"GETRANGE", key, b"0", b"%d" % (n_bytes - 1)) for key in keys])

    def evicting_policy(self) -> str | None:
        """Return the ``maxmemory-policy`` by which this Redis may drop keys; None when it keeps them, or does not tell."""
        with self._connected() as connection:
            try:
                [found] = _exchange(connection, [command(b"CONFIG", b"GET", b"maxmemory-policy")])
            except redis.ResponseError:  # forbidden, as where Redis is rented
                return None
        policy = _text(found)
        return None if policy in ("", "noeviction") else policy

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """Lend a connection. Raises `PublisherUnavailable` when anything goes wrong on it, and at once for a while after."""
        if self._clock_s() < self._again_at_s:
            raise PublisherPaused(str(self._unavailable(self._failure)))
        began_s = self._clock_s()
        try:
            with self._lent() as connection:
                yield connection
        except (redis.RedisError, OSError) as error:
            now_s = self._clock_s()
            self._again_at_s = now_s + min(MAX_PAUSE_S, max(MIN_PAUSE_S, PAUSE_PER_FAILURE * (now_s - began_s)))
            self._failure = f"{type(error).__name__}: {error}"
            raise self._unavailable(self._failure) from error

    @contextmanager
    def _lent(self) -> Iterator[Any]:
        """Lend a connection and close it if it was left in the middle: its next answer would be to an older question."""
        connection: Any = self._client.connection_pool.get_connection()
        whole = False
        try:
            yield connection
            whole = True
        finally:
            if not whole:
                connection.disconnect()
            self._client.connection_pool.release(connection)

    def _unavailable(self, why: str) -> PublisherUnavailable:
        return PublisherUnavailable(
            f"Redis at {self.address} does not take writes ({why}); see that it runs, that it has memory left, and redis.url"
        )

    def close(self) -> None:
        self._client.close()


class RedisPublisher(FencedPublisher):
    """Publishes a model to Redis."""

    def __init__(
        self,
        url: str,
        model: str = "default",
        *,
        n_buckets: int = 1,
        uncertainty: bool = False,
        replace: bool = False,
        timeout_s: float = 3.0,
    ) -> None:
        """Connect later. Raises `UserMistake` for an unusable *url*, `InvalidModelName`."""
        self._redis = RedisTable(url, timeout_s=timeout_s)
        super().__init__(self._redis, model, n_buckets=n_buckets, uncertainty=uncertainty, replace=replace)

    def take(self, epoch: int, journal_id: str, left: int | None) -> Takeover:
        takeover = super().take(epoch, journal_id, left)
        policy = self._redis.evicting_policy()
        if policy is not None:
            log.warning("this Redis drops keys when its memory is full: set maxmemory-policy noeviction", maxmemory_policy=policy)
        return takeover


def _exchange(connection: Any, commands: Sequence[bytes]) -> list[Any]:
    """Send *commands* in one go; return an answer for each. Raises `redis.ResponseError` for the first that is an error."""
    connection.send_packed_command(commands)
    answers = [connection.read_response() for _ in commands]
    _raise_errors(answers[-1] if commands else None)
    return answers


def _raise_errors(answer: object) -> None:
    """Raise the first error among the answers of a transaction, which are not raised when they are read."""
    if isinstance(answer, list):
        for part in answer:
            if isinstance(part, redis.RedisError):
                raise part


def _text(found: object) -> str:
    """Return the value in the answer to CONFIG GET: a mapping, or a list of names and values."""
    values = list(found.values()) if isinstance(found, dict) else list(found)[1::2] if isinstance(found, list) else []
    return values[0].decode() if values else ""


def _address(settings: dict[str, Any]) -> str:
    """Return where a client connects to, without user and password."""
    if "path" in settings:
        return str(settings["path"])
    return f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}/{settings.get('db', 0)}"
