"""``factorstream get``: one embedding."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from factorstream.worker.cli.options import Config, ModelName, RedisUrl, known_text
from factorstream.worker.cli.printing import Json, answer, shown_version, table
from factorstream.worker.cli.readers import open_reader

if TYPE_CHECKING:
    from factorstream import Embedding


def get(
    side: Annotated[Literal["user", "item"], typer.Argument(metavar="user|item", show_default=False)],
    row_id: Annotated[str, typer.Argument(metavar="ID", show_default=False, callback=known_text)],
    redis_url: RedisUrl = None,
    model: ModelName = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show the embedding of a user or an item; exit code 1 when it is unknown."""
    with open_reader(config, redis_url, model) as reader:
        row = reader.user(row_id) if side == "user" else reader.item(row_id)
    if row is None:
        answer(None, as_json=as_json, line=f"model {reader.model} knows no {side} {row_id!r}")
        raise typer.Exit(1)
    answer(_result(row), as_json=as_json, line=_shown(row))


def _result(row: Embedding) -> dict[str, object]:
    return {
        "id": row.id,
        "vector": row.vector.tolist(),
        "bias": row.bias,
        "n_ratings": row.n_ratings,
        "version": row.version,
        "timestamp_ms": row.timestamp_ms,
    }


def _shown(row: Embedding) -> str:
    facts = [
        (row.side, row.id),
        ("ratings", str(row.n_ratings)),
        ("newest", f"{datetime.fromtimestamp(row.timestamp_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"),
        ("version", shown_version(row.version)),
        ("bias", f"{row.bias:+.4f}"),
        ("vector", " ".join(f"{factor:+.4f}" for factor in row.vector.tolist())),
    ]
    return table(facts)
