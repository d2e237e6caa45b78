"""docker-compose.yml against the compose specification's structure, and against this project.

No Docker engine is needed: the file is parsed, every key is checked against what the specification
allows for the element it stands in, and every reference (volumes, services, ports, files, command
line options) against what it refers to.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "Dockerfile"

# The compose specification's keys, as far as a service of ours could sensibly use them.
TOP_KEYS = {"name", "services", "volumes", "networks", "configs", "secrets", "include"}
SERVICE_KEYS = {
    "annotations", "build", "cap_add", "cap_drop", "command", "configs", "container_name",
    "cpus", "depends_on", "deploy", "devices", "entrypoint", "env_file", "environment", "expose",
    "extra_hosts", "healthcheck", "hostname", "image", "init", "labels", "logging", "mem_limit",
    "networks", "platform", "ports", "profiles", "pull_policy", "read_only", "restart", "runtime",
    "secrets", "security_opt", "shm_size", "stop_grace_period", "stop_signal", "tmpfs", "ulimits",
    "user", "volumes", "working_dir",
}  # fmt: skip
BUILD_KEYS = {"args", "cache_from", "context", "dockerfile", "labels", "network", "target"}
HEALTH_KEYS = {
    "disable",
    "interval",
    "retries",
    "start_interval",
    "start_period",
    "test",
    "timeout",
}
CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}
RESTARTS = {"no", "always", "on-failure", "unless-stopped"}
DURATION = re.compile(r"(\d+(us|ms|s|m|h))+")
PORT = re.compile(r"((?P<host>[\d.]+):)?(?P<published>\d+):(?P<target>\d+)(/(tcp|udp))?")
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(:-(?P<default>[^}]*))?\}")


class StrictLoader(yaml.SafeLoader):
    """Refuses a key given twice, which YAML loaders otherwise let pass."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key is given twice: {keys}"
        return super().construct_mapping(node, deep=deep)


def defaults(value: Any) -> Any:
    """Put in every variable's default, as compose does when none is set."""
    if isinstance(value, dict):
        return {key: defaults(item) for key, item in value.items()}
    if isinstance(value, list):
        return [defaults(item) for item in value]
    return VARIABLE.sub(lambda found: found["default"], value) if isinstance(value, str) else value


@pytest.fixture(scope="module")
def raw() -> dict[str, Any]:
    return yaml.load(COMPOSE.read_text(), Loader=StrictLoader)


