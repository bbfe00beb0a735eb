"""docker-compose.yml and what it mounts, checked as files: no container engine is needed, and none is used."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from factorstream.worker import config

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE = yaml.safe_load(TEXT)
SERVICES = COMPOSE["services"]
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
RUN_BOOK = (ROOT / "deploy/README.md").read_text()
OF_IMAGE = dict(re.findall(r"\b(FACTORSTREAM__\w+)=(\S+)", DOCKERFILE))
"""Settings that the image brings along."""


def interpolated(text, environment=None):
    """Replace ``${NAME:-default}`` as Compose does, and ``$$`` by ``$``."""
    environment = environment or {}
    return re.sub(r"(?<!\$)\$\{(\w+):-([^}]*)\}", lambda found: environment.get(found[1], found[2]), str(text)).replace("$$", "$")


def mounts(service):
    """Yield (source, target) of every volume of *service*."""
    for volume in SERVICES[service].get("volumes", []):
        source, target = interpolated(volume).split(":")[:2]
        yield source, target


def worker_settings():
    environment = {name: interpolated(value) for name, value in SERVICES["worker"]["environment"].items()}
    return config.load(environment=OF_IMAGE | environment)


def test_the_file_follows_the_compose_specification():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_image_is_pinned_to_a_version():
    built = {"factorstream:local"}
    images = {service["image"] for service in SERVICES.values()} - built | set(
        re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    )
    for image in images:
        assert re.search(r":v?\d+\.\d+\.\d+", image), image


def test_every_long_running_service_has_a_health_check_and_comes_back():
    jobs = {"topics", "replay"}
    for name in SERVICES.keys() - jobs:
        assert SERVICES[name]["healthcheck"]["test"], name
        assert SERVICES[name]["restart"] == "unless-stopped", name


def test_a_service_waits_only_for_services_that_there_are():
    for name, service in SERVICES.items():
        for other, wait in service.get("depends_on", {}).items():
            assert other in SERVICES, name
            assert wait["condition"] != "service_healthy" or "healthcheck" in SERVICES[other], name


def test_every_variable_has_a_default_and_is_in_the_run_book():
    variables = re.findall(r"(?<!\$)\$(?!\$)(\{[^}]*\}|\w+)", TEXT)
    assert variables
    for variable in variables:
        found = re.fullmatch(r"\{(\w+):-[^}]*\}", variable)
        assert found, f"${variable} has no default"
        assert f"`{found[1]}`" in RUN_BOOK


def test_every_mounted_path_exists_and_every_named_volume_is_declared():
    named = set()
    for service in SERVICES:
        for source, _ in mounts(service):
            if source.startswith((".", "/")):
                assert (ROOT / source).exists(), source
            else:
                named.add(source)
    assert named == COMPOSE["volumes"].keys()


def test_every_published_port_is_this_machines_alone():
    for service in SERVICES.values():
        for port in service.get("ports", []):
            assert interpolated(port).startswith("127.0.0.1:"), port


def test_the_worker_accepts_its_environment():
    settings = worker_settings()
    assert settings.redis.url == "redis://redis:6379/0"
    assert settings.metrics.host == "0.0.0.0"  # else no other container could scrape it
    assert "redis" in SERVICES
    assert settings.kafka.bootstrap_servers in SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]


def test_a_misspelt_variable_would_be_noticed():
    with pytest.raises(config.UserMistake, match=r"kafka\.topic"):
        config.load(environment=OF_IMAGE | {"FACTORSTREAM__KAFKA__TOPICS": "ratings"})


def test_what_compose_sets_by_default_is_the_workers_own_default():
    defaults, settings = config.Settings(), worker_settings()
    assert (settings.model, settings.kafka.topic) == (defaults.model, defaults.kafka.topic)


def test_checkpoints_and_compiled_code_survive_the_container():
    targets = [Path(target) for _, target in mounts("worker")]
    assert any(target in worker_settings().checkpoint.dir.parents for target in targets)
    assert Path(re.search(r"NUMBA_CACHE_DIR=(\S+)", DOCKERFILE)[1]) in targets
    owned = re.search(r"install --directory --owner factorstream .*", DOCKERFILE)[0]
    assert all(str(target) in owned for target in targets)


def test_the_topics_that_are_made_are_those_that_the_worker_uses():
    settings = worker_settings()
    script = interpolated(SERVICES["topics"]["command"][0])
    assert f"for topic in {settings.kafka.topic} {settings.kafka.dead_letter_topic};" in script
    assert "cleanup.policy=delete" in script
    assert f"--topic {settings.kafka.topic} " in SERVICES["replay"]["command"][0]


@pytest.mark.parametrize("service", ["topics", "replay"])
def test_the_scripts_are_shell(service):
    script = interpolated(SERVICES[service]["command"][0])
    subprocess.run([SERVICES[service]["entrypoint"][0], "-n", "-c", script], check=True)


def test_the_stream_is_generated_when_no_file_is_named(tmp_path):
    """The script as it is, but shorter: the last command says what it would replay."""
    script = interpolated(SERVICES["replay"]["command"][0])
    script = script.replace("1_000_000", "1_000").replace("/tmp/", f"{tmp_path}/").replace("python -c", f"'{sys.executable}' -c")
    script = script.replace("exec factorstream", "echo")
    done = subprocess.run(
        ["sh", "-ec", script],
        cwd=ROOT,
        env={"RATINGS_FILE": "", "REPLAY_RATE": "5", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"replay {tmp_path}/generated.csv --topic ratings --kafka kafka:9092 --rate 5\n"
    assert len((tmp_path / "generated.csv").read_text().splitlines()) == 1_001


@pytest.mark.parametrize(("command", "options"), [("run", []), ("replay", ["--topic", "--kafka", "--rate"]), ("evaluate", [])])
def test_the_commands_exist(command, options):
    done = subprocess.run(
        [sys.executable, "-m", "factorstream.worker.cli.main", command, "--help"],
        cwd=ROOT,
        env={"COLUMNS": "200", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [option for option in options if option not in done.stdout] == []


def test_prometheus_scrapes_the_worker():
    scrape = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"][0]
    assert scrape["static_configs"][0]["targets"] == [f"worker:{worker_settings().metrics.port}"]
    assert f":{worker_settings().metrics.port}/health/live" in " ".join(SERVICES["worker"]["healthcheck"]["test"])


def test_grafana_finds_prometheus_and_the_dashboard():
    provisioning = ROOT / "deploy/grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards/factorstream.yml").read_text())["providers"]
    assert source["url"] == "http://prometheus:9090"
    targets = {target: source for source, target in mounts("grafana")}
    assert "/etc/grafana/provisioning" in targets
    dashboards = list((ROOT / targets[provider["options"]["path"]]).glob("*.json"))
    assert len(dashboards) == 1
    used = set(re.findall(r'"datasource": \{\s*"type": "prometheus",\s*"uid": "(\w+)"', dashboards[0].read_text()))
    assert used == {source["uid"]}
    assert SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].endswith(f"/{dashboards[0].name}")


def test_every_panel_of_the_dashboard_has_its_own_place():
    panels = json.loads((ROOT / "deploy/grafana/dashboards/factorstream.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (place["x"] + x, place["y"] + y)
        for panel in panels
        for place in [panel["gridPos"]]
        for x in range(place["w"])
        for y in range(place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_the_image_is_built_from_files_that_there_are(tmp_path):
    """The first stage, done here: what the Dockerfile copies is enough for a wheel with the worker inside."""
    copied = [name for line in re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()]
    allowed = (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines()
    for name in copied:
        assert f"!{name}" in allowed
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", "wheels", "."]
    subprocess.run(build, cwd=tmp_path, check=True)
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "factorstream/worker/loop.py" in names
    assert not [name for name in names if name.startswith("worker/")]


def test_the_reference_configuration_is_what_the_worker_prints():
    """Make it anew with: factorstream config --reference > deploy/factorstream.toml"""
    file = ROOT / "deploy/factorstream.toml"
    assert file.read_text().rstrip() == config.reference().rstrip()
    assert config.load(file, environment={}) == config.Settings()


def test_the_run_book_quotes_errors_as_they_are():
    """What stands between the dots of each quotation is in the source, whose literals may go on over lines."""
    sources = "".join(path.read_text() for path in sorted((ROOT / "worker").rglob("*.py")))
    sources = re.sub(r'"\s*\n\s*f?"', "", sources)
    table = RUN_BOOK.partition("| it says |")[2].partition("\n\n")[0]
    quotations = [re.sub(r" \(.*?\)", "", row.split("|")[1]).strip() for row in table.splitlines()[2:]]
    assert len(quotations) > 10
    for quotation in quotations:
        for fragment in re.split(r" ?… ?|/", quotation):
            assert fragment.strip() in sources, fragment
