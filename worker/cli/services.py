"""``factorstream services``: a real Kafka and a real Redis on this machine, without Docker."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factorstream.worker.cli.printing import Json, answer, note

if TYPE_CHECKING:
    from factorstream.worker.local.services import Services

app = typer.Typer(help="A real Kafka and a real Redis on this machine, without Docker.", no_args_is_help=True)

Folder = Annotated[Path, typer.Option("--dir", metavar="D", help="Folder of their data, logs and addresses.", file_okay=False)]
Port = Annotated[int | None, typer.Option(min=1, max=65535, help="A free one when not given.", show_default=False)]


@app.command()
def start(folder: Folder, kafka_port: Port = None, redis_port: Port = None, as_json: Json = False) -> None:
    """Start both, detached, and wait until they answer; what runs already stays."""
    from factorstream.worker.local import kafka, services

    if not kafka.is_fetched():
        note("fetching Apache Kafka (43 MB, once) …")
    _say(services.start(folder, kafka_port=kafka_port, redis_port=redis_port), as_json)


@app.command()
def stop(folder: Folder, as_json: Json = False) -> None:
    """Stop both, also what a crash left behind."""
    from factorstream.worker.local import services

    _say(services.stop(folder), as_json)


@app.command()
def status(folder: Folder, as_json: Json = False) -> None:
    """Say where both answer; exit code 1 when one does not."""
    from factorstream.worker.local import services

    found = services.status(folder)
    _say(found, as_json)
    raise typer.Exit(0 if found.up else 1)


def _say(found: Services, as_json: bool) -> None:
    line = "   ".join(f"{name}: {address or 'not running'}" for name, address in (("kafka", found.kafka), ("redis", found.redis)))
    answer(asdict(found), as_json=as_json, line=line)
