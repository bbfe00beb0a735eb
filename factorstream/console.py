"""The ``factorstream`` command, as the bare package has it: it hands over to the worker, or says what to install."""

from __future__ import annotations

import sys
from importlib.util import find_spec

NEEDED = ("typer", "rich", "numba", "pydantic", "prometheus_client", "structlog")
"""What ``factorstream[worker]`` installs and the commands import."""


def main() -> None:
    """Run the command line of the worker; exit with 2 when the worker's libraries are not installed."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(
            f"factorstream: this is the client alone ({', '.join(missing)} missing); "
            "for the commands: pip install 'factorstream[worker]'",
            file=sys.stderr,
        )
        sys.exit(2)
    from factorstream.worker.cli.main import main as run

    run()
