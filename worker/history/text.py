"""Ratings as lines of text: CSV with a header, or MovieLens's ``u.data`` (tabs) and ``ratings.dat`` (``::``)."""

from __future__ import annotations

import csv
from itertools import pairwise
from typing import BinaryIO

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
    MOST_ID_BYTES,
    OPEN_QUOTE,
    RATING,
    SURPLUS_FIELD,
    TIME,
    USER,
    Dialect,
    Names,
    Stop,
    doubled,
    is_full,
    new_columns,
    new_names,
    read_lines,
    size_bytes,
)

COLUMNS = {"user_id": USER, "item_id": ITEM, "rating": RATING, "timestamp": TIME}
ALIASES = {"userId": "user_id", "movieId": "item_id"}
"""Of MovieLens's own CSV files."""
WANTED = "'user_id,item_id,rating,timestamp' in any order, timestamp in unix seconds"
BOM = b"\xef\xbb\xbf"
SHOWN = 120
FIRST_SLOTS = 1 << 16
BLOCK_BYTES = 1 << 25
PROBLEMS = {
    MISSING_FIELD: "it has too few fields",
    SURPLUS_FIELD: "it has more fields than the header; a value with a comma in it stands in double quotes",
    BAD_ID: "the id {field!r} is not 1 to 256 bytes without NUL",
    BAD_RATING: "the rating {field!r} is not a number",
    BAD_TIME: "the timestamp {field!r} is not a time in unix seconds",
    OPEN_QUOTE: "a double quote is opened and never closed",
}


def read(file: BinaryIO, path: str, limit: int | None = None, *, block_bytes: int = BLOCK_BYTES) -> History:
    """Return the ratings of *file*, read in blocks of about *block_bytes*: memory is needed for the columns and for one of these.

    *path* names it in messages. Raises `UserMistake`.
    """
    block = Block(file, path, block_bytes)
    while not block.is_last and b"\n" not in block.content.lstrip():
        block.extend()
    block.content = block.content.removeprefix(BOM)
    dialect, start = _dialect(block.content, path)
    gathered = Gathered()
    gathered.take(block, start, dialect)
    while not block.is_last:
        block.extend()
        gathered.take(block, 0, dialect)
    if not gathered.n_lines:
        raise UserMistake(f"{path} holds no ratings: {'the header is all there is' if start else 'it is empty'}")
    columns, n = gathered.columns, gathered.n_lines
    users, items = (columns.user_codes[:n], gathered.user_names), (columns.item_codes[:n], gathered.item_names)
    return in_order(users, items, columns.ratings[:n], columns.timestamps_ms[:n], limit)


class Block:
    """The part of a file that is being read."""

    def __init__(self, file: BinaryIO, path: str, size_bytes: int) -> None:
        self._file, self.path, self._size_bytes = file, path, size_bytes
        self.content = b""
        """It begins where a line does."""
        self.is_last = False
        self._n_lines_before = 0

    def extend(self) -> None:
        """Take in what comes next: at least as much as is left, so that a long line is not looked at again and again."""
        wanted = max(self._size_bytes, len(self.content))
        more = self._file.read(wanted)
        self.content += more
        self.is_last = len(more) < wanted

    @property
    def end(self) -> int:
        """Where its last whole line ends; a quoted field may still be open there."""
        return len(self.content) if self.is_last else self.content.rfind(b"\n") + 1

    def drop(self, n_bytes: int) -> None:
        """Leave out its beginning, which was read."""
        self._n_lines_before += self.content.count(b"\n", 0, n_bytes)
        self.content = self.content[n_bytes:]

    def line_number(self, position: int) -> int:
        """Return which line of the file is at *position*."""
        return self._n_lines_before + self.content.count(b"\n", 0, position) + 1


class Gathered:
    """What was read so far."""

    def __init__(self) -> None:
        self.columns = new_columns()
        self.n_lines = 0
        self.user_names: list[str] = []
        self.item_names: list[str] = []
        self._users, self._items = new_names(FIRST_SLOTS), new_names(FIRST_SLOTS)

    def take(self, block: Block, start: int, dialect: Dialect) -> None:
        """Read the lines of *block* from *start* on, and drop them from it; what a quote left open waits for the next block."""
        text = np.frombuffer(block.content, np.uint8)[: block.end]
        columns = self.columns
        room = min(len(columns.user_codes), len(columns.item_codes), len(columns.ratings), len(columns.timestamps_ms))
        if self.n_lines + block.content.count(b"\n") >= room:
            raise MemoryError(f"{block.path} holds more ratings than address space was reserved for (is there a `ulimit -v`?)")
        if any(size_bytes(names) + len(text) + MOST_ID_BYTES > len(names.content) for names in (self._users, self._items)):
            raise MemoryError(f"{block.path} holds more bytes of ids than address space was reserved for, at most 2 GiB a side")
        stop = Stop(FULL, start, self.n_lines, 0, 0)
        while stop.status == FULL:
            stop = Stop(*read_lines(text, stop.position, stop.n_lines, dialect, self._users, self._items, self.columns))
            self._users, self._items = (doubled(names) if is_full(names) else names for names in (self._users, self._items))
        if stop.status != DONE and (stop.status != OPEN_QUOTE or block.is_last):
            raise _bad_line(block, stop)
        self.n_lines = stop.n_lines
        _take_texts(self._users, self.user_names, block)
        _take_texts(self._items, self.item_names, block)
        block.drop(stop.position)


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


def _take_texts(names: Names, texts: list[str], block: Block) -> None:
    """Add to *texts* the ids of *names* that *block* brought. Raises `UserMistake` for bytes that are no UTF-8."""
    ends = names.ends[len(texts) : int(names.n[0]) + 1].tolist()
    content = names.content[ends[0] : ends[-1]].tobytes()
    try:
        texts.extend([content[first - ends[0] : stop - ends[0]].decode() for first, stop in pairwise(ends)])
    except UnicodeDecodeError as error:
        n_line = block.line_number(block.content.find(error.object))
        raise UserMistake(f"{block.path}, line {n_line}: the id {error.object!r} is not UTF-8; convert the file first") from error


def _bad_line(block: Block, stop: Stop) -> UserMistake:
    content = block.content
    end = content.find(b"\n", stop.position)
    line = content[stop.position : len(content) if end < 0 else end].decode(errors="replace").rstrip("\r")
    field = content[stop.first : stop.stop].decode(errors="replace")[:SHOWN]
    problem = PROBLEMS[stop.status].format(field=field)
    hint = "; it looks like milliseconds" if stop.status == BAD_TIME and field.strip().isdigit() else ""
    return UserMistake(f"{block.path}, line {block.line_number(stop.position)} is {_shown(line)}: {problem}{hint}")


def _shown(line: str) -> str:
    return repr(line) if len(line) <= SHOWN else repr(line[:SHOWN]) + "…"
