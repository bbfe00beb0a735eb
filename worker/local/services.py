"""Kafka and Redis of one folder, started and stopped together; ``services.json`` in it says where they are.

Which processes belong to a folder is read from the system, never from that file: a crash at any moment leaves nothing
that `stop` does not find.
"""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from factorstream.worker.errors import FactorstreamError, ServiceFailed, UserMistake
from factorstream.worker.local import kafka, processes, redis

if TYPE_CHECKING:
    import psutil

ATTEMPTS = 3
"""Starts tried when someone else takes the port found free before the service listens on it."""
STOP_PATIENCE_S = 15.0


@dataclass(frozen=True, slots=True)
class Services:
    """Where the services of a folder answer; None: not running."""

    kafka: str | None
    """``host:port``."""
    redis: str | None
    """A URL."""
    pids: dict[str, int]
    """Process ids by name, of what runs."""

    @property
    def up(self) -> bool:
        """Whether both answer."""
        return self.kafka is not None and self.redis is not None


@dataclass(frozen=True, slots=True)
class _Kind:
    word: str
    start: Callable[[Path, int], None]
    answers: Callable[[int], bool]
    address: str


KINDS = {
    "kafka": _Kind(kafka.WORD, kafka.start, kafka.answers, "127.0.0.1:{port}"),
    "redis": _Kind(redis.WORD, redis.start, redis.answers, "redis://127.0.0.1:{port}/0"),
}


def start(folder: Path, *, kafka_port: int | None = None, redis_port: int | None = None) -> Services:
    """Start what does not run yet in *folder*, wait until both answer, and say where.

    A port not named is the folder's last one if that is free, else any free one. Kafka keeps its topics in *folder*; Redis
    starts empty. Raises `ServiceFailed` with the end of the service's log, and `UserMistake` for a port that is taken; what
    this call has started is then stopped again, as it is when Ctrl-C ends it.
    """
    with _locked(folder):
        before = status(folder)
        try:
            _start_one(folder, "redis", redis_port)
            _start_one(folder, "kafka", kafka_port)
        except (FactorstreamError, KeyboardInterrupt):
            _stop(folder, KINDS.keys() - before.pids.keys())
            raise
        return _remember(folder, status(folder))


def stop(folder: Path) -> Services:
    """Stop all services of *folder*, those that a crash left behind included. Safe when nothing runs. Raises `ServiceFailed`."""
    if folder.exists():
        with _locked(folder):
            _stop(folder, KINDS.keys())
    return status(folder)


def status(folder: Path) -> Services:
    """Say what of *folder* runs and answers now; nothing for a folder that no one has started services in."""
    up = {name: port for name in KINDS if (port := _answering_port(folder, name)) is not None}
    addresses = {name: KINDS[name].address.format(port=up[name]) if name in up else None for name in KINDS}
    return Services(**addresses, pids={name: _running(folder, name)[0].pid for name in up})


def _stop(folder: Path, names: Iterable[str]) -> None:
    processes.stop([process for name in names for process in _running(folder, name)], patience_s=STOP_PATIENCE_S)


def _start_one(folder: Path, name: str, wanted_port: int | None) -> None:
    port = _answering_port(folder, name)
    if port is None:
        _stop(folder, [name])  # what a start that crashed left behind never answered
        _start_anew(folder, name, wanted_port)
    elif wanted_port not in (None, port):
        raise UserMistake(
            f"{name} of {folder} runs on port {port} already: stop the services first, or do not ask for {wanted_port}"
        )


def _start_anew(folder: Path, name: str, wanted_port: int | None) -> None:
    if wanted_port is not None and not processes.is_free(wanted_port):
        raise UserMistake(f"port {wanted_port} for {name} is taken by another program; name another, or none")
    for _ in range(ATTEMPTS - 1):
        if _attempt(folder, name, wanted_port, final=False):
            return
    _attempt(folder, name, wanted_port, final=True)


def _attempt(folder: Path, name: str, wanted_port: int | None, *, final: bool) -> bool:
    """Start one service; return False when its port was taken meanwhile. Raises `ServiceFailed` for all else, and if *final*."""
    port = wanted_port or _port_for(folder, name)
    home = _home(folder, name)
    home.mkdir(parents=True, exist_ok=True)
    (home / "port").write_text(str(port))
    try:
        KINDS[name].start(home, port)
    except ServiceFailed as failure:
        _stop(folder, [name])
        if final or processes.is_free(port):
            raise ServiceFailed(f"{name} did not start: {failure}") from failure
        return False
    return True


def _port_for(folder: Path, name: str) -> int:
    last = _last_port(folder, name)
    return last if last is not None and processes.is_free(last) else processes.free_port()


def _answering_port(folder: Path, name: str) -> int | None:
    port, running = _last_port(folder, name), _running(folder, name)
    up = port is not None and any(processes.listens(process.pid, port) for process in running) and KINDS[name].answers(port)
    return port if up else None


def _last_port(folder: Path, name: str) -> int | None:
    file = _home(folder, name) / "port"
    found = re.fullmatch(r"\d{1,5}", file.read_text()) if file.exists() else None
    return int(found[0]) if found else None


def _running(folder: Path, name: str) -> list[psutil.Process]:
    return processes.running(_home(folder, name), KINDS[name].word)


def _home(folder: Path, name: str) -> Path:
    return folder.resolve() / name


def _remember(folder: Path, services: Services) -> Services:
    (folder / "services.json").write_text(json.dumps(asdict(services), indent=1) + "\n")
    return services


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one start or stop at a time change *folder*. Raises `UserMistake` when it is no folder one can write in."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise UserMistake(f"cannot keep services in {folder}: {error.strerror}; name another folder") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
