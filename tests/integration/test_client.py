"""Producer and Reader against a real broker and a real Redis; what they read there was written with the pack functions."""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import numpy as np
import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.partitioner.default import murmur2

from factorstream import (
    DeliveryFailed,
    ForgetUser,
    InvalidAddress,
    InvalidEvent,
    Meta,
    ModelNotFound,
    NoProbabilities,
    NoUncertainty,
    Producer,
    ProducerUnavailable,
    Rating,
    Reader,
    ReaderUnavailable,
    RemoveItem,
    Unrate,
    UnreadableValue,
    keys,
)
from factorstream.blocks import SLOTS, VERSIONS, pack_block, pack_versions
from factorstream.codec import decode
from factorstream.embedding import pack_many
from factorstream.meta import Priors, pack_meta
from factorstream.seen import pack_seen
from factorstream.uncertainty import pack_uncertainties, score_variances

NOW_MS = 1_700_000_000_000
NOWHERE = "127.0.0.1:1"


# --- Producer ---------------------------------------------------------------------------------------------------------


def records_of(kafka, topic):
    """Return all records of *topic*."""
    consumer = KafkaConsumer(bootstrap_servers=kafka, enable_auto_commit=False)
    partitions = [TopicPartition(topic, partition) for partition in sorted(consumer.partitions_for_topic(topic))]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    wanted = sum(consumer.end_offsets(partitions).values())
    found = []
    while len(found) < wanted:
        found += [record for batch in consumer.poll(timeout_ms=1000).values() for record in batch]
    consumer.close()
    return found


def test_what_is_sent_is_in_the_topic_once_keyed_by_user_and_in_order(kafka, topic):
    events = [Rating(f"u{n % 7}", f"m{n % 5}", n % 10 / 2, NOW_MS + n) for n in range(2000)]
    events += [Unrate("é", "m1", NOW_MS), ForgetUser("u1", NOW_MS), RemoveItem("m1", NOW_MS)]
    with Producer(kafka, topic) as producer:
        for event in events:
            producer.send(event)
    records = records_of(kafka, topic)
    got = [decode(record.value) for record in records]
    assert sorted(got, key=str) == sorted(events, key=str)
    for user_id in {f"u{n}" for n in range(7)}:
        times = [event.timestamp_ms for event in got if isinstance(event, Rating) and event.user_id == user_id]
        assert times == sorted(times)
    for record, event in zip(records, got, strict=True):
        key = event.item_id if isinstance(event, RemoveItem) else event.user_id
        assert record.key == key.encode()
        assert record.partition == (murmur2(record.key) & 0x7FFFFFFF) % 4


