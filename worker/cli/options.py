"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="F", help="A TOML file of settings; 'factorstream config --reference' shows all.", show_default=False
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="K=V", help="A setting, such as model.rank=32; may be repeated.", show_default=False),
]
RatingsFile = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="CSV with the columns user_id, item_id, rating, timestamp; MovieLens u.data or ratings.dat; Parquet; "
        "a matrix (.npy, NaN: missing); also gzipped.",
        show_default=False,
    ),
]
Limit = Annotated[
    int | None, typer.Option("--limit", metavar="N", min=1, help="Only the earliest N ratings.", show_default=False)
]
RedisUrl = Annotated[
    str | None, typer.Option("--redis", metavar="URL", help="Redis; default: the setting redis.url.", show_default=False)
]
ModelName = Annotated[
    str | None, typer.Option("--model", metavar="M", help="Default: the setting model.name.", show_default=False)
]
HowMany = Annotated[int, typer.Option("-n", metavar="N", min=1, help="How many.")]


def known_text(given: str) -> str:
    """Return *given*. Raises `BadParameter` for bytes of the command line that are no UTF-8: no id has such."""
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise typer.BadParameter(f"{given!r} is not UTF-8") from error
    return given
