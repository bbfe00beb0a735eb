"""A laptop's Kafka and Redis: started, found again, stopped, and cleaned up after crashes; with the real programs."""

import json
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
import redis
from kafka import KafkaConsumer, KafkaProducer

from factorstream.worker.errors import ServiceFailed, UserMistake
from factorstream.worker.local import processes, services


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("laptop")
    yield folder
    services.stop(folder)


@pytest.fixture
def up(folder):
    return services.start(folder)


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "factorstream.worker.cli.main", "services", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def send(address, topic):
    producer = KafkaProducer(bootstrap_servers=address)
    sent = producer.send(topic, b"hello").get(timeout=20)
    producer.close()
    return sent


def topics(address):
    consumer = KafkaConsumer(bootstrap_servers=address)
    found = consumer.topics()
    consumer.close()
    return found


def test_both_answer_their_own_clients_after_start(up):
    assert send(up.kafka, "greetings").offset == 0
    with redis.Redis.from_url(up.redis) as client:
        assert client.ping()


def test_starting_twice_starts_nothing_new(folder, up):
    assert services.start(folder) == up


def test_the_commands_say_what_the_contract_says(folder, up):
    expected = {"kafka": up.kafka, "redis": up.redis, "pids": up.pids}
    for verb in ("start", "status"):
        done = command(verb, "--dir", folder, "--json")
        assert (done.returncode, json.loads(done.stdout.splitlines()[-1])) == (0, expected)
    assert json.loads((folder / "services.json").read_text()) == expected


def test_another_port_than_the_running_one_is_a_mistake(folder, up):
    with pytest.raises(UserMistake, match="runs on port"):
        services.start(folder, kafka_port=processes.free_port())


def test_a_taken_port_is_a_mistake_that_names_it(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        done = command("start", "--dir", tmp_path, "--redis-port", port)
    assert done.returncode == 2
    assert str(port) in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_killed_service_is_started_again_where_it_was_and_kafka_keeps_its_topics(folder, up):
    send(up.kafka, "kept")
    for pid in up.pids.values():
        psutil.Process(pid).kill()
    psutil.wait_procs([psutil.Process(pid) for pid in up.pids.values() if psutil.pid_exists(pid)], timeout=10)
    again = services.start(folder)
    assert (again.kafka, again.redis) == (up.kafka, up.redis)
    assert again.pids.keys() == up.pids.keys()
    assert again.pids.values() != up.pids.values()
    assert "kept" in topics(again.kafka)


def test_stop_finds_what_runs_without_being_told(folder, up):
    for record in (folder / "services.json", folder / "kafka" / "port", folder / "redis" / "port"):
        record.unlink()
    stopped = services.stop(folder)
    assert (stopped.kafka, stopped.redis, stopped.pids) == (None, None, {})
    assert not any(psutil.pid_exists(pid) for pid in up.pids.values())


def test_stopping_what_does_not_run_is_no_failure(tmp_path):
    done = command("stop", "--dir", tmp_path / "never", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"kafka": None, "redis": None, "pids": {}}
    assert not (tmp_path / "never").exists()


def test_status_of_nothing_exits_with_one(tmp_path):
    assert command("status", "--dir", tmp_path).returncode == 1


def test_a_folder_that_is_none_is_a_mistake(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserMistake, match=r"cannot keep services in .*name another folder"):
        services.start(tmp_path / "file" / "below")


def test_an_interrupted_start_leaves_no_process_behind(tmp_path):
    start = subprocess.Popen(
        [sys.executable, "-m", "factorstream.worker.cli.main", "services", "start", "--dir", str(tmp_path)],
        stderr=subprocess.PIPE,
    )
    while not processes.running(tmp_path / "redis", "redis-server"):
        time.sleep(0.05)
    start.send_signal(signal.SIGINT)
    start.communicate(timeout=30)
    assert start.returncode == 130
    assert [process for name in ("redis", "kafka") for process in processes.running(tmp_path / name, "")] == []


def test_a_service_that_cannot_start_says_why_with_its_log(tmp_path):
    data = tmp_path / "kafka" / "data"
    data.mkdir(parents=True)
    (data / "meta.properties").write_text("version=1\ncluster.id=another\nnode.id=77\n")
    with pytest.raises(ServiceFailed, match=r"(?s)kafka did not start.*log.*ends:.*node"):
        services.start(tmp_path)
    assert services.status(tmp_path).pids == {}
