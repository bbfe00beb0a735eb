"""The alerts, and every query of alerts and dashboard, on a real Prometheus that scrapes a worker's real ``/metrics``."""

import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
import uuid
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
import yaml
from kafka import KafkaAdminClient, KafkaProducer
from prometheus_client import generate_latest

from factorstream import Rating
from factorstream.codec import encode
from factorstream.worker.adapters.prometheus import Metrics
from factorstream.worker.local import generated
from tests.ticks import DURABLE, PUBLISHED, QUIET

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/factorstream.json").read_text())
RULES = [rule for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"] for rule in group["rules"]]
QUERIES = {
    f"{panel['title']}: {target['legendFormat'] or 'value'}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}
VARIABLES = {"$instance": ".*", "$__rate_interval": "5s"}
"""What Grafana would put in place of its template variables."""


def program(name):
    """Return where *name* is; without it there is nothing to test, which under CI is a failure."""
    found = shutil.which(name)
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is not installed: Debian's package prometheus has it")
    return found


def promtool(*arguments, given=""):
    command = [program("promtool"), *arguments]
    done = subprocess.run(
        command, cwd=DEPLOY / "prometheus", input=given, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_the_configuration():
    promtool("check", "config", "prometheus.yml")


def test_prometheus_accepts_the_alerts():
    promtool("check", "rules", "alerts.yml")


def test_every_alert_fires_when_it_should_and_only_then():
    promtool("test", "rules", "alerts_test.yml")


def test_every_alert_is_tested_firing_and_not_firing():
    cases = [
        case
        for group in yaml.safe_load((DEPLOY / "prometheus/alerts_test.yml").read_text())["tests"]
        for case in group["alert_rule_test"]
    ]
    alerts = {rule["alert"] for rule in RULES}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == alerts


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_says_how_bad_it_is_and_where_to_read_on(rule):
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]
    page, anchor = rule["annotations"]["runbook_url"].split("#")
    headings = re.findall(r"^#+ (.+)$", (DEPLOY.parent / page).read_text(), re.MULTILINE)
    assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_alert_is_found_in_the_run_book_by_its_name():
    text = (DEPLOY / "README.md").read_text()
    assert [rule["alert"] for rule in RULES if f"### {rule['alert']}\n" not in text] == []


def test_names_and_units_of_the_metrics_are_as_prometheus_likes_them():
    metrics = Metrics()
    metrics.observe(
        replace(QUIET, rejects={"not_json": 1}, seconds={"poll": 0.1}, lag={0: 3}, published=PUBLISHED, durable=DURABLE)
    )
    promtool("check", "metrics", given=generate_latest(metrics.registry).decode())


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def configure(folder, worker, own):
    """Write deploy's configuration into *folder*, but for other addresses and a faster pace."""
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "250ms", "evaluation_interval": "250ms"}
    for job, target in zip(config["scrape_configs"], [worker, own], strict=True):
        job["static_configs"] = [{"targets": [target]}]
    shutil.copy(DEPLOY / "prometheus/alerts.yml", folder)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))


