"""``factorstream demo``, plain and without a network: it plays to its end, and nothing survives it, however it ends."""

import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.integration.real_worker import COMMAND, await_true


@pytest.fixture
def start(tmp_path):
    """Return a function that starts the demonstration in an empty folder; no package index is within reach."""

    def begin(*arguments):
        environment = os.environ | {"PIP_INDEX_URL": "http://127.0.0.1:1/", "PIP_NO_CACHE_DIR": "1"}
        log = (tmp_path / "output").open("w")
        started.append(
            subprocess.Popen(
                [*COMMAND, "demo", *arguments],
                cwd=tmp_path,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )
        return started[-1]

    started = []
    yield begin
    for process in started:
        process.kill()
        process.wait()
    subprocess.run([sys.executable, "-c", CLEAN, str(tmp_path)], check=False)


CLEAN = """
import sys; from pathlib import Path; from factorstream.worker.cli.demo import stop_all; stop_all(Path(sys.argv[1]) / ".run")
"""


def output(folder):
    return (folder / "output").read_text()


def left_behind(folder):
    return [p.info for p in psutil.process_iter(["cwd", "cmdline"]) if (p.info["cwd"] or "").startswith(str(folder / ".run"))]


def test_it_plays_to_its_end(start, tmp_path):
    assert start("--rate", "20000").wait(120) == 0, output(tmp_path)
    said = output(tmp_path)
    assert "a generated stream takes its place" in said
    assert "100,000 of 100,000 learned" in said
    assert re.search(r"100,000 ratings in \d+ s", said)
    assert "cosine" in said
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("Ctrl-C ends it", signal.SIGINT),
        ("Apache Kafka on", signal.SIGTERM),
        ("the worker on", signal.SIGHUP),
        (" of 100,000 learned", signal.SIGINT),
    ],
)
def test_nothing_survives_an_interruption(start, tmp_path, moment, number):
    process = start()
    await_true(lambda: moment in output(tmp_path) or process.poll() is not None, 90)
    time.sleep(0.3)
    process.send_signal(number)
    assert process.wait(60) == 130, output(tmp_path)
    assert left_behind(tmp_path) == []
    assert "Traceback" not in output(tmp_path)


def test_one_at_a_time_uses_a_folder(start, tmp_path):
    first = start()
    await_true(lambda: "Ctrl-C ends it" in output(tmp_path), 30)
    time.sleep(0.2)
    second = subprocess.run([*COMMAND, "demo"], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert second.returncode == 2
    assert "runs in .run already" in second.stderr
    first.send_signal(signal.SIGINT)
    first.wait(60)
