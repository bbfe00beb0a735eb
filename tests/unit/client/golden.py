"""Write ``schemas/golden.json``: values beside their bytes, packed here by hand and not by the code that they test.

Run it after a change of the contract only: ``python tests/unit/client/golden.py``. Tests read the file and never write it.
"""

import json
import struct
import zlib
from pathlib import Path

PATH = Path(__file__).parents[3] / "schemas" / "golden.json"
BIG = {"epoch": 2**32 - 1, "position": 2**63 + 12345}
ONE = {"epoch": 1, "position": 7}


def number(x):
    return struct.pack("<f", x)


def embedding(key_id, side, factors, last, *, dtype=1, n_ratings, timestamp_ms, version, scale=None):
    header = b"FSE1" + struct.pack("<BBHII", 1, dtype, 0, len(factors), n_ratings)
    header += struct.pack("<QqII", version["position"], timestamp_ms, version["epoch"], 0)
    if dtype == 3:
        numbers = (
            number(scale) + b"".join(map(number, last)) + struct.pack(f"{len(factors)}b", *[round(x / scale) for x in factors])
        )
    else:
        numbers = struct.pack(f"<{len(factors) + 2}{'f' if dtype == 1 else 'e'}", *factors, *last)
    return {
        "id": key_id,
        "side": side,
        "dtype": {1: "float32", 2: "float16", 3: "int8"}[dtype],
        "vector": factors,
        "bias": last[0] if side == "user" else last[1],
        "augmented": [*factors, *last],
        "n_ratings": n_ratings,
        "timestamp_ms": timestamp_ms,
        "version": version,
        "bytes": (header + numbers).hex(),
    }


def uncertainty(key_id, side, variances, *, n_ratings, timestamp_ms, version):
    header = b"FSU1" + struct.pack("<BBHII", 1, 1, 0, len(variances) - 1, n_ratings)
    header += struct.pack("<QqII", version["position"], timestamp_ms, version["epoch"], 0)
    return {
        "id": key_id,
        "side": side,
        "variances": variances,
        "n_ratings": n_ratings,
        "timestamp_ms": timestamp_ms,
        "version": version,
        "bytes": (header + b"".join(map(number, variances))).hex(),
    }


