"""Fixtures of the process tests: one embedded broker for all, one bench for each."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from mediator_bench import Bench, running_broker
from two_mediators import Two


@pytest.fixture(scope="session")
def broker_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the address of an embedded broker that lives as long as the tests."""
    with running_broker(tmp_path_factory.mktemp("broker")) as (address, _):
        yield address


@pytest.fixture
def bench(tmp_path: Path, broker_address: str) -> Iterator[Bench]:
    """Give a bench with a topic of its own."""
    bench = Bench(tmp_path, broker_address)
    yield bench
    bench.close()


@pytest.fixture
def two(tmp_path: Path, broker_address: str) -> Iterator[Two]:
    """Give two benches whose log roots lie side by side."""
    two = Two(tmp_path, broker_address)
    yield two
    for bench in two.both:
        bench.close()


@pytest.fixture
def apart(tmp_path: Path, broker_address: str) -> Iterator[Two]:
    """Give two benches of which neither can read the other's log root."""
    apart = Two(tmp_path, broker_address, shared=False)
    yield apart
    for bench in apart.both:
        bench.close()
