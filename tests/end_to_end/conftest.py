"""Fixtures of the end-to-end tests: one tiny city, one broker, one mediator, one trained model."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from mediator_bench import running_broker
from running_system import City, System, running_system, small_train

from configs.artifacts import JobFolder


@pytest.fixture(scope="session")
def city(tmp_path_factory: pytest.TempPathFactory) -> City:
    """Give the city; tests only read it."""
    return City(tmp_path_factory.mktemp("city"))


@pytest.fixture(scope="session")
def broker_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the address of an embedded broker on a port of its own."""
    with running_broker(tmp_path_factory.mktemp("broker")) as (address, _):
        yield address


@pytest.fixture(scope="session")
def system(city: City, broker_address: str) -> Iterator[System]:
    """Give the system that most tests share; at the end it must stop cleanly."""
    with running_system(city.project, broker_address) as running:
        yield running


@pytest.fixture
def own_system(city: City, broker_address: str, tmp_path: Path) -> Iterator[System]:
    """Give a system with a log root of its own, to be killed and restarted."""
    with running_system(city.project, broker_address, tmp_path / "logs") as running:
        yield running


@pytest.fixture(scope="session")
def trained(system: System) -> JobFolder:
    """Give the folder of a train job published with send_config."""
    limits = {"outer_steps": 120, "time_limit_s": 15.0}
    spec = small_train(job_id="tiny-train", **limits, save_step=40, eval_step=40)
    output = system.send_config(spec)
    for text in ("tiny-train  queued", "running", "succeeded: wrote checkpoints, tensorboard"):
        assert text in output
    return system.folder("tiny-train")
