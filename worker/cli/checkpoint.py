"""``factorstream checkpoint``: what a folder of checkpoints holds, and whether it is what the journal says."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factorstream.worker.cli.printing import Json, answer, shown_version, table

if TYPE_CHECKING:
    from factorstream.worker.adapters.files import FileCheckpoints

app = typer.Typer(help="What a folder of checkpoints holds, and whether it is whole.", no_args_is_help=True)

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, show_default=False, help="What checkpoint.dir names.")
]


@app.command(name="list")
def list_checkpoints(folder: Folder, as_json: Json = False) -> None:
    """Show the checkpoints, oldest first; every file of each is read and checked."""
    from factorstream.worker.adapters.files import FileCheckpoints

    store = FileCheckpoints(folder)
    found = [_facts(store, path) for path in store.manifests()]
    answer({"checkpoints": found}, as_json=as_json, line=_shown(found) if found else f"{folder} holds no checkpoints")


@app.command()
def verify(folder: Folder, as_json: Json = False) -> None:
    """Learn the journal again from the oldest checkpoint and compare with the newest; exit code 1 when they differ."""
    from factorstream.worker.adapters.files import FileCheckpoints
    from factorstream.worker.verification import verify as verified

    result = verified(FileCheckpoints(folder))
    found = "the journal gives the newest checkpoint" if result.ok else "the newest checkpoint is NOT what the journal gives"
    how = "bit for bit" if result.comparable and result.ok else f"largest difference {result.max_difference:g}"
    line = f"{found}, {how}: {result.replayed} entries learned again, state {result.state_hash[:16]}…"
    answer(asdict(result), as_json=as_json, line=line)
    raise typer.Exit(0 if result.ok else 1)


def _facts(store: FileCheckpoints, path: Path) -> dict[str, object]:
    from factorstream.worker.adapters.files import Damaged

    _, epoch, position, _ = path.stem.split("-")
    facts: dict[str, object] = {"version": (int(epoch), int(position)), "path": str(path)}
    try:
        manifest = store.manifest(path)
        facts |= {"n_ratings": manifest.facts.n_ratings, "offsets": manifest.facts.offsets, "bytes": manifest.size_bytes}
        store.read(manifest)
    except Damaged as error:
        return {"n_ratings": None, "offsets": None, "bytes": None} | facts | {"ok": False, "reason": str(error)}
    return facts | {"ok": True}


def _shown(found: list[dict[str, object]]) -> str:
    rows: list[tuple[str, ...]] = [("version", "ratings", "bytes", "offsets", "")]
    for facts in found:
        version, offsets = facts["version"], facts["offsets"]
        assert isinstance(version, tuple)
        at = " ".join(f"{partition}:{offset}" for partition, offset in offsets.items()) if isinstance(offsets, dict) else ""
        numbers = ("" if facts[name] is None else f"{facts[name]:,}" for name in ("n_ratings", "bytes"))
        rows.append(
            (shown_version((version[0], version[1])), *numbers, at, "ok" if facts["ok"] else f"damaged: {facts['reason']}")
        )
    return table(rows, right=[1, 2])
