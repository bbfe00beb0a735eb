"""MovieLens-100K with titles and genres, out of a published Python package that carries it.

The GroupLens licence allows research use but not redistribution, so no repository or wheel of ours holds the data.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from factorstream.worker.errors import DataUnavailable

PACKAGE = "recbole==1.2.0"
WITHIN = "recbole/dataset_example/ml-100k/ml-100k."
PATIENCE_S = 90
RATINGS, FILMS = "u.data", "films.tsv"


@dataclass(frozen=True, slots=True)
class MovieLens:
    """100,000 ratings of 1,682 films by 943 people, 1997 to 1998."""

    ratings: Path
    """In u.data form: user, item, rating, unix seconds; tab separated; in no order of time."""
    titles: dict[str, str]
    """By item id, with the year: ``"50": "Star Wars (1977)"``."""
    genres: dict[str, tuple[str, ...]]
    """By item id."""


def fetch(folder: Path) -> MovieLens:
    """Return MovieLens-100K from *folder*, downloading it on the first call. Raises `DataUnavailable` within two minutes."""
    if not ((folder / RATINGS).exists() and (folder / FILMS).exists()):
        _download(folder)
    films = [line.split("\t") for line in (folder / FILMS).read_text(encoding="utf-8").splitlines()]
    titles = {item_id: f"{title} ({year})" if year else title for item_id, title, year, _ in films}
    return MovieLens(folder / RATINGS, titles, {item_id: tuple(genres.split()) for item_id, _, _, genres in films})


def _download(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        wheel = _wheel(Path(scratch))
        for name, part in ((RATINGS, "inter"), (FILMS, "item")):
            partial = Path(scratch) / name
            partial.write_text("".join(line + "\n" for line in _rows(wheel, part)), encoding="utf-8")
            partial.replace(folder / name)


def _wheel(scratch: Path) -> Path:
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--timeout",
        "10",
        "--retries",
        "1",
    ]
    command = [*pip, "download", "--no-deps", "--only-binary", ":all:", "--dest", str(scratch), PACKAGE]
    try:
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired as error:
        raise _unavailable(f"no answer within {PATIENCE_S} s") from error
    except subprocess.CalledProcessError as error:
        raise _unavailable(
            error.stderr.strip().splitlines()[-1] if error.stderr.strip() else f"pip: {error.returncode}"
        ) from error
    return next(scratch.glob("recbole-*.whl"))


def _rows(wheel: Path, part: str) -> Iterator[str]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            yield from archive.read(WITHIN + part).decode("utf-8").splitlines()[1:]  # the first names the columns
    except (KeyError, zipfile.BadZipFile) as error:
        raise _unavailable(f"{wheel.name} holds no {WITHIN}{part}: {error}") from error


def _unavailable(why: str) -> DataUnavailable:
    return DataUnavailable(f"could not fetch MovieLens-100K out of the Python package {PACKAGE} ({why}); check the network")
