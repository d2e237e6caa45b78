"""Owns a view job: the viewer page over a checkpoint, with live adaptation to a batch."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from configs import ViewJob
from nerfcore.adaptation import Adapter
from nerfcore.checkpoint import announce, save_checkpoint
from nerfcore.data.images import ImageStore
from nerfcore.viewer import EndReason, overview_camera, serve
from nerfcore.viewer.address import check_free
from runner.context import JobContext
from runner.ops.loading import Loaded, load_model
from runner.ops.settings import adapt_settings


def run(context: JobContext[ViewJob]) -> dict[str, Any]:
    """Serve the page until it ends, and return what result.json says of it.

    Raises:
        InterruptedJobError: ended by a signal.
        PortInUseError: the port is taken (told before anything is loaded).
        NerfcoreError: see `nerfcore.errors`.
    """
    job, folder = context.job, context.folder
    check_free(job.viewer_host, job.viewer_port)
    context.progress.progress("load", 0, 1)
    model = load_model(job, context.inputs)
    context.progress.progress("load", 1, 1)
    with ExitStack() as stack:
        end = serve(
            model.scene,
            host=job.viewer_host,
            port=job.viewer_port,
            idle_timeout_s=job.viewer_timeout,
            folder=folder.root,
            start_camera=overview_camera(model.scene.frame, model.dataset.train.c2w),
            make_adapter=_adapter_maker(job, model, stack),
            save_checkpoint=_saver(context, model),
            should_stop=context.stop.is_asked,
            on_ready=lambda url: context.progress.event("viewer_ready", url=url),
        )
    made = [path for path in (folder.screenshots, folder.checkpoints) if path.is_dir()]
    for path in made:
        context.progress.artifact(path)
    if end.reason is EndReason.STOPPED:
        context.stop.raise_if_asked("screenshots and saved checkpoints are kept")
    return {"ended_by": end.reason.value, "artifacts": [path.name for path in made]}


def _adapter_maker(job: ViewJob, model: Loaded, stack: ExitStack) -> Callable[[], Adapter] | None:
    """Return what builds the adapter at the first start of adaptation; None without a batch."""
    if job.batch is None:
        return None
    batch = model.dataset.batch(job.batch)
    settings = adapt_settings(job)

    def make() -> Adapter:
        new = stack.enter_context(ImageStore(batch.adapt, job.downscale))
        old = None
        if settings.replay > 0:
            old = stack.enter_context(ImageStore(model.dataset.train, job.downscale))
        return Adapter(model.scene, new, settings, old=old, new_points=batch.points)

    return make


def _saver(context: JobContext[ViewJob], model: Loaded) -> Callable[[Path], None]:
    """Return what writes the shown model to a new folder and tells so."""
    origin = f"{context.job.checkpoint_path}:{model.checkpoint.name}"

    def save(path: Path) -> None:
        extra = {"adapted_from": origin, "batch": context.job.batch}
        save_checkpoint(model.scene, path, model.step, extra)
        announce(path.parent, path.name)
        context.progress.event("checkpoint", path=path, step=model.step)

    return save
