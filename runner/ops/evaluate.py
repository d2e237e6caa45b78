"""Owns an eval job: adapt step by step, score after each `tto`, write metrics and pictures."""

import logging
from contextlib import ExitStack
from typing import Any

from configs import EvalJob
from nerfcore.adaptation import Adapter
from nerfcore.checkpoint import CheckpointStore
from nerfcore.data.images import ImageStore
from nerfcore.data.records import ImageSet
from nerfcore.evaluation import (
    AdaptationState,
    EvaluationPictures,
    MetricRow,
    Split,
    metrics_frame,
    score_images,
    summarise,
    write_contact_sheet,
    write_metrics,
)
from nerfcore.metrics import load_lpips
from runner.context import JobContext
from runner.device import note_computation
from runner.ops.loading import Loaded, load_model
from runner.ops.protocol import Plan, chosen, plan_of
from runner.ops.settings import adapt_settings

_log = logging.getLogger(__name__)


def run(context: JobContext[EvalJob]) -> dict[str, Any]:
    """Evaluate, and return what result.json says of it.

    Raises:
        InterruptedJobError: stopped on request; metrics of what was scored are written.
        NerfcoreError: see `nerfcore.errors`.
    """
    with ExitStack() as stack:
        return _Evaluation(context, stack).run()


class _Evaluation:
    """One eval job at work; images stay open until the stack closes."""

    def __init__(self, context: JobContext[EvalJob], stack: ExitStack) -> None:
        self.context = context
        self.job = context.job
        self.stack = stack
        self.rows: list[MetricRow] = []
        context.progress.progress("load", 0, 1)
        self.model: Loaded = load_model(context.job, context.inputs)
        note_computation(context.folder.run_json, context.job, self.model.scene.computation())
        self.plan: Plan = plan_of(context.job, self.model.dataset)
        self.scored: list[tuple[Split, ImageStore]] = [
            (split, self._open(sets)) for split, sets in self.plan.scored
        ]
        self.adapter = self._adapter() if self.job.tto_steps[-1] > 0 else None
        self.lpips = load_lpips(self.model.scene.device)
        self.pictures = EvaluationPictures(context.folder.root)
        context.progress.progress("load", 1, 1)

    def run(self) -> dict[str, Any]:
        """Adapt and score for each tto in turn."""
        for tto in self.job.tto_steps:
            self._adapt_to(tto)
            self._score(tto)
        artifacts = ["metrics.csv", "gt", "pred", "comparison"]
        if self.job.save_adapted:
            self._save(self.job.tto_steps[-1])
            artifacts.append("checkpoints")
        return {
            "summary": self._summary(),
            "lpips": self.rows[-1].lpips_note,
            "artifacts": artifacts,
        }

    def _open(self, sets: tuple[ImageSet, ...]) -> ImageStore:
        return self.stack.enter_context(ImageStore(sets, self.job.downscale))

    def _adapter(self) -> Adapter:
        settings = adapt_settings(self.job)
        old = self._open((self.model.dataset.train,)) if settings.replay > 0 else None
        return Adapter(
            self.model.scene,
            self._open(self.plan.adapt),
            settings,
            old=old,
            new_points=self.plan.points,
        )

    def _adapt_to(self, tto: int) -> None:
        """Go on adapting until `tto` steps are taken in all."""
        adapter, total = self.adapter, self.job.tto_steps[-1]
        while adapter is not None and adapter.steps < tto:
            self._stop_if_asked()
            result = adapter.step()
            self.context.progress.progress(
                "adapt", result.step, total, loss=result.loss, psnr=result.psnr
            )

    def _score(self, tto: int) -> None:
        for split, store in self.scored:
            rows, stopped = self._score_split(tto, split, store)
            self.rows += rows
            if rows:
                write_metrics(self.context.folder.root, self.rows)
            if stopped:
                self._stop_if_asked()
        rows = [record for record in self._summary() if record["tto"] == tto]
        self.context.progress.event("metrics", rows=rows)
        write_contact_sheet(self.context.folder.root, tto)
        for path in (self.context.folder.metrics_csv, self.context.folder.pred / str(tto)):
            self.context.progress.artifact(path)

    def _score_split(
        self, tto: int, split: Split, store: ImageStore
    ) -> tuple[tuple[MetricRow, ...], bool]:
        def tell(done: int, total: int, row: MetricRow) -> None:
            self.context.progress.progress(
                "render", done, total, tto=tto, split=split, psnr=row.psnr
            )

        scored = score_images(
            self.model.scene,
            store,
            chosen(len(store), self.job.max_images),
            split,
            self._state(tto),
            lpips=self.lpips,
            pictures=self.pictures,
            on_progress=tell,
            should_stop=self.context.stop.is_asked,
        )
        return scored.rows, scored.stopped

    def _state(self, tto: int) -> AdaptationState:
        seconds = self.adapter.seconds if self.adapter is not None else 0.0
        rays = tto * self.job.support_rays
        return AdaptationState(tto, seconds, rays, self.job.seed, self._origin())

    def _origin(self) -> str:
        return f"{self.job.checkpoint_path}:{self.model.checkpoint.name}"

    def _save(self, tto: int) -> None:
        extra = {"adapted_from": self._origin(), "tto": tto, "batch": self.job.batch}
        store = CheckpointStore(self.context.folder.checkpoints)
        path = store.save(self.model.scene, self.model.step + tto, extra=extra)
        self.context.progress.event("checkpoint", path=path, step=self.model.step + tto)

    def _summary(self) -> list[dict[str, Any]]:
        """Return the mean scores per tto and split."""
        records = summarise(metrics_frame(self.rows)).to_dict("records")
        return [{str(name): value for name, value in record.items()} for record in records]

    def _stop_if_asked(self) -> None:
        saved = f"{len(self.rows)} scores are in metrics.csv" if self.rows else "nothing was scored"
        self.context.stop.raise_if_asked(saved)
