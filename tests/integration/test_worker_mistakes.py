"""What can go wrong around a real worker: each is one clear line that says what to do, and nothing is lost by it."""

import json
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.contracts.kafka_log import KafkaLog
from tests.integration.real_worker import COMMAND, Place, await_true, check_all, command, rate, rates


@pytest.fixture(scope="module")
def learned_place(kafka, redis_url, compiled, tmp_path_factory):
    """A place whose worker has learned 25 ratings and settled; the tests of this module leave it as it is."""
    place = Place(kafka, redis_url, tmp_path_factory.mktemp("place") / "checkpoints")
    place.send(rates(5, 5))
    assert place.run().settled()["n_accepted"] == 25
    yield place
    place.close()


@pytest.fixture
def untouched(learned_place):
    """The same place, nothing of which may be changed by a worker that is refused there."""

    def content():
        return {path: path.read_bytes() for path in learned_place.folder.rglob("*") if path.is_file() and path.name != "lock"}

    before = learned_place.keys(), content(), learned_place.offsets_left()
    yield learned_place
    assert (learned_place.keys(), content(), learned_place.offsets_left()) == before


@pytest.fixture
def used_place(place):
    """A place of this test's own whose worker has learned 25 ratings and settled."""
    place.send(rates(5, 5))
    assert place.run().settled()["n_accepted"] == 25
    return place


# --- refused at the start


def test_no_broker_is_waited_for_and_then_named(untouched):
    began = time.monotonic()
    untouched.run(kafka_bootstrap_servers="127.0.0.1:1", kafka_timeout_s=1).refused(
        1, "127.0.0.1:1", "kafka.bootstrap_servers", "1 s"
    )
    assert time.monotonic() - began < 30


def test_a_worker_that_waits_for_a_broker_can_be_stopped(untouched):
    worker = untouched.start(kafka_bootstrap_servers="127.0.0.1:1", kafka_timeout_s=60)
    worker.said("metrics and health")
    time.sleep(0.5)
    began = time.monotonic()
    assert worker.stop().complaints == []
    assert time.monotonic() - began < 10


def test_no_redis_is_waited_for_and_then_named(untouched):
    began = time.monotonic()
    ended = untouched.run(redis_url="redis://127.0.0.1:1/0", redis_timeout_s=1)
    assert time.monotonic() - began < 30
    ended.refused(1, "127.0.0.1:1/0", "redis.url")
    assert ended.logged("waiting for redis")


def test_an_unknown_topic_is_named_and_not_made(untouched):
    untouched.run(kafka_topic="nowhere-to-be-found").refused(1, "nowhere-to-be-found", "create it", "kafka.topic")
    assert "nowhere-to-be-found" not in untouched.log.admin.list_topics()


def test_a_compacted_topic_is_refused(untouched, tmp_path):
    compacted = KafkaLog(untouched.kafka, compacted=True)
    settings = {"kafka_topic": compacted.topic, "checkpoint_dir": tmp_path / "new", "model_name": "anew"}
    untouched.run(**settings).refused(1, compacted.topic, "cleanup.policy=delete")
    compacted.close()


def test_another_topic_is_not_taken_for_the_one_of_the_checkpoint(untouched):
    other = KafkaLog(untouched.kafka)
    untouched.run(kafka_topic=other.topic).refused(1, other.topic, untouched.topic, "checkpoint.dir", "redis.replace")
    other.close()


def test_a_checkpoint_of_another_model_is_refused(untouched):
    untouched.run(model_rank=9).refused(2, "model.rank = 8", "9", "checkpoint.dir")
    untouched.run(model_seed=3).refused(2, "model.seed = 0", "3")


def test_a_metrics_port_in_use_is_named(untouched):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        untouched.run(metrics_port=port).refused(2, str(port), "metrics.port")


