"""Ratings as lines of text: CSV with a header, or MovieLens's ``u.data`` (tabs) and ``ratings.dat`` (``::``)."""

from __future__ import annotations

import csv
from itertools import pairwise

import numpy as np

from factorstream.worker.errors import UserMistake
from factorstream.worker.history.history import History, in_order
from factorstream.worker.kernels.text import (
    BAD_ID,
    BAD_RATING,
    BAD_TIME,
    DONE,
    FULL,
    IGNORED,
    ITEM,
    MISSING_FIELD,
    OPEN_QUOTE,
    RATING,
    SURPLUS_FIELD,
    TIME,
    USER,
    Columns,
    Dialect,
    Names,
    Stop,
    doubled,
    is_full,
    new_names,
    read_lines,
)

COLUMNS = {"user_id": USER, "item_id": ITEM, "rating": RATING, "timestamp": TIME}
ALIASES = {"userId": "user_id", "movieId": "item_id"}
"""Of MovieLens's own CSV files."""
WANTED = "'user_id,item_id,rating,timestamp' in any order, timestamp in unix seconds"
BOM = b"\xef\xbb\xbf"
SHOWN = 120
FIRST_SLOTS = 1 << 16
PROBLEMS = {
    MISSING_FIELD: "it has too few fields",
    SURPLUS_FIELD: "it has more fields than the header; a value with a comma in it stands in double quotes",
    BAD_ID: "the id {field!r} is not 1 to 256 bytes without NUL",
    BAD_RATING: "the rating {field!r} is not a number",
    BAD_TIME: "the timestamp {field!r} is not a time in unix seconds",
    OPEN_QUOTE: "a double quote is opened and never closed",
}


def read(content: bytes, path: str, limit: int | None = None) -> History:
    """Return the ratings of *content*; *path* names it in messages. Raises `UserMistake`."""
    content = content.removeprefix(BOM)
    dialect, start = _dialect(content, path)
    text = np.frombuffer(content, np.uint8)
    n = content.count(b"\n", start) + 1
    columns = Columns(np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.float32), np.empty(n, np.int64))
    users = new_names(FIRST_SLOTS, len(content))
    items = new_names(FIRST_SLOTS, len(content))
    stop = Stop(FULL, start, 0, 0, 0)
    while stop.status == FULL:
        stop = Stop(*read_lines(text, stop.position, stop.n_lines, dialect, users, items, columns))
        users, items = (doubled(names) if is_full(names) else names for names in (users, items))
    if stop.status != DONE:
        raise _bad_line(content, path, stop)
    if not stop.n_lines:
        raise UserMistake(f"{path} holds no ratings: {'the header is all there is' if start else 'it is empty'}")
    n = stop.n_lines
    return in_order(
        (columns.user_codes[:n], _texts(users, content, path)),
        (columns.item_codes[:n], _texts(items, content, path)),
        columns.ratings[:n],
        columns.timestamps_ms[:n],
        limit,
    )


def _dialect(content: bytes, path: str) -> tuple[Dialect, int]:
    """Return how *content* is divided, and where its first rating begins."""
    end = content.find(b"\n")
    end = len(content) if end < 0 else end
    first = content[:end].decode(errors="replace").strip("\r")
    if not content.strip():
        raise UserMistake(f"{path} is empty; it should begin with a header that names {WANTED}")
    if "\t" in first or ("::" in first and "," not in first):
        separator = "\t" if "\t" in first else "::"
        header = first.split(separator)
        places = _places(header)
        if set(COLUMNS.values()) <= set(places):
            return Dialect(_bytes(separator), False, False, np.array(places)), end + 1
        return Dialect(_bytes(separator), False, True, np.array([USER, ITEM, RATING, TIME])), 0
    header = next(csv.reader([first]))
    places = _places(header)
    missing = [name for name, place in COLUMNS.items() if place not in places]
    if "," not in first or len(missing) == len(COLUMNS):
        raise UserMistake(
            f"{path} is none of the formats read here (its first line is {_shown(first)}): CSV whose header names {WANTED}; "
            "MovieLens's u.data (tabs) or ratings.dat (::); each also gzipped; Parquet"
        )
    if missing:
        raise UserMistake(f"{path} lacks the column {' and '.join(missing)}: its header {_shown(first)} should name {WANTED}")
    if len(set(places) - {IGNORED}) < sum(place != IGNORED for place in places):
        raise UserMistake(f"{path} names a column twice: {_shown(first)}")
    return Dialect(_bytes(","), True, False, np.array(places)), end + 1


def _places(header: list[str]) -> list[int]:
    return [COLUMNS.get(ALIASES.get(name.strip(), name.strip()), IGNORED) for name in header]


def _bytes(separator: str) -> np.typing.NDArray[np.uint8]:
    return np.array(list(separator.encode()), np.uint8)


def _texts(names: Names, content: bytes, path: str) -> list[str]:
    """Return the ids by code. Raises `UserMistake` for bytes that are no UTF-8."""
    n = int(names.n[0])
    ends = names.ends[: n + 1].tolist()
    block = names.content[: ends[-1]].tobytes()
    try:
        return [block[first:stop].decode() for first, stop in pairwise(ends)]
    except UnicodeDecodeError as error:
        n_line = content.count(b"\n", 0, content.find(error.object)) + 1
        raise UserMistake(f"{path}, line {n_line}: the id {error.object!r} is not UTF-8; convert the file first") from error


def _bad_line(content: bytes, path: str, stop: Stop) -> UserMistake:
    n_line = content.count(b"\n", 0, stop.position) + 1
    end = content.find(b"\n", stop.position)
    line = content[stop.position : len(content) if end < 0 else end].decode(errors="replace").rstrip("\r")
    field = content[stop.first : stop.stop].decode(errors="replace")[:SHOWN]
    problem = PROBLEMS[stop.status].format(field=field)
    hint = "; it looks like milliseconds" if stop.status == BAD_TIME and field.strip().isdigit() else ""
    return UserMistake(f"{path}, line {n_line} is {_shown(line)}: {problem}{hint}")


def _shown(line: str) -> str:
    return repr(line) if len(line) <= SHOWN else repr(line[:SHOWN]) + "…"
