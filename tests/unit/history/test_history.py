"""Whatever the file's form, its ratings come out as they are, by time, ties in the order of the file."""

import csv
import gzip
import io
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factorstream.worker.errors import UserMistake
from factorstream.worker.history import read
from factorstream.worker.history import text as text_files
from factorstream.worker.history.dense import read as read_matrix

awkward = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40)
plain = st.text("0123456789abcü._-", min_size=1, max_size=8)
ratings = st.floats(-1000, 1000, width=32)
times = st.integers(0, 10**10)


def read_text(content, path, limit=None, **parts):
    return text_files.read(io.BytesIO(content), path, limit, **parts)


def rows(ids):
    return st.lists(st.tuples(ids, ids, ratings, times), min_size=1, max_size=30)


def columns(history):
    users = [history.user_names[code] for code in history.user_codes]
    items = [history.item_names[code] for code in history.item_codes]
    return list(zip(users, items, history.ratings.tolist(), history.timestamps_ms.tolist(), strict=True))


def expected(ratings):
    return [(u, i, x, 1000 * t) for u, i, x, t in sorted(ratings, key=lambda row: row[3])]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@given(rows(awkward), st.permutations(["user_id", "item_id", "rating", "timestamp", "comment"]), st.sampled_from(["\n", "\r\n"]))
def test_a_csv_file_is_what_a_csv_writer_wrote(ratings, header, line_end):
    file = io.StringIO()
    # before Python 3.13 the writer leaves a carriage return unquoted where lines end in another way
    returns = any("\r" in user + item for user, item, _, _ in ratings)
    writer = csv.writer(file, lineterminator=line_end, quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL)
    writer.writerow(header)
    for user, item, rating, time in ratings:
        fields = {"user_id": user, "item_id": item, "rating": rating, "timestamp": time, "comment": f'{item}, "{user}"'}
        writer.writerow([fields[name] for name in header])
    assert columns(read_text(file.getvalue().encode(), "F")) == expected(ratings)


@given(rows(awkward), st.integers(1, 300), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_however_a_file_is_cut_into_blocks_it_says_the_same(ratings, block_bytes, line_end, has_mark):
    file = io.StringIO()
    writer = csv.writer(file, lineterminator=line_end, quoting=csv.QUOTE_ALL)
    writer.writerows([["user_id", "item_id", "rating", "timestamp"], *ratings])
    content = b"\xef\xbb\xbf" * has_mark + file.getvalue().encode()
    cut, whole = read_text(content, "F", block_bytes=block_bytes), read_text(content, "F")
    assert columns(cut) == expected(ratings)
    assert (cut.user_names, cut.item_names) == (whole.user_names, whole.item_names)


@given(rows(plain), st.integers(1, 300))
def test_a_mistake_is_told_with_its_line_however_the_file_is_cut(ratings, block_bytes):
    lines = ["\t".join(map(str, row)) for row in ratings]
    content = "\n".join([*lines, "", "u\ti\tthree\t4", *lines]).encode()
    with pytest.raises(UserMistake, match=f"F, line {len(lines) + 2} is .*the rating 'three' is not a number"):
        read_text(content, "F", block_bytes=block_bytes)


@pytest.mark.parametrize("separator", ["\t", "::"])
@given(rows(plain))
def test_movielens_files_need_no_header(separator, ratings):
    lines = [separator.join(map(str, row)) for row in ratings]
    assert columns(read_text("\n".join(lines).encode(), "F")) == expected(ratings)


@given(rows(plain), st.integers(1, 40))
def test_a_limit_takes_the_earliest(ratings, limit):
    lines = "".join("\t".join(map(str, row)) + "\n" for row in ratings)
    history = read_text(lines.encode(), "F", limit)
    assert columns(history) == expected(ratings)[:limit]
    assert list(dict.fromkeys(history.user_codes.tolist())) == list(range(len(history.user_names)))
    assert list(dict.fromkeys(history.item_codes.tolist())) == list(range(len(history.item_names)))


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.sampled_from(["{!r}", "{:+.9e}", " {:.50f} ", "{:.9E}"]))
def test_numbers_are_read_as_python_reads_them(number, form):
    text = form.format(number)
    assert read_text(f"u\ti\t{text}\t5".encode(), "F").ratings[0] == pytest.approx(float(text), rel=1e-7, abs=1e-45)


