"""Which kind of file it is: told by its content, never by its name."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import Any

from factorstream.worker.errors import UserMistake
from factorstream.worker.history import dense, parquet, text
from factorstream.worker.history.history import History

GZIP, PARQUET, NUMPY = b"\x1f\x8b", b"PAR1", b"\x93NUMPY"


def read(path: Path, limit: int | None = None, *, zero_is_missing: bool = False) -> History:
    """Read ratings: CSV with a header, MovieLens's ``u.data`` and ``ratings.dat``; Parquet; a matrix (``.npy``); also gzipped.

    Sorted stably by time; *limit* counts after sorting. Ids are text. Raises `UserMistake` for what cannot be read.

    Args:
        zero_is_missing: Whether a 0 in a matrix is no rating; nothing but a matrix may be read so.
    """
    try:
        with path.open("rb") as file:
            if not file.peek(len(GZIP)).startswith(GZIP):
                return _read(file, str(path), limit, zero_is_missing=zero_is_missing)
            with io.BufferedReader(gzip.GzipFile(fileobj=file)) as unpacked:
                return _read(unpacked, str(path), limit, zero_is_missing=zero_is_missing)
    except FileNotFoundError as error:
        raise UserMistake(f"{path}: there is no such file") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserMistake(f"{path} is gzipped, but damaged or cut short ({error}); get it anew") from error
    except OSError as error:
        raise UserMistake(f"{path} cannot be read: {error.strerror}") from error


def _read(file: io.BufferedReader[Any], path: str, limit: int | None, *, zero_is_missing: bool) -> History:
    begins = file.peek(len(NUMPY))
    if begins.startswith(NUMPY):
        return dense.read(file.read(), path, limit, zero_is_missing=zero_is_missing)
    if zero_is_missing:
        raise UserMistake(f"--zero-is-missing is about a matrix (.npy), and {path} is a list of ratings: leave it out")
    if begins.startswith(PARQUET):
        return parquet.read(file.read(), path, limit)
    return text.read(file, path, limit)
