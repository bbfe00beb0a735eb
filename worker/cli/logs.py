"""Logs: one event a line on standard error; for a person on a terminal, JSON elsewhere."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog


class LastingStderr:
    """Standard error, without what cannot be written: no full disk under a log file, and no reader that left, ends a worker."""

    def write(self, text: str) -> None:
        """Write *text* if that can be done."""
        with suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        """Flush if that can be done."""
        with suppress(OSError):
            sys.stderr.flush()


def log_to_stderr() -> Any:
    """Set up structured logs; return a logger."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what matters of it becomes an error of ours
    on_terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer() if on_terminal else structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, LastingStderr())),
        cache_logger_on_first_use=False,
    )
    return structlog.get_logger()