@pytest.mark.parametrize("text", ["3", "3.5", "4.0", "0.5", "10", "-2.25", "7e-1", "123456.789"])
def test_usual_ratings_are_exact(text):
    assert read_text(f"u\ti\t{text}\t5".encode(), "F").ratings[0] == np.float32(text)


def test_ids_are_text(tmp_path):
    path = write(tmp_path / "f.csv", "user_id,item_id,rating,timestamp\n007,0111161,4,1\n7,111161,5,2\n 7,1e3,5,3\n")
    history = read(path)
    assert (history.user_names, history.item_names) == (["007", "7", " 7"], ["0111161", "111161", "1e3"])


def test_a_file_is_known_by_its_content_not_its_name(tmp_path):
    content = "userId,movieId,rating,timestamp\n1,2,3.5,964982703\n\n1,3,4.0,964981247\n"
    paths = [write(tmp_path / "a.bin", content), write(tmp_path / "b", gzip.compress(content.encode()))]
    paths.append(write(tmp_path / "c", b"\xef\xbb\xbf" + content.encode()))
    wanted = [("1", "3", 4.0, 964981247000), ("1", "2", 3.5, 964982703000)]
    assert [columns(read(path)) for path in paths] == [wanted] * 3


def test_times_may_have_fractions(tmp_path):
    assert read(write(tmp_path / "f", "a\tb\t1\t1700000000.125\n")).timestamps_ms.tolist() == [1700000000125]


def test_many_names_are_told_apart():
    lines = "".join(f"user {n}\titem {n % 70_001}\t{n % 5}\t{n}\n" for n in range(150_000))
    history = read_text(lines.encode(), "F")
    assert history.user_names == [f"user {n}" for n in range(150_000)]
    assert [history.item_names[code] for code in history.item_codes[-3:]] == [
        f"item {n % 70_001}" for n in range(149_997, 150_000)
    ]


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


@given(ratings=rows(awkward))
def test_parquet_holds_the_same(tmp_path_factory, ratings):
    users, items, stars, seconds = zip(*ratings, strict=True)
    path = tmp_path_factory.getbasetemp() / "ratings.parquet"
    parquet(path, timestamp=seconds, rating=stars, item_id=pa.array(items).dictionary_encode(), user_id=users, other=users)
    assert columns(read(path)) == expected(ratings)


def test_parquet_ids_may_be_integers_and_times_timestamps(tmp_path):
    time = pa.array([1_700_000_000_000_000], pa.timestamp("us", "UTC"))
    path = parquet(tmp_path / "f", user_id=[-7], item_id=pa.array([2**64 - 1], pa.uint64()), rating=[4], timestamp=time)
    assert columns(read(path)) == [("-7", str(2**64 - 1), 4.0, 1700000000000)]


HEADER = "user_id,item_id,rating,timestamp\n"
BAD = {
    "": "is empty",
    "  \n": "is empty",
    HEADER: "holds no ratings",
    "u,i,3,4\n": "CSV whose header names 'user_id,item_id,rating,timestamp'",
    "hello world\n": "none of the formats",
    "user_id,item_id,rating\nu,i,3\n": "lacks the column timestamp",
    "user_id,item_id,rating,timestamp,rating\n": "names a column twice",
    HEADER + "u,i,4,5\nu,i,3\n": "line 3 is 'u,i,3': it has too few fields",
    HEADER + "u,i,4,5\n\nu,i,x,7\r\n": "line 4 is 'u,i,x,7': the rating 'x' is not a number",
    HEADER + "u,i,nan,7": "the rating 'nan'",
    HEADER + "u,i,1e39,7": "the rating '1e39'",
    HEADER + "u,i,,7": "the rating ''",
    HEADER + "u,i,3,7,9": "more fields than the header",
    HEADER + ",i,3,7": "the id '' is not 1 to 256 bytes",
    HEADER + "a\0b,i,3,7": "without NUL",
    HEADER + "u," + "i" * 257 + ",3,7": "is not 1 to 256 bytes",
    HEADER + "u,i,3,1700000000000": "looks like milliseconds",
    HEADER + "u,i,3,today": "the timestamp 'today'",
    HEADER + 'u,"i,3,4\n': "never closed",
    b"a\tb\t3\t4\na\t\xff\t3\t4": "line 2: the id b'\\xff' is not UTF-8",
    "u\ti\t3\n": "too few fields",
    b"\x1f\x8bxyz": "damaged or cut short",
    gzip.compress(HEADER.encode() * 99, mtime=0)[:-9]: "damaged or cut short",
    b"PAR1" + struct.pack("<Q", 5): "begins like Parquet",
}


