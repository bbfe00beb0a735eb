"""Laws of the bytes in Redis: golden vectors both ways, round trips, and no half value ever read as a whole one."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factorstream import InvalidModelName, Meta, UnreadableValue, keys
from factorstream.blocks import VERSIONS, pack_block, pack_versions, unpack_block, unpack_versions
from factorstream.embedding import pack_many, unpack
from factorstream.fence import Fence, pack_fence, unpack_fence
from factorstream.meta import pack_meta, unpack_meta
from factorstream.prediction import category_probabilities, link
from factorstream.seen import pack_seen, unpack_seen
from factorstream.uncertainty import pack_uncertainties, score_variances, unpack_uncertainty

GOLDEN = json.loads((Path(__file__).parents[3] / "schemas" / "golden.json").read_text())

u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
ids = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=64)


def version_of(golden):
    return golden["version"]["epoch"], golden["version"]["position"]


@pytest.mark.parametrize("golden", GOLDEN["keys"], ids=lambda golden: f"{golden['id'][:8]} of {golden['n_buckets']}")
def test_keys_are_the_golden_ones(golden):
    model, key_id, n_buckets = golden["model"], golden["id"], golden["n_buckets"]
    assert keys.bucket_of(key_id, n_buckets) == golden["bucket"]
    assert keys.user_key(model, key_id, n_buckets) == golden["user"]
    assert keys.item_key(model, key_id, n_buckets) == golden["item"]
    assert keys.seen_key(model, key_id, n_buckets) == golden["seen"]
    assert keys.user_uncertainty_key(model, key_id, n_buckets) == golden["user_uncertainty"]
    assert keys.item_uncertainty_key(model, key_id, n_buckets) == golden["item_uncertainty"]


def test_keys_of_a_model_as_a_whole():
    assert keys.block_key("movies", 9) == "fs:{movies.0}:block:9"
    assert keys.block_key("movies", 9, 4) == "fs:{movies.1}:block:9"
    assert keys.blocks_key("movies") == "fs:{movies.0}:blocks"
    assert keys.meta_key("movies") == "fs:{movies.0}:meta"
    assert keys.fence_key("movies", 3) == "fs:{movies.3}:fence"


@pytest.mark.parametrize("model", ["", "a b", "{x}", "a.0", "é", "x" * 65, "a\n"])
def test_a_model_name_that_cannot_stand_in_a_key_is_refused(model):
    with pytest.raises(InvalidModelName):
        keys.check_model_name(model)


@pytest.mark.parametrize("golden", GOLDEN["embeddings"], ids=lambda golden: golden["id"])
def test_embeddings_are_read_as_the_golden_ones(golden):
    embedding = unpack(golden["id"], golden["side"], bytes.fromhex(golden["bytes"]))
    assert embedding.id == golden["id"]
    assert embedding.vector.tolist() == golden["vector"]
    assert embedding.augmented.tolist() == golden["augmented"]
    assert embedding.augmented.dtype == np.float32
    assert embedding.bias == golden["bias"]
    assert embedding.n_ratings == golden["n_ratings"]
    assert embedding.timestamp_ms == golden["timestamp_ms"]
    assert embedding.version == version_of(golden)


@pytest.mark.parametrize(
    "golden", [golden for golden in GOLDEN["embeddings"] if golden["dtype"] == "float32"], ids=lambda golden: golden["id"]
)
def test_embeddings_are_written_as_the_golden_ones(golden):
    epoch, position = version_of(golden)
    columns = (
        np.array([golden["augmented"]], np.float32),
        np.array([golden["n_ratings"]], np.uint32),
        np.array([golden["timestamp_ms"]]),
    )
    assert pack_many(*columns, epoch=epoch, position=position) == [bytes.fromhex(golden["bytes"])]


@given(st.lists(st.tuples(st.tuples(*[numbers] * 4), u32, st.integers(-(2**63), 2**63 - 1)), max_size=5), u32, u64)
def test_embeddings_written_are_those_read(rows, epoch, position):
    vectors = np.array([numbers for numbers, _, _ in rows], np.float32).reshape(-1, 4)
    n_ratings = np.array([n for _, n, _ in rows], np.uint32)
    times = np.array([time for _, _, time in rows], np.int64)
    packed = pack_many(vectors, n_ratings, times, epoch=epoch, position=position)
    read = [unpack("x", "item", value) for value in packed]
    assert np.array_equal([row.augmented for row in read], vectors) or not rows
    assert [(row.n_ratings, row.timestamp_ms, row.version) for row in read] == [
        (n, time, (epoch, position)) for _, n, time in rows
    ]


@pytest.mark.parametrize("golden", GOLDEN["uncertainties"], ids=lambda golden: golden["id"])
def test_uncertainties_are_the_golden_ones(golden):
    packed, (epoch, position) = bytes.fromhex(golden["bytes"]), version_of(golden)
    variances = np.array([golden["variances"]], np.float32)
    columns = variances, np.array([golden["n_ratings"]], np.uint32), np.array([golden["timestamp_ms"]])
    assert pack_uncertainties(*columns, epoch=epoch, position=position) == [packed]
    read = unpack_uncertainty(golden["id"], golden["side"], packed)
    assert (read.id, read.side, read.version) == (golden["id"], golden["side"], (epoch, position))
    assert np.array_equal(read.variances, variances[0])


def test_variances_of_scores_are_those_of_scores_of_rows_drawn_at_random():
    rng = np.random.default_rng(1)
    user, items = rng.normal(0, 1, 3), rng.normal(0, 1, (4, 3))
    user_variances, item_variances = rng.uniform(0.1, 1, 4), rng.uniform(0.1, 1, (4, 4))
    n = 200_000
    users_drawn = rng.normal(np.append(user, 0.5), np.sqrt(user_variances), (n, 4))
    found = score_variances(user, user_variances, items, item_variances)
    for item, variances, variance in zip(items, item_variances, found, strict=True):
        items_drawn = rng.normal(np.append(item, -0.5), np.sqrt(variances), (n, 4))
        scores = (users_drawn[:, :3] * items_drawn[:, :3]).sum(axis=1) + users_drawn[:, 3] + items_drawn[:, 3]
        assert variance == pytest.approx(scores.var(), rel=0.03)


@pytest.mark.parametrize("golden", GOLDEN["blocks"], ids=lambda golden: f"block {golden['number']}")
def test_blocks_are_the_golden_ones(golden):
    packed, (epoch, position) = bytes.fromhex(golden["bytes"]), version_of(golden)
    vectors = np.array(golden["vectors"], np.float32).reshape(-1, golden["rank"] + 2)
    assert pack_block(golden["number"], golden["ids"], vectors, epoch=epoch, position=position) == packed
    block = unpack_block(packed)
    assert (block.number, block.version, block.ids) == (golden["number"], version_of(golden), golden["ids"])
    assert np.array_equal(block.vectors, vectors)


@given(st.lists(st.one_of(st.none(), st.tuples(ids, numbers)), max_size=1024), u32, u32, u64)
def test_a_block_written_is_the_block_read_and_holes_are_zeros(rows, number, epoch, position):
    vectors = np.array([[np.nan] * 3 if row is None else [row[1], 1, 2] for row in rows], np.float32).reshape(-1, 3)
    block = unpack_block(pack_block(number, [row and row[0] for row in rows], vectors, epoch=epoch, position=position))
    assert (block.number, block.version) == (number, (epoch, position))
    assert list(block.ids) == [row and row[0] for row in rows]
    assert np.array_equal(block.vectors, np.nan_to_num(vectors))


@pytest.mark.parametrize("golden", GOLDEN["versions"], ids=lambda golden: f"{len(golden['versions'])} blocks")
def test_versions_of_blocks_are_the_golden_ones(golden):
    versions = np.array([(entry["position"], entry["epoch"], 0) for entry in golden["versions"]], VERSIONS)
    assert pack_versions(versions).hex() == golden["bytes"]
    assert np.array_equal(unpack_versions(bytes.fromhex(golden["bytes"])), versions)


@pytest.mark.parametrize("golden", GOLDEN["seen"], ids=lambda golden: f"{len(golden['slots'])} slots")
def test_seen_items_are_the_golden_ones(golden):
    slots = np.array(golden["slots"], np.uint32)
    assert pack_seen(slots, np.array([0, len(slots)])) == [bytes.fromhex(golden["bytes"])]
    assert unpack_seen(bytes.fromhex(golden["bytes"])).tolist() == golden["slots"]


@given(st.lists(st.lists(u32, max_size=4), max_size=5))
def test_seen_items_of_many_users_stay_apart(lists):
    slots = np.array([slot for slots in lists for slot in slots], np.uint32)
    starts = np.cumsum([0, *map(len, lists)])
    assert [unpack_seen(value).tolist() for value in pack_seen(slots, starts)] == lists


@pytest.mark.parametrize("golden", GOLDEN["fences"], ids=lambda golden: golden["text"])
def test_fences_are_the_golden_ones(golden):
    fence = Fence(golden["epoch"], golden["sequence"])
    assert pack_fence(fence) == golden["text"].encode()
    assert unpack_fence(golden["text"].encode()) == fence


@pytest.mark.parametrize("value", [b"", b"7", b"7 ", b"07 1", b"-1 2", b"7 1\n", b"\x07\0\0\0\1\0\0\0\0\0\0\0"])
def test_what_is_no_fence_is_called_so(value):
    with pytest.raises(UnreadableValue):
        unpack_fence(value)


@pytest.mark.parametrize("golden", GOLDEN["metas"], ids=["plain", "of a newer worker", "ordinal", "with uncertainty"])
def test_descriptions_are_the_golden_ones(golden):
    meta = unpack_meta(golden["text"].encode())
    assert json.loads(pack_meta(meta)) == golden["meta"]
    assert meta.offsets == {int(partition): offset for partition, offset in golden["meta"]["offsets"].items()}


@pytest.mark.parametrize("change", [{"layout": 2}, {"rank": "16"}, {"journal_id": None}, {"link": "cube"}])
def test_a_description_of_another_layout_is_refused(change):
    text = json.dumps({**GOLDEN["metas"][0]["meta"], **change})
    with pytest.raises(UnreadableValue):
        unpack_meta(text.encode())
    assert isinstance(unpack_meta(GOLDEN["metas"][0]["text"].encode()), Meta)


READERS = {
    "embeddings": lambda value: unpack("x", "user", value),
    "uncertainties": lambda value: unpack_uncertainty("x", "user", value),
    "blocks": unpack_block,
    "versions": unpack_versions,
    "seen": unpack_seen,
}


@pytest.mark.parametrize("kind", ["embeddings", "uncertainties", "blocks", "versions"])
def test_a_value_that_is_cut_or_longer_is_refused(kind):
    for golden in GOLDEN[kind]:
        whole = bytes.fromhex(golden["bytes"])
        for value in [whole[:length] for length in range(0, len(whole), 1 + len(whole) // 50)] + [whole + b"\0"]:
            with pytest.raises(UnreadableValue):
                READERS[kind](value)


@pytest.mark.parametrize("kind", READERS)
@given(data=st.data())
def test_any_bytes_are_read_or_refused(kind, data):
    golden = data.draw(st.sampled_from(GOLDEN[kind][:3]))
    value = bytearray.fromhex(golden["bytes"])
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, max(0, len(value) - 1)))
        value[at : at + 1] = data.draw(st.binary(max_size=2))
    try:
        READERS[kind](bytes(value))
    except UnreadableValue as error:
        assert str(error)  # noqa: PT017 — any other exception is the failure


@pytest.mark.parametrize("kind", ["embeddings", "uncertainties", "blocks"])
def test_another_layout_says_what_to_do(kind):
    value = bytearray.fromhex(GOLDEN[kind][1]["bytes"])
    value[4] = 2
    with pytest.raises(UnreadableValue, match="upgrade"):
        READERS[kind](bytes(value))


def test_a_block_that_claims_a_billion_rows_is_refused_before_memory_is_asked_for():
    value = bytearray.fromhex(GOLDEN["blocks"][1]["bytes"])
    value[12:16] = struct.pack("<I", 10**9)
    with pytest.raises(UnreadableValue):
        unpack_block(bytes(value))


def test_links_turn_scores_into_predictions():
    scores = np.array([-800.0, 0.0, 2.0, 800.0])
    assert link("identity", scores) is scores
    assert link("exp", scores[1:3]).tolist() == [1.0, np.exp(2.0)]
    np.testing.assert_allclose(link("sigmoid", scores), [0, 0.5, 1 / (1 + np.exp(-2)), 1], atol=1e-12)
    shares = category_probabilities(scores, (-1.0, 1.0))
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    np.testing.assert_allclose(shares[1], [1 / (1 + np.e), 1 - 2 / (1 + np.e), 1 / (1 + np.e)])
    np.testing.assert_allclose(link("ordinal", scores, (1, 2, 3), (-1.0, 1.0))[[0, 1, 3]], [1, 2, 3])