def test_a_folder_that_cannot_be_made_is_named(untouched, tmp_path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "checkpoints"
    untouched.run(checkpoint_dir=folder).refused(1, str(folder), "checkpoint.dir")


def test_after_all_that_the_worker_goes_on(learned_place):
    learned_place.send(rates(1, 3, first=50))
    assert learned_place.run().settled()["n_accepted"] == 3
    check_all(learned_place)


# --- the log is another one


def test_a_recreated_topic_ends_a_running_worker_and_the_next(place):
    place.send(rates(5, 5))
    worker = place.start(kafka_timeout_s=2)
    worker.has_learned(25)
    place.log.delete()
    place.log.create(3)
    place.send(rates(2, 2))
    worker.ended().refused(1, place.topic, "checkpoint.dir")
    place.run().refused(1, "topic id", "not the one", "checkpoint.dir", "redis.replace = true")
    place.folder = place.folder.with_name("anew")
    assert place.run(redis_replace=True).settled()["n_accepted"] == 4
    check_all(place)


def test_offsets_that_the_broker_no_longer_has_are_an_error_until_they_are_given_up(make_place):
    place = make_place(n_partitions=1)
    place.send(rates(5, 5))
    assert place.run().settled()["n_accepted"] == 25
    place.send(rates(2, 5, first=10))
    place.send(rates(2, 5, first=20))
    place.log.delete_before(0, 30)
    place.run().refused(1, "offset 25", "30 to 44", "kafka.on_lost_offsets = earliest")
    ended = place.run(kafka_on_lost_offsets="earliest")
    assert ended.settled()["n_accepted"] == 15
    assert ended.logged("lost records")
    held = {event["user_id"] + event["item_id"] for event in [*rates(5, 5), *rates(1, 5, first=11), *rates(2, 5, first=20)]}
    checkpoint = place.checkpoint()
    assert checkpoint.facts.n_ratings == len(held) == 40
    assert checkpoint.facts.offsets == {0: 45}


# --- checkpoints


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(used_place):
    used_place.send(rates(1, 5, first=9))
    used_place.run().settled()
    newest = sorted(used_place.folder.glob("checkpoint-*.json"))[-1]
    damaged = used_place.folder / "data" / json.loads(newest.read_text())["arrays"]["users.factors"]["name"]
    damaged.write_bytes(damaged.read_bytes()[:-4] + b"\0\0\0\1")
    used_place.send(rates(1, 3, first=20))
    ended = used_place.run()
    assert ended.settled()["n_accepted"] == 8, "the five of the damaged one again"
    assert ended.logged("damaged")
    check_all(used_place)
    verified = command("checkpoint", "verify", used_place.folder, "--json")
    assert verified.code == 0, verified.errors + verified.output


def test_a_folder_without_a_whole_checkpoint_is_refused(used_place):
    for manifest in used_place.folder.glob("checkpoint-*.json"):
        manifest.write_text("{")
    used_place.run().refused(1, str(used_place.folder), "redis.replace = true")


def limit_files(worker, n_bytes):
    """Let *worker* write no file longer than *n_bytes*: as on a disk that is full, but for the name of the error."""
    resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (n_bytes, resource.RLIM_INFINITY))


def test_a_full_disk_stops_no_learning_and_its_checkpoints_are_made_up_for(place):
    worker = place.start(checkpoint_interval_s=0.2)
    worker.said("running")
    limit_files(worker, 1000)
    place.send(rates(20, 10, first=100))
    worker.has_learned(200)
    failed = worker.said("checkpoint failed")
    assert "free space" in failed["reason"]
    assert str(place.folder) in failed["reason"]
    n_failures = await_true(lambda: worker.metrics()["factorstream_checkpoint_failures_total"])
    place.send(rates(5, 10, first=200))
    worker.has_learned(250)
    await_true(lambda: worker.metrics()["factorstream_checkpoint_failures_total"] > n_failures)
    assert place.offsets_left() != place.ends, "what is not durable is not committed"
    limit_files(worker, resource.RLIM_INFINITY)
    await_true(lambda: worker.metrics()["factorstream_checkpoint_position"] >= 250)
    assert list(place.folder.rglob(".*")) == [], "no half-written files are left"
    worker.stop().settled()
    check_all(place)
    assert command("checkpoint", "verify", place.folder).code == 0


def test_a_worker_that_ends_on_a_full_disk_says_so_and_the_next_learns_the_rest_again(place):
    worker = place.start(checkpoint_interval_s=60)
    worker.said("running")
    limit_files(worker, 1000)
    place.send(rates(20, 10, first=100))
    worker.has_learned(200)
    worker.process.send_signal(signal.SIGTERM)
    worker.ended().failed(1, "free space", str(place.folder))
    assert place.run().settled()["n_accepted"] == 200
    check_all(place)


def test_a_log_that_cannot_be_written_ends_no_worker(place):
    place.send(rates(2, 2))
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "run", "--json", "--until-idle", "0.2", *place.arguments()],
            stdout=subprocess.PIPE,
            stderr=full,
            timeout=60,
        )
    assert done.returncode == 0
    assert json.loads(done.stdout)["n_accepted"] == 4
    check_all(place)


