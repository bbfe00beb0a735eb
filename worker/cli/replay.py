"""``factorstream replay``: a file of ratings as a stream of events."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from factorstream.rating import RATING_MAX, RATING_MIN
from factorstream.worker.cli.options import Limit, RatingsFile
from factorstream.worker.cli.printing import Json, answer, note
from factorstream.worker.cli.progress import shown
from factorstream.worker.errors import UnknownTopic


def replay(
    file: RatingsFile,
    topic: Annotated[str, typer.Option("--topic", metavar="T", show_default=False, help="Where to.")],
    kafka: Annotated[
        str, typer.Option("--kafka", metavar="ADDR", show_default=False, help="The brokers, HOST:PORT with commas between.")
    ],
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate", metavar="N", min=0.001, show_default=False, help="Events a second; not given: as fast as it goes."
        ),
    ] = None,
    limit: Limit = None,
    rating_min: Annotated[
        float, typer.Option("--rating-min", metavar="X", help="The worker's model.rating_min, where it is set.")
    ] = RATING_MIN,
    rating_max: Annotated[
        float, typer.Option("--rating-max", metavar="X", help="The worker's model.rating_max, where it is set.")
    ] = RATING_MAX,
    create: Annotated[bool, typer.Option("--create", help="Make the topic if it is missing.")] = False,
    partitions: Annotated[int, typer.Option("--partitions", metavar="P", min=1, help="Of a topic made by --create.")] = 4,
    as_json: Json = False,
) -> None:
    """Send the ratings of a file to a topic, in order of time; the events carry their own times."""
    from factorstream import Producer
    from factorstream.worker.adapters import kafka_topics
    from factorstream.worker.history import read
    from factorstream.worker.history.replay import check_acceptable
    from factorstream.worker.history.replay import replay as bursts

    history = read(file, limit)
    check_acceptable(history, rating_min, rating_max)
    if create and kafka_topics.create(kafka, topic, partitions):
        note(f"created the topic {topic!r} with {partitions} partitions")
    elif not kafka_topics.exists(kafka, topic):
        raise UnknownTopic(f"topic {topic!r} does not exist on {kafka}; --create makes it, with --partitions P")
    with Producer(kafka, topic, rating_min=rating_min, rating_max=rating_max) as producer:
        began = time.perf_counter()
        for _ in shown(
            bursts(history, producer.send, rate=rate, clock=time.perf_counter, sleep=time.sleep),
            total=len(history),
            doing="replay",
        ):
            pass
        producer.flush()
        seconds = time.perf_counter() - began
    result = {"n_sent": len(history), "seconds": round(seconds, 3), "topic": topic}
    answer(result, as_json=as_json, line=f"sent {len(history)} ratings to topic {topic} in {seconds:.1f} s")
