"""How commands speak: one JSON object as the last line with ``--json``, a line for a person without."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]


def answer(result: Mapping[str, object] | None, *, as_json: bool, line: str) -> None:
    """Print a command's result: *result* as JSON, or *line*."""
    print(json.dumps(result, ensure_ascii=False) if as_json else line, flush=True)


def note(message: str) -> None:
    """Print what takes a while, on standard error."""
    print(message, file=sys.stderr, flush=True)


def complain(message: str) -> None:
    """Print what went wrong, on standard error; nothing for an empty *message* (its author has printed already)."""
    if message:
        print(f"factorstream: {message}", file=sys.stderr, flush=True)
