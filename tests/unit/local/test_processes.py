"""Processes known by the folder they run in, and what is said when one does not come up."""

import socket
import sys
import time

import pytest

from factorstream.worker.errors import ServiceFailed
from factorstream.worker.local import kafka, processes

SLEEPER = "import time; print('awake', flush=True); time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('awake', flush=True); time.sleep(600)"


@pytest.fixture
def spawn(tmp_path):
    """Return a function that starts Python code in its own folder and waits until it runs; all are ended after the test."""
    started = []

    def start(code, folder=tmp_path):
        log = folder / "log"
        started.append(processes.spawn([sys.executable, "-c", code], folder=folder, log=log))
        while not log.read_text():
            time.sleep(0.01)
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def pids(folder, word):
    return [process.pid for process in processes.running(folder, word)]


def test_a_process_is_found_by_its_folder_and_its_word_alone(spawn, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    here, _ = spawn(SLEEPER), spawn(SLEEPER, tmp_path / "elsewhere")
    assert pids(tmp_path, "time.sleep") == [here.pid]
    assert pids(tmp_path, "kafka.Kafka") == []


@pytest.mark.parametrize("code", [SLEEPER, STUBBORN])
def test_stop_ends_even_what_does_not_listen(spawn, tmp_path, code):
    spawn(code)
    processes.stop(processes.running(tmp_path, "time.sleep"), patience_s=0.3)
    assert pids(tmp_path, "time.sleep") == []


def test_an_early_end_is_said_with_the_log(spawn, tmp_path):
    process = spawn("raise SystemExit('no room left')")
    with pytest.raises(ServiceFailed, match=r"(?s)ended with code 1.*no room left"):
        processes.await_answer(process, 1, lambda port: False, tmp_path / "log", patience_s=10)


def test_silence_is_said_when_patience_ends(spawn, tmp_path):
    with pytest.raises(ServiceFailed, match=r"(?s)did not answer within 0 s.*awake"):
        processes.await_answer(spawn(SLEEPER), 1, lambda port: False, tmp_path / "log", patience_s=0)


def test_a_stranger_who_answers_on_the_port_is_not_taken_for_the_process(spawn, tmp_path):
    process = spawn(SLEEPER)
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        with pytest.raises(ServiceFailed, match="did not answer"):
            processes.await_answer(process, port, lambda port: True, tmp_path / "log", patience_s=0.2)


def test_a_free_port_is_nobodys():
    port = processes.free_port()
    assert processes.is_free(port)
    with socket.create_server(("127.0.0.1", port)):
        assert not processes.is_free(port)


def test_jars_that_cannot_be_fetched_are_said_and_leave_nothing_half_done(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(ServiceFailed, match="could not fetch Kafka"):
        kafka.jars()
    assert [path.name for path in (tmp_path / "factorstream").iterdir()] == ["kafka.lock"]


def test_jars_fetched_once_need_no_network(tmp_path, monkeypatch):
    fetched = kafka.jars()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    (tmp_path / "factorstream").mkdir()
    (tmp_path / "factorstream" / fetched.name).symlink_to(fetched)
    assert kafka.jars() == tmp_path / "factorstream" / fetched.name
