"""Owns a view job: the viewer page over a checkpoint, with live adaptation and other versions."""

import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final

from configs import ViewJob
from nerfcore.errors import CheckpointError
from nerfcore.shown_model import ShownModel
from nerfcore.viewer import EndReason, overview_camera, serve
from nerfcore.viewer.address import check_free
from runner.context import JobContext
from runner.device import note_computation
from runner.inputs import find_checkpoint
from runner.ops.live import LiveAdapting, photo_groups
from runner.ops.loading import Loaded, load_model
from runner.ops.versions import LiveVersions

LOOK_EVERY_S: Final = 1.0


def run(context: JobContext[ViewJob]) -> dict[str, Any]:
    """Serve the page until it ends, and return what result.json says of it.

    Raises:
        InterruptedJobError: ended by a signal.
        PortInUseError: the port is taken (told before anything is loaded).
        NerfcoreError: see `nerfcore.errors`.
    """
    job, folder = context.job, context.folder
    check_free(job.viewer_host, job.viewer_port)
    if context.inputs.checkpoint is None:
        context = _with_first_checkpoint(context)
    context.progress.progress("load", 0, 1)
    context, model = _load(context)
    note_computation(folder.run_json, job, model.scene.computation())
    context.progress.progress("load", 1, 1)
    with ExitStack() as stack:
        end = _serve(context, model, stack)
    made = [path for path in folder.of_view if path.is_dir()]
    for path in made:
        context.progress.artifact(path)
    if end is EndReason.STOPPED:
        context.stop.raise_if_asked("what was saved from the page is kept")
    return {"ended_by": end.value, "artifacts": [path.name for path in made]}


def _serve(context: JobContext[ViewJob], model: Loaded, stack: ExitStack) -> EndReason:
    job, dataset = context.job, model.dataset
    inputs = context.inputs
    assert inputs.source is not None and inputs.checkpoint is not None
    name = str(model.checkpoint)
    shown = ShownModel(model.scene, lambda: load_model(job, inputs).scene, name)
    end = serve(
        shown,
        host=job.viewer_host,
        port=job.viewer_port,
        idle_timeout_s=job.viewer_timeout,
        folder=context.folder.root,
        start_camera=overview_camera(model.scene.frame, dataset.train.c2w),
        should_stop=context.stop.is_asked,
        on_ready=lambda url: context.progress.event("viewer_ready", url=url),
        photographs=photo_groups(dataset),
        adapting=LiveAdapting(job, dataset, shown, stack) if dataset.batches else None,
        versions=LiveVersions(context, model, shown, inputs.source),
        is_following=job.follow,
        token=job.viewer_token,
        name=context.job_id,
        about=_about(context, model),
    )
    return end.reason


def _load(context: JobContext[ViewJob]) -> tuple[JobContext[ViewJob], Loaded]:
    """Load the checkpoint; if a followed training removes it meanwhile, the one in its place.

    Raises:
        CheckpointError: it is damaged or of another scene, and nothing has taken its place.
        InterruptedJobError: stopped meanwhile.
    """
    while True:
        try:
            return context, load_model(context.job, context.inputs)
        except CheckpointError:
            if not context.job.follow:
                raise
            newer = _with_first_checkpoint(context)
            if newer.inputs.checkpoint == context.inputs.checkpoint:
                raise
            context = newer


def _with_first_checkpoint(context: JobContext[ViewJob]) -> JobContext[ViewJob]:
    """Wait for the first checkpoint of the followed train job.

    Raises:
        CheckpointError: none came within `viewer_timeout`.
        InterruptedJobError: stopped while waiting.
    """
    job, source = context.job, context.inputs.source
    assert source is not None
    deadline = time.monotonic() + job.viewer_timeout
    while True:
        context.progress.progress("wait", 0, 1)
        try:
            checkpoint = find_checkpoint(source, job.prefix)
        except CheckpointError as error:
            if time.monotonic() > deadline:
                raise CheckpointError(
                    f"follow: {error}; no checkpoint came within viewer_timeout "
                    f"{job.viewer_timeout:g} s"
                ) from error
        else:
            return replace(context, inputs=replace(context.inputs, checkpoint=checkpoint))
        context.stop.raise_if_asked("nothing was shown yet")
        time.sleep(LOOK_EVERY_S)


def _about(context: JobContext[ViewJob], model: Loaded) -> str:
    """Return a few lines about the job, Markdown."""
    train = len(model.dataset.train)
    lines = [
        f"Job **{context.job_id}**",
        f"Model {context.job.checkpoint_path}, {model.checkpoint.name}",
        f"Dataset {model.dataset.root.name}: {train} photographs, "
        f"{len(model.dataset.batches)} later batches",
        f"{len(model.scene.partition)} experts on {model.scene.device}",
    ]
    return "  \n".join(lines)
