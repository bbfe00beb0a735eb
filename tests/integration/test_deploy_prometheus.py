"""The alerts, and every query of alerts and dashboard, on a real Prometheus that scrapes a worker's real ``/metrics``."""

import json
import math
import os
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from urllib.error import URLError

import pytest
import yaml
from prometheus_client import generate_latest

from factorstream.worker.adapters.prometheus import Metrics
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
    metrics.observe(busy_tick(20))
    promtool("check", "metrics", given=generate_latest(metrics.registry).decode())


def busy_tick(turn):
    """A turn of a worker to which everything happens now and then."""
    return replace(
        QUIET,
        n_records=110,
        n_accepted=100,
        n_stale=8,
        rejects={"not_json": 1, "bad_id": 1},
        squared_error=90.0 + turn % 7,
        absolute_error=80.0,
        n_errors=100,
        n_blocks=1,
        n_visits=400,
        published=replace(PUBLISHED, oldest_record_ms=int(time.time() * 1000) - 20 - turn % 50),
        durable=replace(DURABLE, position=100 * turn) if turn % 20 == 0 else None,
        seconds={"poll": 0.01, "decode": 0.002, "learn": 0.01, "sweep": 0.02, "publish": 0.004, "checkpoint": 0.001},
        lag={0: 3, 1: 0, 2: turn % 5, 3: 1},
        n_pending=5,
        n_sweeps=turn // 100,
        sweep_progress=turn % 100 / 100,
        n_users=turn,
        n_items=turn,
        n_ratings=100 * turn,
        position=100 * turn,
    )


@contextmanager
def ticking_metrics():
    """Serve the metrics of a worker that turns twenty times a second; yield their address, ``host:port``."""
    metrics, stop = Metrics(info={"version": "test"}), threading.Event()

    def turn():
        for number in count(1):
            metrics.observe(busy_tick(number))
            if stop.wait(0.05):
                return

    server, thread = metrics.serve("127.0.0.1", 0), threading.Thread(target=turn)
    thread.start()
    yield f"127.0.0.1:{server.port}"
    stop.set()
    thread.join()
    server.close()


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


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    with ticking_metrics() as worker, running_prometheus(tmp_path_factory.mktemp("prometheus"), worker) as running:
        running.wait_for("count_over_time(factorstream_checkpoint_bytes[10s]) > 8")
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
    assert {alert["labels"]["alertname"] for alert in prometheus.ask("alerts")["alerts"]} == {"FactorstreamDeadLetters"}