# --- settings


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["--set", "kafka.topik=x"], {}, ["kafka.topik", "kafka.topic"]),
        (["--set", "model.rank=many"], {}, ["model.rank", "many", "integer"]),
        (["--set", "model.rank"], {}, ["section.key=value"]),
        (["--set", "model.device=cuda"], {}, ["model.device", "cpu"]),
        (["--set", "redis.url=nonsense"], {}, ["redis.url", "redis://"]),
        (["--set", "redis.url=redis://localhost/0?hello=1"], {}, ["redis.url", "hello"]),
        (["--set", "kafka.bootstrap_servers=broker:nine"], {}, ["broker:nine", "HOST:PORT"]),
        ([], {"FACTORSTREAM__MODEL__RNAK": "3"}, ["FACTORSTREAM__MODEL__RNAK", "model.rank"]),
        ([], {"FACTORSTREAM__CHECKPOINT__KEEP": "0"}, ["checkpoint.keep", "greater than or equal to 1"]),
        (["--config", "FILE"], {"FILE": "[sgd]\nlearning_rat = 1"}, ["FILE", "sgd.learning_rate"]),
        (["--config", "FILE"], {"FILE": "[sgd]\nlearning_rate = -1"}, ["sgd.learning_rate", "-1"]),
        (["--config", "FILE"], {"FILE": "[sgd"}, ["FILE", "cannot be read"]),
        (["--config", "missing.toml"], {}, ["missing.toml", "no such file"]),
        (["--until-idle", "soon"], {}, ["--until-idle"]),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_a_wrong_setting_is_named_with_the_nearest_right_one(tmp_path, arguments, environment, words):
    file = tmp_path / "settings.toml"
    file.write_text(environment.pop("FILE", ""))
    named = [word.replace("FILE", str(file)) for word in words]
    arguments = [argument.replace("FILE", str(file)) for argument in arguments]
    arguments += ["--set", f"checkpoint.dir={tmp_path / 'checkpoints'}", "--set", "metrics.port=0"]
    command("run", *arguments, environment=environment).refused(2, *named)


# --- events

POISON = [
    b"",
    b"not JSON at all",
    b"[1, 2]",
    b'{"user_id": "u1"}',
    b'{"user_id": "", "item_id": "m1", "rating": 3}',
    b'{"user_id": "u1", "item_id": "m1", "rating": "NaN"}',
    b'{"user_id": "u1", "item_id": "m1", "rating": 1e300}',
    b'{"user_id": "u1", "item_id": "m1", "rating": 3, "timestamp_ms": 1700000000}',
    b'{"type": "forget_everything", "user_id": "u1"}',
    b"\xff\xfe\x00" * 40_000,
]


def test_poisoned_records_go_to_the_dead_letters_and_the_rest_is_learned(place):
    events = rates(10, 6)
    for at, poison in enumerate(POISON):
        events.insert(7 * at, poison)
    place.send(events)
    answer = place.run().settled()
    assert (answer["n_records"], answer["n_rejects"], answer["n_accepted"]) == (70, len(POISON), 60)
    dead = place.log.records(place.dead_topic)
    assert sorted(record.value for record in dead) == sorted(poison[: 64 << 10] for poison in POISON)
    records = {(record.partition, record.offset): record.value for record in place.log.records(place.topic)}
    for record in dead:
        headers = dict(record.headers)
        assert {"reason", "topic", "partition", "offset", "detail"} <= headers.keys()
        assert headers["topic"].decode() == place.topic
        assert records[int(headers["partition"]), int(headers["offset"])][: 64 << 10] == record.value
    assert place.offsets_left() == place.ends
    assert place.run().settled()["n_records"] == 0


def test_a_stream_of_nothing_but_rubbish_ends_the_worker_which_says_how_to_go_on(place):
    place.send(rates(10, 10))
    place.run().settled()
    place.send([b"rubbish %d" % number for number in range(12_000)])
    place.send(rates(10, 10, first=20))
    place.run().refused(1, "intake.max_reject_share = 0.5", "dead-letter", "rubbish")
    assert len(place.log.records(place.dead_topic)) >= 10_000
    answer = place.run(intake_max_reject_share=1).settled()
    assert answer["n_accepted"] == 100
    assert {record.value for record in place.log.records(place.dead_topic)} == {b"rubbish %d" % n for n in range(12_000)}


def test_ratings_outside_the_range_and_times_in_the_future_are_no_trouble(place):
    tomorrow = int(time.time() * 1000) + 86_400_000
    place.send([rate(1, 1, rating=9.0), rate(1, 2, rating=2.0), rate(2, 1, rating=1.0, timestamp_ms=tomorrow)])
    answer = place.run(model_rating_min=0, model_rating_max=5).settled()
    assert (answer["n_accepted"], answer["n_rejects"]) == (2, 1)
    [newest] = [row for row in place.checkpoint().arrays["users.newest_ms"] if row > 1_700_000_000_000]
    assert newest < tomorrow, "no later than the record's own time"
