"""A ranking, and what it was read from."""

from __future__ import annotations

from collections.abc import Iterable

from factorstream.embedding import Version


class Ranking(list[tuple[str, float]]):
    """Ids and scores, best first: a list of pairs, of the model at `version`."""

    def __init__(self, pairs: Iterable[tuple[str, float]], version: Version) -> None:
        super().__init__(pairs)
        self.version = version
        """What the model was at when these scores were read: all of them in one answer of Redis (of each bucket)."""
