"""A reader of the model that a command's options mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from factorstream import Reader


def open_reader(config: Path | None, redis_url: str | None, model: str | None) -> Reader:
    """Return a reader of *model* at *redis_url*, either from the settings where not given. Raises errors for a person."""
    from factorstream import Reader
    from factorstream.worker.config import load

    settings = load(config)
    return Reader(redis_url or settings.redis.url, model or settings.model.name)
