"""How a ranking is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from factorstream.worker.cli.printing import answer, table

if TYPE_CHECKING:
    from factorstream import Ranking


def answer_ranking(model: str, ranking: Ranking, *, score: str, nothing: str, as_json: bool) -> None:
    """Print *ranking*: items under *score*, the name of their numbers, or *nothing* when it is empty."""
    items = [{"item_id": item_id, "score": number} for item_id, number in ranking]
    rows = [("item", score), *((item_id, f"{number:.3f}") for item_id, number in ranking)]
    result = {"model": model, "version": ranking.version, "items": items}
    answer(result, as_json=as_json, line=table(rows, right=[1]) if items else nothing)
