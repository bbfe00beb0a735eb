"""Lines of text become columns: ids interned as codes, ratings and times as numbers, at some 100 ns a line."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.compiled import compiled, inlined
from factorstream.worker.kernels.memory import reserve

U8 = NDArray[np.uint8]

IGNORED, USER, ITEM, RATING, TIME = -1, 0, 1, 2, 3
"""What a field is."""
DONE, FULL, MISSING_FIELD, SURPLUS_FIELD, BAD_ID, BAD_RATING, BAD_TIME, OPEN_QUOTE = range(8)
"""How reading ended. FULL: a table of names wants `doubled`; all above it: the line cannot be read."""

NEWLINE, RETURN, SPACE, QUOTE = ord("\n"), ord("\r"), ord(" "), ord('"')
PLUS, MINUS, POINT, ZERO, NINE = ord("+"), ord("-"), ord("."), ord("0"), ord("9")
MOST_ID_BYTES = 256
MOST_SECONDS = 1e11
"""The year 5138; a larger number is a time in milliseconds."""
MOST_DIGITS = 18
"""Of an int64."""
POWERS = 10.0 ** np.arange(23)
"""Those that a double holds exactly."""


class Names(NamedTuple):
    """Distinct ids in the order they were met: that of code c is ``content[ends[c]:ends[c + 1]]``."""

    content: U8
    ends: NDArray[np.int64]
    slots: NDArray[np.int32]
    """Hash table: code + 1; 0: empty. Its length is a power of two."""
    n: NDArray[np.int64]
    """``(1,)``, how many."""


class Dialect(NamedTuple):
    """How a line is divided."""

    separator: U8
    """One or two bytes."""
    quoted: bool
    """Whether a field may stand in double quotes, and quotes in it are doubled."""
    surplus: bool
    """Whether a line may have more fields than `places`; they are ignored."""
    places: NDArray[np.int64]
    """What each field is."""


class Columns(NamedTuple):
    """One entry a line; with room for all."""

    user_codes: NDArray[np.int32]
    item_codes: NDArray[np.int32]
    ratings: NDArray[np.float32]
    timestamps_ms: NDArray[np.int64]


class Stop(NamedTuple):
    """Where reading ended."""

    status: int
    position: int
    """Of the first line not read."""
    n_lines: int
    """Entries filled so far."""
    first: int
    """The field that cannot be read is ``text[first:stop]``."""
    stop: int


def new_names(n_slots: int) -> Names:
    """Return an empty table with *n_slots*, a power of two, and room for as many bytes as memory has."""
    return Names(
        reserve((), np.uint8, huge_pages=False),
        np.zeros(n_slots // 2 + 2, np.int64),
        np.zeros(n_slots, np.int32),
        np.zeros(1, np.int64),
    )


def new_columns() -> Columns:
    """Return columns with room for as many lines as memory has; only what is filled costs any."""
    return Columns(*(reserve((), kind, huge_pages=False) for kind in (np.int32, np.int32, np.float32, np.int64)))


def doubled(names: Names) -> Names:
    """Return *names* with twice the slots."""
    n_slots = 2 * len(names.slots)
    wider = Names(names.content, np.zeros(n_slots // 2 + 2, np.int64), np.zeros(n_slots, np.int32), names.n)
    wider.ends[: len(names.ends)] = names.ends
    _fill_slots(wider)
    return wider


def size_bytes(names: Names) -> int:
    """Return how many bytes of *names*' content are in use."""
    return int(names.ends[names.n[0]])


def is_full(names: Names) -> bool:
    """Return whether `read_lines` ended for want of slots in *names*."""
    return bool(2 * (names.n[0] + 1) > len(names.slots))


@compiled
def read_lines(
    text: U8, position: int, n_lines: int, dialect: Dialect, users: Names, items: Names, columns: Columns
) -> tuple[int, int, int, int, int]:
    """Read lines of *text* from *position* into *columns* from *n_lines* on; return a `Stop`. Blank lines are skipped.

    Ends of lines are LF or CRLF; a quoted field may hold them.
    """
    places = dialect.places
    size = len(text)
    while position < size:
        if text[position] == NEWLINE:
            position += 1
            continue
        if text[position] == RETURN and (position + 1 == size or text[position + 1] == NEWLINE):
            position += 2
            continue
        if 2 * (users.n[0] + 1) > len(users.slots) or 2 * (items.n[0] + 1) > len(items.slots):
            return FULL, position, n_lines, 0, 0
        at, k, n_found = position, 0, 0
        more = True
        while more:
            first, stop, at, more, escaped = _field(text, at, dialect)
            if stop < first:
                return OPEN_QUOTE, position, n_lines, first, size
            place = places[k] if k < len(places) else IGNORED
            if k >= len(places) and not dialect.surplus:
                return SURPLUS_FIELD, position, n_lines, first, stop
            k += 1
            if place == IGNORED:
                continue
            n_found += 1
            if place in (USER, ITEM):
                code = _intern(users if place == USER else items, text, first, stop, escaped)
                if code < 0:
                    return BAD_ID, position, n_lines, first, stop
                if place == USER:
                    columns.user_codes[n_lines] = code
                else:
                    columns.item_codes[n_lines] = code
                continue
            good, mantissa, exponent = _decimal(text, first, stop)
            value = _scaled(mantissa, exponent)
            if place == RATING:
                columns.ratings[n_lines] = value
                if not (good and np.isfinite(columns.ratings[n_lines])):
                    return BAD_RATING, position, n_lines, first, stop
            else:
                if not (good and abs(value) < MOST_SECONDS):
                    return BAD_TIME, position, n_lines, first, stop
                columns.timestamps_ms[n_lines] = mantissa * 1000 if exponent == 0 else np.int64(np.rint(value * 1000.0))
        if n_found < 4:
            return MISSING_FIELD, position, n_lines, position, at
        n_lines += 1
        position = at
    return DONE, size, n_lines, 0, 0


