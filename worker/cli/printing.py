"""How commands speak: one JSON object as the last line with ``--json``, a line or a table for a person without."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
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


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Return *rows* as lines, columns aligned; those of *right* on the right."""
    shown = [[cell if cell.isprintable() else ascii(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return "\n".join("  ".join(map(_aligned, row, widths, (k in right for k in range(len(row))))).rstrip() for row in shown)


def _aligned(cell: str, width: int, on_the_right: bool) -> str:
    return cell.rjust(width) if on_the_right else cell.ljust(width)


def shown_version(version: tuple[int, int]) -> str:
    """Return *version* for a person: epoch and position with a dot between."""
    return "{}.{}".format(*version)
