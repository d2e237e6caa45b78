"""A view job follows a train job that is at work beside it: each new checkpoint is shown."""

import re
import time

from kafka_brokers import free_port
from mediator_bench import wait_for
from running_system import JOB_S, System, demo_spec, small_train
from wire import WireClient, difference

from configs import Roots, ViewJob, parse_job
from nerfcore.geometry.camera import Camera
from nerfcore.viewer import overview_camera
from runner.inputs import find_inputs
from runner.ops.loading import load_model

SIZE_PX = (240, 160)
VERSIONS = 3


def test_each_new_checkpoint_of_a_running_training_is_shown(system: System) -> None:
    """Published before there is a checkpoint, the view waits for the first, then shows the rest."""
    port = free_port()
    system.send(small_train(job_id="watched-train", time_limit_s=300.0, save_step=20))
    address = {"viewer_host": "127.0.0.1", "viewer_port": port, "viewer_timeout": 120.0}
    view = demo_spec("view", job_id="watching-view", checkpoint_path="watched-train", **address)
    system.send({**view, "follow": True})
    wait_for("a viewer", lambda: f":{port}" in _log(system, "watching-view"), JOB_S)
    with WireClient(port) as client:
        first = _picture(client, _camera(system, view))
        shown = _versions_shown(client)
        assert len(set(shown)) >= VERSIONS and shown == sorted(shown), "newer and newer"
        assert system.state_is("watched-train", "running"), "it is followed at work"
        later = _picture(client, _camera(system, view))
        client.set_control("End viewer", True)
    assert difference(first, later) > 0.5, "the picture follows the model"
    system.wait_state("watching-view", "succeeded", JOB_S)
    system.send({"op": "cancel", "job_id": "watched-train"})
    system.wait_state("watched-train", "cancelled", JOB_S)


def _log(system: System, job_id: str) -> str:
    path = system.folder(job_id).runner_log
    return path.read_text() if path.exists() else ""


def _camera(system: System, view: dict[str, object]) -> Camera:
    job = parse_job(view)
    assert isinstance(job, ViewJob)
    roots = Roots.below(system.project, None, system.logs)
    model = load_model(job, find_inputs(job, roots))
    return overview_camera(model.scene.frame, model.dataset.train.c2w, *SIZE_PX)


def _picture(client: WireClient, camera: Camera):
    client.look(camera)
    return client.picture(SIZE_PX[0], within_s=JOB_S)


def _versions_shown(client: WireClient) -> list[int]:
    """Collect the steps that the page names as shown, until there were some."""
    shown: list[int] = []
    deadline = time.monotonic() + JOB_S
    while len(set(shown)) < VERSIONS:
        for message in client.messages(max(0.0, deadline - time.monotonic())):
            said = re.findall(
                r"Shown: \*\*watched-train: step(\d+)\*\*", str(message.get("updates", ""))
            )
            shown += map(int, said)
    return shown