@inlined
def _field(text: U8, at: int, dialect: Dialect) -> tuple[int, int, int, bool, bool]:
    """Return the field at *at*: content ``first, stop``, where the next begins, whether it is of this line, has doubled quotes.

    ``stop < first``: the quote is never closed.
    """
    size = len(text)
    first, escaped = at, False
    content_stop = -1
    if dialect.quoted and at < size and text[at] == QUOTE:
        first = at + 1
        at = first
        while at < size:
            if text[at] == QUOTE:
                if at + 1 < size and text[at + 1] == QUOTE:
                    escaped = True
                    at += 1
                else:
                    break
            at += 1
        if at >= size:
            return first, first - 1, size, False, False
        content_stop = at
        at += 1
    separator, second = dialect.separator[0], dialect.separator[-1]
    width = len(dialect.separator)
    while at < size:
        byte = text[at]
        if byte == separator and (width == 1 or (at + 1 < size and text[at + 1] == second)):
            return first, (content_stop if content_stop >= 0 else at), at + width, True, escaped
        if byte == NEWLINE:
            break
        at += 1
    end = at - 1 if at > first and text[at - 1] == RETURN else at
    return first, (content_stop if content_stop >= 0 else end), at + 1, False, escaped


@inlined
def _intern(names: Names, text: U8, first: int, stop: int, escaped: bool) -> int:
    """Return the code of the id ``text[first:stop]``, a new one when it was not met before; -1 for no id."""
    n = names.n[0]
    start = names.ends[n]
    end = start
    while first < stop:
        byte = text[first]
        if byte == 0 or end - start == MOST_ID_BYTES:
            return -1
        names.content[end] = byte
        end += 1
        first += 2 if escaped and byte == QUOTE else 1
    if end == start:
        return -1
    slot = _slot(names, start, end)
    if names.slots[slot] == 0:
        names.slots[slot] = n + 1
        names.ends[n + 1] = end
        names.n[0] = n + 1
    return int(names.slots[slot]) - 1


@inlined
def _slot(names: Names, start: int, end: int) -> int:
    """Return the slot of the id ``content[start:end]``: the one that holds it, or the empty one where it belongs."""
    hashed = np.uint64(14695981039346656037)  # FNV-1a
    for at in range(start, end):
        hashed = (hashed ^ np.uint64(names.content[at])) * np.uint64(1099511628211)
    hashed ^= hashed >> np.uint64(32)
    mask = len(names.slots) - 1
    slot = int(np.int64(hashed & np.uint64(mask)))
    while names.slots[slot]:
        code = names.slots[slot] - 1
        known = names.ends[code]
        if names.ends[code + 1] - known == end - start:
            same = True
            for j in range(end - start):
                if names.content[known + j] != names.content[start + j]:
                    same = False
                    break
            if same:
                break
        slot = (slot + 1) & mask
    return slot


@compiled
def _fill_slots(names: Names) -> None:
    """Enter all names into empty slots."""
    for code in range(names.n[0]):
        names.slots[_slot(names, names.ends[code], names.ends[code + 1])] = code + 1


@inlined
def _scaled(mantissa: int, exponent: int) -> float:
    """Return ``mantissa * 10**exponent``."""
    if 0 <= exponent < len(POWERS):
        return mantissa * float(POWERS[exponent])
    if 0 < -exponent < len(POWERS):
        return mantissa / float(POWERS[-exponent])
    return float(mantissa * 10.0**exponent)


@inlined
def _decimal(text: U8, first: int, stop: int) -> tuple[bool, int, int]:
    """Read ``[+-]digits[.digits][e[+-]digits]``, spaces around it allowed: whether it is one, and ``mantissa, exponent`` of ten.

    Digits beyond an int64's 18 are dropped.
    """
    while first < stop and text[first] == SPACE:
        first += 1
    while first < stop and text[stop - 1] == SPACE:
        stop -= 1
    negative = first < stop and text[first] == MINUS
    if first < stop and (negative or text[first] == PLUS):
        first += 1
    mantissa, exponent, n_digits, n_kept = 0, 0, 0, 0
    after_point = False
    while first < stop:
        byte = text[first]
        if ZERO <= byte <= NINE:
            n_digits += 1
            if n_kept < MOST_DIGITS:
                mantissa = 10 * mantissa + int(np.int64(byte)) - ZERO
                n_kept += 1 if mantissa else 0
                exponent -= 1 if after_point else 0
            elif not after_point:
                exponent += 1
        elif byte == POINT and not after_point:
            after_point = True
        else:
            break
        first += 1
    good = n_digits > 0
    if good and first < stop and (text[first] | 32) == ord("e"):
        first += 1
        down = first < stop and text[first] == MINUS
        if first < stop and (down or text[first] == PLUS):
            first += 1
        power = 0
        good = first < stop
        while first < stop and ZERO <= text[first] <= NINE:
            power = min(10 * power + int(np.int64(text[first])) - ZERO, 10_000)
            first += 1
        exponent += -power if down else power
    if mantissa == 0:
        exponent = 0
    return good and first == stop, -mantissa if negative else mantissa, exponent
