"""Records as `kafka_records` reads them are those that kafka-python reads."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from factorstream.worker.adapters.kafka_records import read_batch, read_content_type, read_unsigned

payloads = st.none() | st.binary(max_size=40) | st.integers(0, 40_000).map(bytes)
names = st.sampled_from(["content-type", "traceparent", "ü", ""])
headers = st.lists(st.tuples(names, st.none() | st.binary(max_size=20) | st.just(b"avro/binary")), max_size=3)
steps = st.sampled_from([0, 1, 63, 64, 8191, 8192, 2**31])
records = st.tuples(steps, st.integers(-(2**40), 2**40), payloads, payloads, headers)


def built(records, *, compression=0, log_append=False):
    """Return the bytes of a batch, as kafka-python writes it."""
    builder = DefaultRecordBatchBuilder(2, compression, False, -1, -1, -1, 1 << 30)
    offset = 0
    for step, timestamp_ms, key, value, pairs in records:
        builder.append(offset, 10**12 + timestamp_ms, key, value, pairs)
        offset += 1 + step % 10_000
    buffer = builder.build()
    if log_append:
        buffer[DefaultRecordBatch.ATTRIBUTES_OFFSET + 1] |= DefaultRecordBatch.TIMESTAMP_TYPE_MASK
    return bytes(buffer)


def expected(buffer):
    """Return what kafka-python reads."""
    return [
        (record.offset, record.timestamp, record.value, last_content_type(record.headers))
        for record in DefaultRecordBatch(buffer)
    ]


def last_content_type(pairs):
    found = [value.decode("utf-8", "replace") for name, value in pairs if name == "content-type" and value is not None]
    return found[-1] if found else None


@given(st.lists(records, min_size=1, max_size=8), st.sampled_from([0, 1]), st.booleans())
def test_a_batch_is_read_as_kafka_python_reads_it(records, compression, log_append):
    buffer = built(records, compression=compression, log_append=log_append)
    assert read_batch(DefaultRecordBatch(buffer)) == expected(buffer)


def test_many_records_with_the_same_headers_have_the_same_content_type():
    kinds = ["a", "a", None, "b", "b", "a"]
    records = [(0, 0, b"k", b"v", [("content-type", kind.encode())] if kind else []) for kind in kinds]
    assert [record[3] for record in read_batch(DefaultRecordBatch(built(records)))] == kinds


@given(st.integers(0, 2**63 - 1), st.binary(max_size=3), st.binary(max_size=3))
def test_integers_of_any_length_are_read(number, before, after):
    rest, encoded = number, bytearray()
    while rest > 127:
        encoded.append(128 | rest & 127)
        rest >>= 7
    encoded.append(rest)
    assert read_unsigned(before + encoded + after, len(before)) == (number, len(before) + len(encoded))


@given(st.lists(records, min_size=1, max_size=3), st.data())
def test_a_batch_that_is_cut_is_corrupt(records, data):
    buffer = built(records)
    n_bytes = data.draw(st.integers(DefaultRecordBatch.HEADER_STRUCT.size, len(buffer) - 1))
    with pytest.raises(CorruptRecordError):
        read_batch(DefaultRecordBatch(buffer[:n_bytes]))


def test_headers_with_bytes_left_over_are_corrupt():
    with pytest.raises(CorruptRecordError):
        read_content_type(b"\0\0")


def test_compressed_batches_are_smaller_and_read_the_same():
    records = [(0, n, b"u1", b"x" * 500, []) for n in range(50)]
    plain, compressed = built(records), built(records, compression=1)
    assert len(compressed) < len(plain) / 5
    assert gzip.decompress(compressed[DefaultRecordBatch.HEADER_STRUCT.size :])
    assert read_batch(DefaultRecordBatch(compressed)) == read_batch(DefaultRecordBatch(plain))
