"""``factorstream config``: the settings in effect, or all there are."""

from __future__ import annotations

from typing import Annotated

import typer

from factorstream.worker.cli.options import Config, Set
from factorstream.worker.cli.printing import Json, answer


def config(
    file: Config = None,
    assignments: Set = None,
    reference: Annotated[bool, typer.Option("--reference", help="Every setting with its meaning and default, as TOML.")] = False,
    as_json: Json = False,
) -> None:
    """Show the settings in effect, whichever source they come from; a file of them is what --config takes."""
    from factorstream.worker.config import Settings, load, toml

    settings = Settings() if reference else load(file, assignments or [])
    answer(settings.model_dump(mode="json"), as_json=as_json, line=toml(settings, documented=reference).rstrip())