def block(block_number, rows, version, rank):
    """Rows are (id, factors and last two), or None for a hole."""
    alive, ids, vectors = bytearray(128), b"", b""
    for j, row in enumerate(rows):
        alive[j // 8] |= (row is not None) << j % 8
        text = row[0].encode() if row else b""
        ids += struct.pack("<H", len(text)) + text
        vectors += b"".join(map(number, row[1] if row else [0.0] * (rank + 2)))
    ids += bytes(-len(ids) % 4)
    header = b"FSB1" + struct.pack("<BBHII", 1, 1, 0, rank, len(rows))
    header += struct.pack("<QIIII", version["position"], block_number, version["epoch"], len(ids), 0)
    return {
        "number": block_number,
        "version": version,
        "rank": rank,
        "ids": [row[0] if row else None for row in rows],
        "vectors": [row[1] if row else [0.0] * (rank + 2) for row in rows],
        "bytes": (header + bytes(alive) + ids + vectors).hex(),
    }


def versions(entries):
    packed = b"FSV1" + struct.pack("<I", len(entries))
    packed += b"".join(struct.pack("<QII", entry["position"], entry["epoch"], 0) for entry in entries)
    return {"versions": entries, "bytes": packed.hex()}


def key(model, key_id, n_buckets):
    bucket = zlib.crc32(key_id.encode()) % n_buckets
    return {
        "model": model,
        "id": key_id,
        "n_buckets": n_buckets,
        "bucket": bucket,
        "user": f"fs:{{{model}.{bucket}}}:u:{key_id}",
        "item": f"fs:{{{model}.{bucket}}}:i:{key_id}",
        "seen": f"fs:{{{model}.{bucket}}}:s:{key_id}",
        "user_uncertainty": f"fs:{{{model}.{bucket}}}:vu:{key_id}",
        "item_uncertainty": f"fs:{{{model}.{bucket}}}:vi:{key_id}",
    }


def event(value, record_timestamp_ms=1_700_000_000_000, *, schema=True, **read):
    """*schema*: whether the JSON Schema says the same; it cannot count bytes, and holds 1.0 for an integer."""
    return {"value": value, "record_timestamp_ms": record_timestamp_ms, "schema": schema, **read}


NOW = 1_700_000_000_000
RATED = {"type": "rate", "user_id": "u42", "item_id": "m7", "rating": 4.5, "timestamp_ms": NOW}
IDS = ["u42", "0111161", "-7", "é", "e\u0301", "用户", "😀", " ", "a:b{c}", "x" * 256, "é" * 128]
EVENTS = [
    event('{"user_id": "u42", "item_id": "m7", "rating": 4.5, "timestamp_ms": 1700000000000}', event=RATED),
    event('{"timestamp_ms": 1700000000000, "rating": 4.5, "item_id": "m7", "user_id": "u42", "type": "rate"}', event=RATED),
    event('{"user_id": "u42", "item_id": "m7", "rating": 4.5}', event=RATED),
    event('{"user_id": "u42", "item_id": "m7", "rating": 4.5, "timestamp_ms": 1700000000000.0, "app": {"v": [1]}}', event=RATED),
    event('{"user_id": "u42", "item_id": "m7", "rating": 4.5, "timestamp_ms": 1700003600001}', event=RATED),
    event(
        '{"user_id": "u42", "item_id": "m7", "rating": 4.5, "timestamp_ms": 1700003600000}',
        event={**RATED, "timestamp_ms": NOW + 3_600_000},
    ),
    event('{"user_id": 42, "item_id": -7, "rating": -0}', event={**RATED, "user_id": "42", "item_id": "-7", "rating": 0.0}),
    event(
        '{"user_id": "0111161", "item_id": "\\u00e9", "rating": 1e3}',
        event={**RATED, "user_id": "0111161", "item_id": "é", "rating": 1e3},
    ),
    event(
        f'{{"user_id": {2**63}, "item_id": {-(2**63)}, "rating": 1}}',
        event={**RATED, "user_id": str(2**63), "item_id": str(-(2**63)), "rating": 1.0},
    ),
    event(
        f'{{"user_id": "{"é" * 128}", "item_id": "{"x" * 256}", "rating": 1}}',
        event={**RATED, "user_id": "é" * 128, "item_id": "x" * 256, "rating": 1.0},
    ),
    event(
        '{"type": "unrate", "user_id": "u42", "item_id": "m7", "timestamp_ms": 1700000000000}',
        event={"type": "unrate", "user_id": "u42", "item_id": "m7", "timestamp_ms": NOW},
    ),
    event(
        '{"type": "forget_user", "user_id": "u42", "timestamp_ms": 1700000000000}',
        event={"type": "forget_user", "user_id": "u42", "timestamp_ms": NOW},
    ),
    event(
        '{"type": "remove_item", "item_id": "m7", "timestamp_ms": 1700000000000}',
        event={"type": "remove_item", "item_id": "m7", "timestamp_ms": NOW},
    ),
    event(None, reason="null_value"),
    event("", reason="not_json"),
    event('{"user_id": "u42"', reason="not_json"),
    event('{"user_id": "u42", "item_id": "m7", "rating": NaN}', reason="not_json"),
    event('["u42", "m7", 4.5]', reason="not_an_object"),
    event('{"type": "like", "user_id": "u42", "item_id": "m7", "rating": 1}', reason="unknown_type"),
    event('{"item_id": "m7", "rating": 1}', reason="bad_id"),
    event('{"user_id": "", "item_id": "m7", "rating": 1}', reason="bad_id"),
    event('{"user_id": "a\\u0000", "item_id": "m7", "rating": 1}', reason="bad_id"),
    event('{"user_id": true, "item_id": "m7", "rating": 1}', reason="bad_id"),
    event('{"user_id": 1.0, "item_id": "m7", "rating": 1}', reason="bad_id", schema=False),
    event('{"user_id": 1e3, "item_id": "m7", "rating": 1}', reason="bad_id", schema=False),
    event(f'{{"user_id": {2**63 + 1}, "item_id": "m7", "rating": 1}}', reason="bad_id"),
    event(f'{{"user_id": "{"x" * 257}", "item_id": "m7", "rating": 1}}', reason="bad_id"),
    event(f'{{"user_id": "{"é" * 129}", "item_id": "m7", "rating": 1}}', reason="bad_id", schema=False),
    event('{"user_id": "u42", "item_id": "m7"}', reason="bad_rating"),
    event('{"user_id": "u42", "item_id": "m7", "rating": "4.5"}', reason="bad_rating"),
    event('{"user_id": "u42", "item_id": "m7", "rating": 1000.5}', reason="bad_rating"),
    event('{"user_id": "u42", "item_id": "m7", "rating": 1, "timestamp_ms": 1700000000}', reason="bad_timestamp"),
    event('{"user_id": "u42", "item_id": "m7", "rating": 1, "timestamp_ms": 1700000000000.5}', reason="bad_timestamp"),
    event('{"user_id": "u42", "item_id": "m7", "rating": 1, "timestamp_ms": "1700000000000"}', reason="bad_timestamp"),
]

META = {
    "layout": 1,
    "journal_id": "6f1c",
    "epoch": 3,
    "rank": 16,
    "dtype": "float32",
    "loss": "squared",
    "link": "identity",
    "intercept": 3.5,
    "range": [0.5, 5.0],
    "n_users": 943,
    "n_items": 1682,
    "n_buckets": 1,
    "position": 100_000,
    "offsets": {"0": 25_000, "1": 75_000},
    "published_ms": 1_700_000_000_000,
}

ORDINAL = {**META, "loss": "ordinal", "link": "ordinal", "categories": [0.5, 1.0, 1.5], "cuts": [-1.25, 2.0], "intercept": 0.0}
UNCERTAIN = {**META, "uncertainty": {"user": [0.125, 0.25], "item": [0.0625, 0.5], "noise": 0.75, "surprise": 1.25}}
GOLDEN = {
    "keys": [key("movies", key_id, n_buckets) for key_id in IDS for n_buckets in (1, 16)],
    "embeddings": [
        embedding("u42", "user", [0.5, -0.25, 0.125], [1.5, 1.0], n_ratings=12, timestamp_ms=NOW, version=ONE),
        embedding("m7", "item", [1.0, 2.0, -4.0], [1.0, -0.75], n_ratings=4_000_000_000, timestamp_ms=NOW + 1, version=ONE),
        embedding("用户", "user", [-1.5], [0.0, 1.0], n_ratings=0, timestamp_ms=0, version=BIG),
        embedding("0111161", "item", [0.0, 0.0], [1.0, 0.0], n_ratings=1, timestamp_ms=-1, version=BIG),
        embedding("half", "user", [0.5, -65504.0, 2.0**-14], [0.25, 1.0], dtype=2, n_ratings=3, timestamp_ms=NOW, version=ONE),
        embedding(
            "byte", "item", [0.5, -64.0, 63.5], [1.0, 0.375], dtype=3, scale=0.5, n_ratings=3, timestamp_ms=NOW, version=ONE
        ),
    ],
    "uncertainties": [
        uncertainty("u42", "user", [0.5, 0.25, 0.125, 0.0625], n_ratings=12, timestamp_ms=NOW, version=ONE),
        uncertainty("0111161", "item", [0.0, 2.0**-20], n_ratings=4_000_000_000, timestamp_ms=-1, version=BIG),
    ],
    "blocks": [
        block(0, [], ONE, 2),
        block(0, [("m7", [1.0, 2.0, 1.0, -0.5])], ONE, 2),
        block(
            97, [("é", [0.5, 1.0, 0.25]), None, ("0111161", [-0.5, 1.0, 0.0]), None, None, ("x" * 256, [2.0, 1.0, 8.0])], BIG, 1
        ),
        block(4_000_000, [None] * 1023 + [("last", [0.5, 1.0, 0.25])], ONE, 1),
    ],
    "versions": [versions([]), versions([ONE, {"epoch": 0, "position": 0}, BIG])],
    "seen": [
        {"slots": slots, "bytes": struct.pack(f"<{len(slots)}I", *slots).hex()} for slots in ([], [7], [2**32 - 1, 0, 1024])
    ],
    "fences": [
        {"epoch": epoch, "sequence": sequence, "text": f"{epoch} {sequence}"}
        for epoch, sequence in ((0, 0), (1, 1234), (2**32 - 1, 2**64 - 1))
    ],
    "metas": [
        {"meta": META, "text": json.dumps(META, separators=(",", ":"))},
        {
            "meta": {**META, "range": None, "offsets": {}},
            "text": json.dumps({**META, "range": None, "offsets": {}, "of_a_newer_worker": [1]}),
        },
        {"meta": ORDINAL, "text": json.dumps(ORDINAL, separators=(",", ":"))},
        {"meta": UNCERTAIN, "text": json.dumps(UNCERTAIN, separators=(",", ":"))},
    ],
    "events": EVENTS,
}

if __name__ == "__main__":
    sections = [f'"{name}": [\n' + ",\n".join(map(json.dumps, entries)) + "\n]" for name, entries in GOLDEN.items()]
    PATH.write_text("{\n" + ",\n".join(sections) + "\n}\n")