@pytest.fixture(scope="module")
def compose(raw) -> dict[str, Any]:
    return defaults(raw)


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions, continued lines joined."""
    text = re.sub(r"\\\n", " ", DOCKERFILE.read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def test_every_variable_has_a_default(raw):
    """`docker compose up` needs no environment."""
    for found in VARIABLE.finditer(COMPOSE.read_text()):
        assert found["default"] is not None, found[0]
    assert "$" not in VARIABLE.sub("", COMPOSE.read_text())


def test_keys_are_the_specifications(compose):
    assert set(compose) <= TOP_KEYS
    assert re.fullmatch(r"[a-z0-9][a-z0-9_-]*", compose["name"])
    for name, service in compose["services"].items():
        assert re.fullmatch(r"[a-zA-Z0-9._-]+", name)
        assert set(service) <= SERVICE_KEYS, name
        assert "image" in service or "build" in service, name
        assert service.get("restart", "no") in RESTARTS
        assert set(service.get("build", {})) <= BUILD_KEYS
        assert set(service.get("healthcheck", {})) <= HEALTH_KEYS


def test_values_have_the_specifications_types(compose):
    for service in compose["services"].values():
        for value in service.get("environment", {}).values():
            assert isinstance(value, str)
        for part in service.get("command", []):
            assert isinstance(part, str)
        for port in service.get("ports", []):
            found = PORT.fullmatch(port)
            assert found, port
            assert 0 < int(found["target"]) < 65536
        if "stop_grace_period" in service:
            assert DURATION.fullmatch(service["stop_grace_period"])
        health = service.get("healthcheck", {})
        for key in ("interval", "timeout", "start_period"):
            assert DURATION.fullmatch(health.get(key, "1s"))
        assert health.get("test", ["CMD"])[0] in {"CMD", "CMD-SHELL", "NONE"}


def test_references_lead_somewhere(compose):
    """Services, named volumes and build files that are referred to exist."""
    services, volumes = compose["services"], compose["volumes"]
    for service in services.values():
        for name, terms in service.get("depends_on", {}).items():
            assert name in services
            assert terms["condition"] in CONDITIONS
            if terms["condition"] == "service_healthy":
                assert "healthcheck" in services[name]
        for volume in service.get("volumes", []):
            source, target = volume.split(":")[:2]
            assert target.startswith("/")
            assert source.startswith("./") or source in volumes
        if "build" in service:
            assert (ROOT / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    used = {volume.split(":")[0] for item in services.values() for volume in item["volumes"]}
    assert set(volumes) <= used


def test_nothing_is_open_to_the_network_by_default(compose):
    for service in compose["services"].values():
        for port in service["ports"]:
            assert port.startswith("127.0.0.1:")


def test_kafka_is_pinned_and_its_listeners_agree(compose):
    """A fixed version, one node in both roles, and every listener mapped and advertised."""
    kafka = compose["services"]["kafka"]
    assert re.fullmatch(r"apache/kafka:\d+\.\d+\.\d+", kafka["image"])
    environment = kafka["environment"]
    assert set(environment["KAFKA_PROCESS_ROLES"].split(",")) == {"broker", "controller"}
    listeners = dict(item.split("://") for item in environment["KAFKA_LISTENERS"].split(","))
    advertised = dict(
        item.split("://") for item in environment["KAFKA_ADVERTISED_LISTENERS"].split(",")
    )
    protocols = dict(
        item.split(":") for item in environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")
    )
    controller = environment["KAFKA_CONTROLLER_LISTENER_NAMES"]
    assert set(listeners) == set(protocols) == {*advertised, controller}
    assert environment["KAFKA_INTER_BROKER_LISTENER_NAME"] in advertised
    for name, address in advertised.items():
        assert address.rpartition(":")[2] == listeners[name].rpartition(":")[2]
    node, _, voter = environment["KAFKA_CONTROLLER_QUORUM_VOTERS"].partition("@")
    assert node == environment["KAFKA_NODE_ID"]
    assert voter.rpartition(":")[2] == listeners[controller].rpartition(":")[2]
    assert f"kafka-data:{environment['KAFKA_LOG_DIRS']}" in kafka["volumes"]
    for name, value in environment.items():
        if name.endswith(("REPLICATION_FACTOR", "MIN_ISR")):
            assert value == "1", name
    assert re.fullmatch(r"[A-Za-z0-9_-]{22}", environment["CLUSTER_ID"])


def test_the_mediator_reaches_kafka_and_is_reached(compose):
    """It waits for a healthy Kafka, connects to an advertised address, and publishes the viewer."""
    mediator, kafka = compose["services"]["mediator"], compose["services"]["kafka"]
    assert mediator["depends_on"]["kafka"]["condition"] == "service_healthy"
    broker = mediator["command"][mediator["command"].index("--broker") + 1]
    advertised = kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert f"INTERNAL://{broker}" in advertised.split(",")
    assert broker in kafka["healthcheck"]["test"]
    assert [PORT.fullmatch(port)["target"] for port in mediator["ports"]] == ["7070"]
    targets = {volume.split(":")[1] for volume in mediator["volumes"]}
    workdir = dict(instructions())["WORKDIR"]
    assert targets == {f"{workdir}/data", f"{workdir}/logs"}


def test_the_mediators_command_line_is_one_it_accepts(compose):
    """Every option of the compose file and the Dockerfile is in `python -m mediator run --help`."""
    finished = subprocess.run(
        [sys.executable, "-m", "mediator", "run", "--help"],
        capture_output=True, text=True, timeout=30, env={"COLUMNS": "200", "PATH": "/usr/bin"},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    steps = dict(instructions())
    assert steps["ENTRYPOINT"] == '["python", "-m", "mediator"]'
    words = [*compose["services"]["mediator"]["command"], *yaml.safe_load(steps["CMD"])]
    for word in words:
        assert not word.startswith("--") or word in finished.stdout, word


def test_the_dockerfile_copies_what_there_is_and_runs_without_rights():
    """Copied files exist, the base is pinned, the user is not root."""
    steps = instructions()
    assert steps[0][0] == "FROM"
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", steps[0][1])
    for name, value in steps:
        if name == "COPY":
            for source in value.split()[:-1]:
                assert source == "." or "*" in source or (ROOT / source).exists(), source
    assert dict(steps)["USER"] not in {"root", "0"}
    known = {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in steps} <= known


def test_the_image_leaves_out_data_and_history():
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", "data", "logs"} <= set(ignored)
