"""Commands of ours as processes beside this one: the worker and the replay of a demonstration."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from factorstream.worker.errors import ServiceFailed
from factorstream.worker.local import processes

WORD = "factorstream.worker.cli.main"
"""What each of them has in its command line."""
PATIENCE_S = 30.0


class Child:
    """``factorstream ARGUMENTS…`` in a folder, detached from the terminal: its Ctrl-C does not reach it."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "log"
        self._name = f"factorstream {arguments[0]}"
        self._process = processes.spawn([sys.executable, "-m", WORD, *arguments], folder=folder.resolve(), log=self.log)

    def running(self) -> bool:
        """Return whether it still runs. Raises `ServiceFailed`, with the end of its log, when it failed."""
        code = self._process.poll()
        if code:
            raise ServiceFailed(f"{self._name} ended with exit code {code}; its log {self.log} ends:\n{processes.tail(self.log)}")
        return code is None

    def settle(self) -> None:
        """Ask it to end and wait until it has. Raises `ServiceFailed` when it fails or takes too long."""
        self._process.terminate()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            raise ServiceFailed(
                f"{self._name} did not end within {PATIENCE_S:.0f} s of being asked to; see {self.log}"
            ) from error
        self.running()


def stop(folder: Path) -> None:
    """End what `Child` has started in *folder*, also what a crash left behind."""
    processes.stop(processes.running(folder.resolve(), WORD), patience_s=5.0)