def test_many_threads_share_a_producer_and_its_memory_is_bounded(kafka, topic):
    with Producer(kafka, topic, max_pending=100) as producer:

        def publish(thread):
            for n in range(500):
                producer.send(Rating(f"u{thread}", f"m{n}", 1.0, NOW_MS))

        threads = [threading.Thread(target=publish, args=(thread,)) for thread in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({(event.user_id, event.item_id) for event in map(decode, [r.value for r in records_of(kafka, topic)])}) == 1500


def test_an_event_that_the_broker_refuses_raises_when_flushed_and_only_once(kafka, new_topic):
    topic = new_topic(n_partitions=1, max_message_bytes=100)
    producer = Producer(kafka, topic)
    producer.send(Rating("u" * 200, "m1", 1.0, NOW_MS))
    with pytest.raises(DeliveryFailed, match=f"1 events were not acknowledged by topic '{topic}'"):
        producer.flush()
    producer.flush()
    producer.close()
    producer.close()


def test_an_event_refused_earlier_raises_at_the_next_send_and_at_close(kafka, new_topic):
    topic = new_topic(n_partitions=1, max_message_bytes=100)
    producer = Producer(kafka, topic)
    producer.send(Rating("u" * 200, "m1", 1.0, NOW_MS))
    time.sleep(0.5)
    with pytest.raises(DeliveryFailed):
        producer.send(Rating("u1", "m1", 1.0, NOW_MS))
    producer.send(Rating("u" * 200, "m1", 1.0, NOW_MS))
    with pytest.raises(DeliveryFailed):
        producer.close()


def test_an_event_that_breaks_a_rule_is_refused_at_once(kafka, topic):
    with Producer(kafka, topic) as producer, pytest.raises(InvalidEvent, match="looks like seconds"):
        producer.send(Rating("u1", "m1", 1.0, NOW_MS // 1000))
    assert records_of(kafka, topic) == []


def test_no_broker_says_where_it_looked():
    with pytest.raises(ProducerUnavailable, match=NOWHERE):
        Producer(NOWHERE, timeout_s=0.5)


def test_a_topic_that_is_not_there_is_not_made(kafka, topic_name):
    with pytest.raises(ProducerUnavailable, match=f"{topic_name}.*create it"):
        Producer(kafka, topic_name)
    consumer = KafkaConsumer(bootstrap_servers=kafka)
    assert topic_name not in consumer.topics()
    consumer.close()


# --- Reader -----------------------------------------------------------------------------------------------------------


class Published:
    """A small model in a real Redis, written as a worker would."""

    def __init__(self, client, name, *, rank=3, n_users=5, n_items=2100, n_buckets=1, link="identity", seed=0, epoch=1):
        self.client, self.name, self.n_buckets, self.epoch, self.position = client, name, n_buckets, epoch, 7
        random = np.random.default_rng(seed)
        self.users = random.normal(0, 1, (n_users, rank + 2)).astype(np.float32)
        self.items = random.normal(0, 1, (n_items, rank + 2)).astype(np.float32)
        self.users[:, -1], self.items[:, -2] = 1, 1
        self.user_ids, self.item_ids = [f"u{n}" for n in range(n_users)], [f"m{n}" for n in range(n_items)]
        self.meta = Meta(
            journal_id="j",
            epoch=epoch,
            rank=rank,
            link=link,
            categories=(1.0, 2.0, 3.0) if link == "ordinal" else (),
            cuts=(2.0, 4.0) if link == "ordinal" else (),
            intercept=3.0,
            n_users=n_users,
            n_items=n_items,
            n_buckets=n_buckets,
            position=7,
            range=(0.5, 5.0),
            published_ms=NOW_MS,
        )
        self.versions = np.zeros((n_items + SLOTS - 1) // SLOTS, VERSIONS)
        client.set(keys.meta_key(name), pack_meta(self.meta))
        self.put_rows("user", range(n_users))
        self.put_rows("item", range(n_items))
        for number in range(len(self.versions)):
            self.put_block(number)

    def put_rows(self, side, rows):
        ids, vectors, key = (
            (self.user_ids, self.users, keys.user_key) if side == "user" else (self.item_ids, self.items, keys.item_key)
        )
        rows = list(rows)
        ones = np.ones(len(rows))
        packed = pack_many(vectors[rows], ones.astype(np.uint32), ones.astype(np.int64), epoch=self.epoch, position=self.position)
        self.client.mset({key(self.name, ids[row], self.n_buckets): value for row, value in zip(rows, packed, strict=True)})

    def put_block(self, number):
        ids, vectors = self.item_ids[number * SLOTS : (number + 1) * SLOTS], self.items[number * SLOTS : (number + 1) * SLOTS]
        self.put_packed_block(number, pack_block(number, ids, vectors, epoch=self.epoch, position=self.position))

    def put_packed_block(self, number, packed):
        self.client.set(keys.block_key(self.name, number, self.n_buckets), packed)
        self.versions[number] = (self.position, self.epoch, 0)
        self.client.set(keys.blocks_key(self.name), pack_versions(self.versions))

    def scores(self, user):
        """Return the score of every item, the user given as augmented row."""
        return 3.0 + self.items.astype(np.float64) @ user.astype(np.float64)

    def best(self, scores, n, without=()):
        order = [row for row in np.argsort(-scores, kind="stable") if self.item_ids[row] not in without]
        return [self.item_ids[row] for row in order[:n]]


@pytest.fixture(params=[1, 7], ids=["one bucket", "seven buckets"])
def published(request, redis_url, flushed_redis, model_name):
    return Published(flushed_redis, model_name, n_buckets=request.param)


@pytest.fixture
def reader(redis_url, published):
    with Reader(redis_url, published.name) as reader:
        yield reader


def test_embeddings_are_what_was_published(published, reader):
    user, item = reader.user("u1"), reader.item("m2")
    assert np.array_equal(user.augmented, published.users[1])
    assert np.array_equal(user.vector, published.users[1, :3])
    assert (user.bias, item.bias) == (published.users[1, 3], published.items[2, 4])
    assert (user.n_ratings, user.version, user.timestamp_ms) == (1, (1, 7), 1)
    assert reader.user("m1") is None
    assert reader.item("nobody") is None
    assert reader.meta() == published.meta


def test_predictions_fall_back_to_the_bias_of_the_side_that_is_known(published, reader):
    known, unknown_item = reader.predict("u1", ["m2", "?"])
    assert known == pytest.approx(published.scores(published.users[1])[2])
    assert unknown_item == pytest.approx(3.0 + published.users[1, 3])
    unknown_user, both = reader.predict("?", ["m2", "??"])
    assert unknown_user == pytest.approx(3.0 + published.items[2, 4])
    assert both == 3.0
    assert reader.predict("u1", []) == []


def test_one_id_in_the_place_of_many_is_refused(published, reader):
    with pytest.raises(TypeError, match=r"'m1'.*list of ids"):
        reader.predict("u1", "m1")


def test_a_client_can_ask_how_sure_a_prediction_is(published, reader):
    rng = np.random.default_rng(2)
    variances = {"user": rng.uniform(0.1, 1, 4).astype(np.float32), "item": rng.uniform(0.1, 1, 4).astype(np.float32)}
    for side, row_id, key in (("user", "u1", keys.user_uncertainty_key), ("item", "m2", keys.item_uncertainty_key)):
        columns = variances[side][None], np.ones(1, np.uint32), np.ones(1, np.int64)
        [packed] = pack_uncertainties(*columns, epoch=1, position=7)
        published.client.set(key(published.name, row_id, published.n_buckets), packed)
    with pytest.raises(NoUncertainty, match=r"publish\.uncertainty = true"):
        reader.predict_with_uncertainty("u1", ["m2"])
    priors = Priors(user=(0.5, 2.0), item=(0.25, 3.0), noise=1.0, surprise=1.0)
    published.client.set(keys.meta_key(published.name), pack_meta(msgspec.structs.replace(published.meta, uncertainty=priors)))
    assert reader.user_uncertainty("u1").variances.tolist() == variances["user"].tolist()
    assert reader.item_uncertainty("m2").version == (1, 7)
    assert reader.item_uncertainty("?") is None
    known, unknown = reader.predict_with_uncertainty("u1", ["m2", "?"])
    assert [known.mean, unknown.mean] == reader.predict("u1", ["m2", "?"])
    user, item = published.users[1, :3].astype(float), published.items[2, :3].astype(float)
    asked = np.array([item, np.zeros(3)]), np.array([variances["item"], [0.25, 0.25, 0.25, 3.0]], float)
    expected = np.sqrt(score_variances(user, variances["user"].astype(float), *asked))
    assert [known.deviation, unknown.deviation] == pytest.approx(expected)
    [nobody] = reader.predict_with_uncertainty("?", ["??"])
    assert nobody == pytest.approx((3.0, (3 * 0.5 * 0.25 + 2 + 3) ** 0.5))
    assert reader.predict_with_uncertainty("u1", []) == []


@pytest.mark.parametrize(("link", "of"), [("sigmoid", lambda s: 1 / (1 + np.exp(-s))), ("exp", np.exp)])
def test_predictions_and_rankings_are_links_of_scores(redis_url, flushed_redis, model_name, link, of):
    published = Published(flushed_redis, model_name, link=link)
    reader = Reader(redis_url, model_name)
    scores = published.scores(published.users[1])
    assert reader.predict("u1", ["m2"])[0] == pytest.approx(of(scores[2]))
    assert [item_id for item_id, _ in reader.top_n("u1", 5)] == published.best(scores, 5)


@pytest.mark.parametrize(("link", "categories"), [("ordinal", (1.0, 2.0, 3.0)), ("sigmoid", (0.0, 1.0))])
def test_models_of_categories_tell_how_likely_each_rating_is(redis_url, flushed_redis, model_name, link, categories):
    Published(flushed_redis, model_name, link=link)
    reader = Reader(redis_url, model_name)
    items = ["m2", "m3", "?"]
    found = reader.probabilities("u1", items)
    assert [tuple(shares) for shares in found] == [categories] * 3
    assert [sum(shares.values()) for shares in found] == pytest.approx([1, 1, 1])
    expected = [sum(rating * share for rating, share in shares.items()) for shares in found]
    assert reader.predict("u1", items) == pytest.approx(expected)


def test_a_model_of_numbers_has_no_probabilities_and_says_which_have(published, reader):
    with pytest.raises(NoProbabilities, match=r"squared loss, .* ordinal"):
        reader.probabilities("u1", ["m2"])


def test_the_top_are_the_best_of_all_items_and_their_scores_are_predictions(published, reader):
    for user_id, user in zip(published.user_ids, published.users, strict=True):
        top = reader.top_n(user_id, 10)
        assert [item_id for item_id, _ in top] == published.best(published.scores(user), 10)
        assert [score for _, score in top] == reader.predict(user_id, [item_id for item_id, _ in top])


def test_the_top_of_an_unknown_user_are_the_items_of_highest_bias(published, reader):
    assert [item_id for item_id, _ in reader.top_n("?", 10)] == published.best(published.items[:, 4], 10)


def test_items_excluded_or_seen_are_left_out(published, reader):
    scores = published.scores(published.users[1])
    first, second, third = published.best(scores, 3)
    slots = np.array([published.item_ids.index(second), 10**9], np.uint32)
    published.client.set(keys.seen_key(published.name, "u1", published.n_buckets), pack_seen(slots, np.array([0, 2]))[0])
    assert [item_id for item_id, _ in reader.top_n("u1", 1)] == [first]
    assert [item_id for item_id, _ in reader.top_n("u1", 1, exclude={first, "?"})] == [third]
    assert [item_id for item_id, _ in reader.top_n("u1", 1, exclude=[first], exclude_seen=False)] == [second]


def test_no_more_items_are_returned_than_there_are(published, reader):
    assert len(reader.top_n("u1", 10_000)) == 2100
    assert reader.top_n("u1", 0) == []
    assert len(reader.top_n("u1", 10, exclude=published.item_ids[4:])) == 4
    assert reader.top_n("u1", 10, exclude=published.item_ids) == []


def test_a_changed_row_changes_the_top_at_once_and_a_changed_block_brings_new_candidates(published, reader):
    first, *_ = [item_id for item_id, _ in reader.top_n("u1", 3)]
    row = published.item_ids.index(first)
    published.items[row, 4] -= 100
    published.put_rows("item", [row])
    assert first not in [item_id for item_id, _ in reader.top_n("u1", 3)]
    published.items[1500, 4] += 100
    published.put_rows("item", [1500])
    published.position += 1
    published.put_block(1)
    assert reader.top_n("u1", 1)[0][0] == "m1500"


def test_a_block_is_fetched_when_its_version_differs_and_only_then(published, reader):
    (first, _), *_ = reader.top_n("u1", 1)
    published.items[1500, 4] += 100
    published.put_rows("item", [1500])
    published.put_block(1)
    assert reader.top_n("u1", 1)[0][0] == first
    published.position -= 1  # a worker that went back to a checkpoint
    published.put_block(1)
    assert reader.top_n("u1", 1)[0][0] == "m1500"
    published.epoch += 1
    published.items[1500, 4] -= 200
    published.put_rows("item", [1500])
    published.put_block(1)
    assert "m1500" not in [item_id for item_id, _ in reader.top_n("u1", 5)]


def test_blocks_of_a_model_learned_anew_are_fetched_although_their_versions_are_those_of_the_old_one(published, reader):
    (first, _), *_ = reader.top_n("u1", 1)
    published.items[1500, 4] += 100
    published.put_rows("item", [1500])
    published.put_block(1)
    assert reader.top_n("u1", 1)[0][0] == first
    published.client.set(keys.meta_key(published.name), pack_meta(msgspec.structs.replace(published.meta, journal_id="k")))
    assert reader.top_n("u1", 1)[0][0] == "m1500"


def test_a_ranking_tells_the_version_of_the_read_that_its_scores_are_from(published, reader):
    def rankings():
        yield from (reader.top_n(user_id, n) for user_id, n in (("u1", 3), ("nobody", 3), ("u1", 0)))
        yield from (reader.similar_items(item_id) for item_id in ("m1", "nothing"))
        yield from (reader.similar_users(user_id, among=["u2"]) for user_id in ("u1", "nobody"))

    assert [ranking.version for ranking in rankings()] == [(1, 7)] * 7
    published.client.set(keys.meta_key(published.name), pack_meta(msgspec.structs.replace(published.meta, epoch=2, position=9)))
    assert [ranking.version for ranking in rankings()] == [(2, 9)] * 7


def test_removed_items_and_holes_are_never_recommended(published, reader):
    scores = published.scores(published.users[1])
    first, second, third = published.best(scores, 3)
    published.client.delete(keys.item_key(published.name, first, published.n_buckets))
    assert [item_id for item_id, _ in reader.top_n("u1", 2)] == [second, third]
    row = published.item_ids.index(second)
    published.item_ids[row] = None
    published.position += 1
    published.put_block(row // SLOTS)
    assert next(item_id for item_id, _ in reader.top_n("u1", 1)) == third


def test_even_when_most_candidates_have_gone_the_rest_are_found(published, reader):
    order = published.best(published.scores(published.users[1]), 200)
    published.client.delete(*[keys.item_key(published.name, item_id, published.n_buckets) for item_id in order[:150]])
    assert [item_id for item_id, _ in reader.top_n("u1", 10)] == order[150:160]


def test_a_model_of_another_rank_or_number_of_buckets_under_the_same_name_is_read_anew(published, reader):
    reader.top_n("u1", 3)
    again = Published(published.client, published.name, rank=5, n_items=1000, n_buckets=3, seed=1, epoch=2)
    assert [item_id for item_id, _ in reader.top_n("u1", 5)] == again.best(again.scores(again.users[1]), 5)
    assert np.array_equal(reader.user("u1").augmented, again.users[1])


def test_rows_that_an_earlier_model_left_count_as_none(published, reader):
    meta = json.loads(pack_meta(published.meta))
    published.client.set(keys.meta_key(published.name), json.dumps({**meta, "rank": 4}))
    assert reader.user("u1") is None
    assert reader.predict("u1", ["m1"]) == [3.0]
    assert reader.top_n("u1", 5) == []


def test_similar_items_are_those_of_highest_cosine_without_the_item(published, reader):
    factors = published.items[:, :3].astype(np.float64)
    factors[3] = 0
    published.items[3, :3] = 0
    published.put_rows("item", [3])
    published.position += 1
    published.put_block(0)
    lengths = np.linalg.norm(factors, axis=1)
    cosines = np.divide(factors @ factors[0], lengths * lengths[0], out=np.zeros(len(factors)), where=lengths > 0)
    similar = reader.similar_items("m0", 10)
    assert [item_id for item_id, _ in similar] == published.best(cosines, 10, without={"m0"})
    assert [score for _, score in similar] == pytest.approx(sorted(cosines, reverse=True)[1:11])
    assert ("m3", 0.0) in reader.similar_items("m0", 2100)
    assert {score for _, score in reader.similar_items("m3", 5)} == {0.0}
    assert reader.similar_items("?", 5) == []


def test_similar_users_are_ranked_among_those_named(published, reader):
    factors = published.users[:, :3].astype(np.float64)
    cosines = factors @ factors[0] / np.linalg.norm(factors, axis=1) / np.linalg.norm(factors[0])
    similar = reader.similar_users("u0", 2, among=["u0", "u1", "u2", "u3", "u1", "?"])
    assert [user_id for user_id, _ in similar] == [f"u{row}" for row in np.argsort(-cosines) if row in (1, 2, 3)][:2]
    assert similar[0][1] == pytest.approx(max(cosines[1:4]))
    assert reader.similar_users("?", 2, among=["u1"]) == []
    assert reader.similar_users("u0", 2, among=[]) == []


def test_many_threads_share_a_reader(published, reader):
    expected = {user_id: reader.top_n(user_id, 5) for user_id in published.user_ids}
    answers = []

    def read(user_id):
        answers.extend((user_id, reader.top_n(user_id, 5)) for _ in range(10))

    threads = [threading.Thread(target=read, args=(user_id,)) for user_id in published.user_ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 50
    assert all(answer == expected[user_id] for user_id, answer in answers)


def test_no_value_is_ever_torn(published, reader):
    stop = threading.Event()

    def write():
        while not stop.is_set():
            published.position += 1
            published.users[:, :3], published.items[:, :3] = published.position, published.position
            published.put_rows("user", range(5))
            published.put_rows("item", range(20))
            published.put_block(0)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(200):
            for row in (reader.user("u1"), reader.item("m2")):
                assert row.version.position == 7 or set(row.vector.tolist()) == {float(row.version.position)}
            assert len(reader.top_n("u1", 3)) == 3
    finally:
        stop.set()
        writer.join()


def test_a_model_that_is_not_there_is_called_by_its_key(redis_url, model_name):
    with Reader(redis_url, model_name) as reader, pytest.raises(ModelNotFound, match=rf"fs:\{{{model_name}\.0\}}:meta"):
        reader.top_n("u1")


def test_redis_away_says_where_and_never_the_password():
    with (
        Reader(f"redis://me:secret@{NOWHERE}/0", timeout_s=0.2) as reader,
        pytest.raises(ReaderUnavailable, match=NOWHERE) as caught,
    ):
        reader.user("u1")
    assert "secret" not in str(caught.value)


def test_a_connection_that_redis_closed_is_made_again(published, reader):
    expected = reader.predict("u1", ["m1"])
    published.client.client_kill_filter(_type="normal", skipme=True)
    assert reader.predict("u1", ["m1"]) == expected


@pytest.mark.parametrize("url", ["", "localhost:6379", "http://localhost", "redis://localhost/0?hello=1"])
def test_what_is_no_address_of_a_redis_is_called_so(url):
    with pytest.raises(InvalidAddress, match="redis://HOST"):
        Reader(url)


def test_what_is_no_address_of_a_broker_is_called_so():
    with pytest.raises(InvalidAddress, match="broker:nine"):
        Producer("broker:nine", timeout_s=0.5)


def test_an_unknown_layout_is_refused_with_what_to_do(published, reader):
    published.client.set(keys.user_key(published.name, "u1", published.n_buckets), b"FSE1\x02" + bytes(60))
    with pytest.raises(UnreadableValue, match="upgrade"):
        reader.user("u1")


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed: the JavaScript reader cannot run")
def test_the_documents_javascript_scores_as_the_reader_does(published, reader, redis_url, tmp_path):
    document = (Path(__file__).parents[2] / "schemas" / "README.md").read_text()
    (tmp_path / "reader.mjs").write_text(re.search(r"```js\n(.*?)```", document, re.DOTALL)[1])
    (tmp_path / "main.mjs").write_text(
        """
        import { embedding, score } from "./reader.mjs";
        import { createConnection } from "node:net";
        const [port, host, ...keys] = process.argv.slice(2);
        const get = (key) => new Promise((resolve) => {
          let reply = Buffer.alloc(0);
          const command = `*2\\r\\n$3\\r\\nGET\\r\\n$${key.length}\\r\\n${key}\\r\\n`;
          const socket = createConnection(port, host, () => socket.write(command));
          socket.on("data", (data) => {
            reply = Buffer.concat([reply, data]);
            const start = reply.indexOf("\\r\\n") + 2;
            const size = Number(reply.subarray(1, start - 2));
            if (start > 1 && reply.length >= start + size + 2) socket.end(() => resolve(reply.subarray(start, start + size)));
          });
        });
        const [user, item] = (await Promise.all(keys.map(get))).map(embedding);
        console.log(score(3, user, item));
        """
    )
    where = urlsplit(redis_url)
    names = [keys.user_key(published.name, "u1", published.n_buckets), keys.item_key(published.name, "m2", published.n_buckets)]
    command = ["node", tmp_path / "main.mjs", str(where.port), where.hostname, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert float(done.stdout) == pytest.approx(reader.predict("u1", ["m2"])[0])


# --- both -------------------------------------------------------------------------------------------------------------


def test_importing_the_package_loads_neither_kafka_nor_redis_nor_anything_of_the_worker():
    code = "import sys, factorstream; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    code += "; print(*[name for name in sys.modules if name.startswith('factorstream.worker')])"
    loaded, worker = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split("\n")[
        :2
    ]
    assert {"kafka", "redis", "torch", "numba", "scipy"}.isdisjoint(loaded.split())
    assert worker == ""


def test_the_names_that_the_package_promises_are_there():
    import factorstream

    assert all(getattr(factorstream, name) is not None for name in factorstream.__all__)
    with pytest.raises(AttributeError, match="Redaer"):
        _ = factorstream.Redaer
