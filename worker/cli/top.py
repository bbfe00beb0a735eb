"""``factorstream top``: what a user would like best."""

from __future__ import annotations

from typing import Annotated

import typer

from factorstream.worker.cli.options import Config, HowMany, ModelName, RedisUrl, known_text
from factorstream.worker.cli.printing import Json, note
from factorstream.worker.cli.ranking import answer_ranking
from factorstream.worker.cli.readers import open_reader


def top(
    user_id: Annotated[str, typer.Argument(metavar="USER", show_default=False, callback=known_text)],
    n: HowMany = 10,
    redis_url: RedisUrl = None,
    model: ModelName = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show the items with the highest predicted rating for a user, those already rated left out."""
    with open_reader(config, redis_url, model) as reader:
        ranking = reader.top_n(user_id, n)
        if reader.user(user_id) is None:
            note(f"model {reader.model} knows no user {user_id!r}: this is its ranking for anybody")
    nothing = f"model {reader.model} has no items yet"
    answer_ranking(reader.model, ranking, score="predicted", nothing=nothing, as_json=as_json)
