"""Detached processes, known by the folder they run in: nothing to lose when the program that started them crashes."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from factorstream.worker.errors import ServiceFailed, UserMistake

try:
    import psutil
except ImportError as error:
    raise UserMistake("services of this machine's own need more packages: pip install 'factorstream[local]'") from error

TAIL_LINES = 15
PORTS = range(15_000, 32_000)
"""Below the ports that systems hand to outgoing connections, so that none is taken between the search and the start."""


def spawn(command: Sequence[str], *, folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start *command* in *folder* in a session of its own, so that the terminal's Ctrl-C does not reach it."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )


def running(folder: Path, word: str) -> list[psutil.Process]:
    """Return live processes that run in *folder* and have *word* in their command line."""
    found = psutil.process_iter(["cwd", "cmdline", "status"])
    return [process for process in found if _matches(process, str(folder), word)]


def _matches(process: psutil.Process, folder: str, word: str) -> bool:
    seen = process.info
    alive = seen["status"] != psutil.STATUS_ZOMBIE
    return alive and seen["cwd"] == folder and any(word in part for part in seen["cmdline"] or ())


def stop(processes: Sequence[psutil.Process], *, patience_s: float) -> None:
    """Ask *processes* to end, and end them when *patience_s* has passed. Raises `ServiceFailed` if one survives."""
    _signal(processes, signal.SIGTERM)
    _, alive = psutil.wait_procs(processes, timeout=patience_s)
    _signal(alive, signal.SIGKILL)
    _, alive = psutil.wait_procs(alive, timeout=10)
    if alive:
        raise ServiceFailed(f"could not end process {alive[0].pid} ({alive[0].name()}); end it by hand")


def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def await_answer(
    process: subprocess.Popen[bytes], port: int, answers: Callable[[int], bool], log: Path, patience_s: float
) -> None:
    """Block until *process* itself answers on *port*.

    Raises `ServiceFailed` with the end of its *log* when it ends first, or *patience_s* has passed.
    """
    until = time.monotonic() + patience_s
    while not (answers(port) and listens(process.pid, port)):
        if process.poll() is not None:
            raise ServiceFailed(f"it ended with code {process.returncode} while starting; its log {log} ends:\n{tail(log)}")
        if time.monotonic() > until:
            raise ServiceFailed(f"it did not answer within {patience_s:.0f} s; its log {log} ends:\n{tail(log)}")
        time.sleep(0.05)


def listens(pid: int, port: int) -> bool:
    """Return whether process *pid* is who listens on *port*: an answer alone may come from a stranger."""
    try:
        sockets = psutil.Process(pid).net_connections("tcp")
    except psutil.Error:
        return False
    return any(socket.laddr.port == port for socket in sockets if socket.status == psutil.CONN_LISTEN)


def tail(log: Path) -> str:
    """Return the last lines of *log*."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join("    " + line for line in lines[-TAIL_LINES:]) or "    (empty)"


def free_port(*taken: int) -> int:
    """Return a TCP port of this machine that nobody listens on, none of *taken*."""
    for port in random.SystemRandom().sample(PORTS, 200):
        if port not in taken and is_free(port):
            return port
    raise ServiceFailed("found no free TCP port; name one with --kafka-port and --redis-port")


def is_free(port: int) -> bool:
    """Return whether *port* can be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a port of a moment ago (TIME_WAIT) counts as taken
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def ask(port: int, question: bytes, n_bytes: int) -> bytes:
    """Send *question* to *port* and return the first bytes of the answer, b"" when there is none within two seconds."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(question)
            return _read(connection, n_bytes)
    except OSError:
        return b""


def _read(connection: socket.socket, n_bytes: int) -> bytes:
    answer = b""
    while len(answer) < n_bytes and (more := connection.recv(n_bytes - len(answer))):
        answer += more
    return answer


def cache_folder() -> Path:
    """Return the user's cache folder for this project (``XDG_CACHE_HOME`` is honoured)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "factorstream"