class Prometheus:
    """A running Prometheus, asked over its own interface."""

    def __init__(self, address):
        self._address = address

    def ask(self, path, **parameters):
        with urllib.request.urlopen(
            f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=10
        ) as answer:
            return json.load(answer)["data"]

    def values(self, query):
        """Return the numbers that *query* yields now."""
        return [float(series["value"][1]) for series in self.ask("query", query=query)["result"]]

    def wait_for(self, query, timeout_s=30):
        """Wait until *query* yields something."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                if self.values(query):
                    return
            except URLError:
                pass  # it is still starting
            time.sleep(0.1)
        pytest.fail(f"Prometheus has no answer to {query} after {timeout_s} s")


@contextmanager
def running_prometheus(folder, worker):
    """Run a real Prometheus that scrapes *worker*."""
    own = f"127.0.0.1:{free_port()}"
    configure(folder, worker, own)
    command = [program("prometheus"), "--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address={own}"]
    with (folder / "log").open("w") as log, subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) as process:
        try:
            yield Prometheus(own)
        finally:
            process.terminate()


@contextmanager
def fed_topic(kafka):
    """Make a topic, and feed it for minutes with 500 events a second, some of them unreadable; yield its name."""
    topic, stop = f"ratings-{uuid.uuid4().hex[:12]}", threading.Event()
    with KafkaAdminClient(bootstrap_servers=kafka) as admin:
        admin.create_topics({topic: {"num_partitions": 4, "replication_factor": 1}}, wait_for_metadata=True)

    def feed():
        stream = generated.ratings(200_000, 2_000, 500)
        columns = zip(stream.users, stream.items, stream.ratings.tolist(), stream.timestamps_ms.tolist(), strict=True)
        with KafkaProducer(bootstrap_servers=kafka) as producer:
            for j, (user, item, rating, timestamp_ms) in enumerate(columns):
                if j % 50 == 0:
                    producer.send(topic, b"no rating")
                    if stop.wait(0.1):
                        return
                producer.send(topic, encode(Rating(f"u{user}", f"m{item}", rating, timestamp_ms)), key=b"u%d" % user)

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield topic
    finally:
        stop.set()
        thread.join()


@contextmanager
def running_worker(folder, kafka, redis_url):
    """Run ``factorstream run`` on a stream that does not end; yield where its metrics are, ``host:port``."""
    address = f"127.0.0.1:{free_port()}"
    with fed_topic(kafka) as topic, (folder / "worker.log").open("w") as log:
        settings = {
            "kafka.bootstrap_servers": kafka,
            "kafka.topic": topic,
            "kafka.dead_letter_topic": f"{topic}.dead",
            "redis.url": redis_url,
            "model.name": topic,
            "checkpoint.dir": folder / "checkpoints",
            "checkpoint.interval_s": 0.5,
            "metrics.port": address.rpartition(":")[2],
        }
        assignments = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        command = [sys.executable, "-m", "factorstream.worker.cli.main", "run", *assignments]
        with subprocess.Popen(command, stdout=log, stderr=log) as process:
            try:
                wait_until_ready(address, process, log.name)
                yield address
            finally:
                process.terminate()


def wait_until_ready(address, process, log, timeout_s=120):
    """Wait until the worker says that it is ready; fail with the end of its log when it ends or takes too long."""
    deadline = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://{address}/health/ready", timeout=5):
                return
        except URLError:
            time.sleep(0.1)
    pytest.fail(f"the worker is not ready; its log ends:\n{Path(log).read_text()[-3000:]}")


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory, kafka, redis_url):
    program("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    with running_worker(folder, kafka, redis_url) as worker, running_prometheus(folder, worker) as running:
        running.wait_for("count_over_time(factorstream_checkpoint_bytes[10s]) > 8", timeout_s=60)
        yield running


def substituted(expression):
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


@pytest.mark.parametrize("expression", QUERIES.values(), ids=QUERIES.keys())
def test_every_query_of_the_dashboard_has_an_answer(prometheus, expression):
    values = prometheus.values(substituted(expression))
    assert values
    assert not any(math.isnan(value) for value in values)


def test_the_dashboard_offers_the_workers_there_are(prometheus):
    (variable,) = DASHBOARD["templating"]["list"]
    metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
    assert [series[label] for series in prometheus.ask("series", **{"match[]": metric})]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_asks_for_metrics_that_there_are(prometheus, rule):
    """An alert on a name with a typing error would never fire."""
    names = set(re.findall(r"\b(?:factorstream_\w+|up)\b", rule["expr"].replace('"factorstream"', "")))
    assert names
    assert [name for name in names if not prometheus.values(f"count({name})")] == []
    prometheus.values(rule["expr"])


def test_prometheus_evaluates_the_alerts_without_an_error(prometheus):
    rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == {rule["alert"] for rule in RULES}
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    assert {rule.get("lastError", "") for rule in rules} == {""}


def test_a_worker_that_writes_dead_letters_raises_that_alert_alone(prometheus):
    prometheus.wait_for('ALERTS{alertname="FactorstreamDeadLetters", alertstate="firing"}')
    alerts = prometheus.ask("alerts")["alerts"]
    assert {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"} == {"FactorstreamDeadLetters"}
