"""A running viewer of the boxes scene, and a client of its raw websocket."""

import pytest
from running_viewer import running_viewer
from wire import WireClient


@pytest.fixture
def viewer(tmp_path):
    with running_viewer(tmp_path) as running:
        yield running


@pytest.fixture
def client(viewer):
    with WireClient(viewer.port) as connected:
        yield connected
