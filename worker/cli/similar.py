"""``factorstream similar``: items like an item."""

from __future__ import annotations

from typing import Annotated

import typer

from factorstream.worker.cli.options import Config, HowMany, ModelName, RedisUrl, known_text
from factorstream.worker.cli.printing import Json
from factorstream.worker.cli.ranking import answer_ranking
from factorstream.worker.cli.readers import open_reader


def similar(
    item_id: Annotated[str, typer.Argument(metavar="ITEM", show_default=False, callback=known_text)],
    n: HowMany = 10,
    redis_url: RedisUrl = None,
    model: ModelName = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show the items whose factors point most nearly the same way as an item's, with the cosine."""
    with open_reader(config, redis_url, model) as reader:
        ranking = reader.similar_items(item_id, n)
    nothing = f"model {reader.model} knows no item {item_id!r}, or no other"
    answer_ranking(reader.model, ranking, score="cosine", nothing=nothing, as_json=as_json)