@pytest.mark.parametrize("content", BAD, ids=lambda content: repr(content)[:40])
def test_what_cannot_be_read_is_told_in_one_line(content, tmp_path):
    path = write(tmp_path / "f", content)
    with pytest.raises(UserMistake) as mistake:
        read(path)
    assert str(mistake.value).startswith(str(path))
    assert BAD[content] in str(mistake.value)
    assert "\n" not in str(mistake.value)


def test_a_file_that_is_not_there_is_a_mistake(tmp_path):
    with pytest.raises(UserMistake, match="no such file"):
        read(tmp_path / "missing")
    with pytest.raises(UserMistake, match="cannot be read: Is a directory"):
        read(tmp_path)


BAD_PARQUET = {
    "lacks the column item_id": {"user_id": ["u"], "rating": [1.0], "timestamp": [1]},
    "row 1 has no rating": {"user_id": ["u"] * 2, "item_id": ["i"] * 2, "rating": [1.0, None], "timestamp": [1, 2]},
    "the rating nan is not finite": {"user_id": ["u"], "item_id": ["i"], "rating": [float("nan")], "timestamp": [1]},
    "ids are strings or integers": {"user_id": [1.5], "item_id": ["i"], "rating": [1.0], "timestamp": [1]},
    "the id '' is not": {"user_id": [""], "item_id": ["i"], "rating": [1.0], "timestamp": [1]},
    "looks like milliseconds": {"user_id": ["u"], "item_id": ["i"], "rating": [1.0], "timestamp": [1_700_000_000_000]},
    "the column rating holds string": {"user_id": ["u"], "item_id": ["i"], "rating": ["4"], "timestamp": [1]},
}


@pytest.mark.parametrize("problem", BAD_PARQUET)
def test_parquet_that_is_not_a_history_is_told_in_one_line(problem, tmp_path):
    path = parquet(tmp_path / "f.parquet", **BAD_PARQUET[problem])
    with pytest.raises(UserMistake, match=problem):
        read(path)


@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.lists(st.one_of(st.just(np.nan), st.integers(-2, 5).map(float)), min_size=36, max_size=36),
    st.booleans(),
    st.integers(1, 40),
)
def test_a_matrix_is_its_places_row_after_row(n_users, n_items, values, zero_is_missing, limit):
    matrix = np.array(values[: n_users * n_items]).reshape(n_users, n_items)
    wanted = [
        (str(user), str(item), matrix[user, item], 0)
        for user, item in np.ndindex(matrix.shape)
        if not (np.isnan(matrix[user, item]) or (zero_is_missing and matrix[user, item] == 0))
    ]
    file = io.BytesIO()
    np.save(file, matrix)
    if not wanted:
        with pytest.raises(UserMistake, match="holds no ratings"):
            read_matrix(file.getvalue(), "F", zero_is_missing=zero_is_missing)
        return
    history = read_matrix(file.getvalue(), "F", limit, zero_is_missing=zero_is_missing)
    assert columns(history) == wanted[:limit]
    assert (len(history.user_names), len(history.item_names)) == matrix.shape, "empty rows and columns stay"


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (np.zeros(3), "a matrix of numbers is wanted"),
        (np.zeros((2, 2), "U3"), "a matrix of numbers is wanted"),
        (np.array([[1.0, np.inf]]), "row 0, column 1: inf is no finite rating"),
        (np.array([[None]], object), "cannot be read"),
    ],
)
def test_what_is_no_matrix_of_ratings_is_told(array, why, tmp_path):
    np.save(tmp_path / "matrix.npy", array)
    with pytest.raises(UserMistake, match=why):
        read(tmp_path / "matrix.npy")


def test_only_in_a_matrix_may_zero_be_missing(tmp_path):
    with pytest.raises(UserMistake, match="--zero-is-missing is about a matrix"):
        read(write(tmp_path / "u.data", "1\t2\t0\t4\n"), zero_is_missing=True)
