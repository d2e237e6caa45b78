"""Owns an eval job: adapt step by step, score after each `tto`, write what people look at.

Order: checks, change map (with the model as it is), the steps, the adapted model where it is to be
kept, then the scores by `tto` and the report: who waits for the adapted model does not wait for the
scores. Models of earlier `tto` are kept until then, as many as `MOST_WAITING_BYTES` hold; where
there are more, those are scored on the way.
"""

import logging
import time
from contextlib import ExitStack
from functools import cached_property, partial
from typing import Any

import numpy as np

from configs import EvalJob
from nerfcore.adaptation import Adapter
from nerfcore.adaptation.exposure import Gains, no_exposure
from nerfcore.adaptation.snapshot import Snapshot
from nerfcore.adaptation.survey import Survey
from nerfcore.checkpoint import CheckpointStore
from nerfcore.checkpoint.versions import keep_original, roll_back
from nerfcore.data.images import ImageStore
from nerfcore.data.records import ImageSet
from nerfcore.errors import NonFiniteError
from nerfcore.evaluation import (
    AdaptationState,
    EvaluationPictures,
    MetricRow,
    Split,
    check_images,
    metrics_frame,
    score_images,
    summarise,
    write_contact_sheet,
    write_metrics,
)
from nerfcore.evaluation.change_map import PICTURE_FILE, write_change_map
from nerfcore.evaluation.halves import keep_half
from nerfcore.evaluation.overlap import require_overlap
from nerfcore.evaluation.report import REPORT_FILE, write_report
from nerfcore.evaluation.retention import SiteErrors
from nerfcore.evaluation.weights import ExpertShares
from nerfcore.geometry.camera import Rendered
from nerfcore.metrics import Lpips, LpipsUnavailable, load_lpips
from nerfcore.sampling.ground import GroundGrid
from nerfcore.scene import SceneModel
from runner.context import JobContext
from runner.device import note_computation
from runner.ops.loading import Loaded, learned_rates, load_model
from runner.ops.protocol import Plan, chosen, plan_of
from runner.ops.settings import adapt_settings

_log = logging.getLogger(__name__)

RETENTION_CELLS = 96  # along the site's longer side
MOST_WAITING_BYTES = 1 << 29
ARTIFACTS = ("metrics.csv", "summary.csv", "gt", "pred", "error", "depth", "comparison")


def run(context: JobContext[EvalJob]) -> dict[str, Any]:
    """Evaluate, and return what result.json says of it.

    Raises:
        InterruptedJobError: stopped on request; metrics of what was scored are written.
        NonFiniteError: a step of adaptation was not finite, or it diverged (see
            `Adapter.require_progress`); the original model is kept, metrics up to there too.
        NerfcoreError: see `nerfcore.errors`.
    """
    with ExitStack() as stack:
        return _Evaluation(context, stack).run()


class _Evaluation:
    """One eval job at work; images stay open until the stack closes."""

    def __init__(self, context: JobContext[EvalJob], stack: ExitStack) -> None:
        self.began_s = time.monotonic()
        self.context = context
        self.job = context.job
        self.stack = stack
        self.rows: list[MetricRow] = []
        self.extra: dict[str, Any] = {}
        context.progress.progress("load", 0, 1)
        self.model: Loaded = load_model(context.job, context.inputs)
        note_computation(context.folder.run_json, context.job, self.model.scene.computation())
        self.plan: Plan = plan_of(context.job, self.model.dataset)
        self._require_overlap()
        self.scored: list[tuple[Split, ImageStore]] = [
            (split, self._open(sets, split)) for split, sets in self.plan.scored
        ]
        for split, store in self.scored:
            check_images(store, chosen(len(store), self.job.max_images), split)
        self.old: ImageStore | None = None
        self.adapter = self._adapter() if self.job.tto_steps[-1] > 0 else None
        self.waiting: list[tuple[AdaptationState, Snapshot]] = []
        self.pictures = EvaluationPictures(context.folder.root)
        self.shares = ExpertShares(self.model.scene.partition, self.model.scene.scale_m)
        context.progress.progress("load", 1, 1)

    def run(self) -> dict[str, Any]:
        """Adapt and score for each tto in turn."""
        root, artifacts = self.context.folder.root, list(ARTIFACTS)
        if self.adapter is not None and self._looks_first():
            survey = self.adapter.look_over()
            if self.job.batch is not None and self.job.change_map:
                self._map_changes(survey)
        self.site = self._site_errors()
        *earlier, last = self.job.tto_steps
        for tto in earlier:
            self._adapt_to(tto)
            self._score_later(tto)
        self._adapt_to(last)
        if self.job.save_adapted and last > 0:
            self._save(last)
        try:
            self._score_all(last)
        except NonFiniteError:
            self._go_back()
            raise
        artifacts += [PICTURE_FILE] if "changed_areas" in self.extra else []
        retention = self.site.write(root)
        self._note_retention()
        artifacts += [retention.name] if retention is not None else []
        if self.job.save_adapted and self.job.tto_steps[-1] > 0:
            artifacts.append("checkpoints")
        result = {
            "summary": self._summary(),
            "lpips": self.rows[-1].lpips_note,
            **self.extra,
            "artifacts": [*artifacts, REPORT_FILE],
        }
        write_report(root, self._facts())
        self.context.progress.artifact(root / REPORT_FILE)
        return result

    @cached_property
    def lpips(self) -> Lpips | LpipsUnavailable:
        """The network, read when the first image is scored."""
        return load_lpips(self.model.scene.device)

    def _looks_first(self) -> bool:
        job = self.job
        return job.exposure or job.local or (job.batch is not None and job.change_map)

    def _require_overlap(self) -> None:
        scene = self.model.scene
        for images in self.plan.adapt if self.job.batch is not None else ():
            require_overlap(images, scene.partition, scene.scale_m, f"batch = {self.job.batch}")

    def _open(self, sets: tuple[ImageSet, ...], split: Split) -> ImageStore:
        store = self.stack.enter_context(ImageStore(sets, self.job.downscale))
        if self.plan.halves and split != "old_val":
            keep_half(store, "left" if split == "adapted" else "right")
        return store

    def _adapter(self) -> Adapter:
        job, dataset = self.job, self.model.dataset
        settings = adapt_settings(job, learned_rates(job, self.model))
        if settings.replay > 0 or settings.local or (job.batch is not None and job.change_map):
            self.old = self._open((dataset.train,), "old_val")
        return Adapter(
            self.model.scene,
            self._open(self.plan.adapt, "adapted"),
            settings,
            old=self.old,
            new_points=self.plan.points,
        )

    def _note_retention(self) -> None:
        """Say how old views fared where the new images disagree, and everywhere else."""
        survey = None if self.adapter is None else self.adapter.survey
        if survey is None or survey.found is None or self.site.grid != survey.found.grid:
            return
        found = self.site.beside(survey.disagreeing())
        if found is not None:
            self.extra["old_val_by_place"] = found

    def _site_errors(self) -> SiteErrors:
        scene, survey = self.model.scene, None if self.adapter is None else self.adapter.survey
        if survey is not None and survey.found is not None:
            return SiteErrors(survey.found.grid, scene.scale_m)
        low, high = scene.partition.aabb[:, 1:]
        cell = float((high - low).max()) / RETENTION_CELLS
        return SiteErrors(GroundGrid.over(low, high, cell), scene.scale_m)

    def _map_changes(self, survey: Survey) -> None:
        if survey.found is None:
            return
        root, frame = self.context.folder.root, self.model.scene.frame
        changed = survey.changed()
        areas = write_change_map(root, survey.found, changed, frame)
        cell_m = survey.found.grid.cell * frame.pose_scale_factor_m
        self.extra["changed_areas"] = len(areas)
        self.extra["changed_m2"] = round(float(changed.sum()) * cell_m**2, 1)
        self.extra["disagreeing_m2"] = round(float(survey.disagreeing().sum()) * cell_m**2, 1)
        self.context.progress.artifact(root / PICTURE_FILE)

    def _adapt_to(self, tto: int) -> None:
        """Go on adapting until `tto` steps are taken in all."""
        adapter, total = self.adapter, self.job.tto_steps[-1]
        while adapter is not None and adapter.steps < tto:
            self._stop_if_asked()
            try:
                result = adapter.step()
                if result.step == total:
                    adapter.require_progress()
            except NonFiniteError as error:
                self._score_waiting()
                adapter.reset()
                raise NonFiniteError(
                    f"{error}; the original model {self._origin()} is kept, no adapted one is saved"
                ) from error
            self.context.progress.progress(
                "adapt", result.step, total, loss=result.loss, psnr=result.psnr
            )
        if adapter is not None and tto > 0:
            seconds = round(time.monotonic() - self.began_s, 3)
            self.context.progress.event("adapted", tto=tto, seconds_since_start=seconds)
            self.extra["seconds_to_adapted"] = seconds
            self.extra["adapt_seconds"] = round(adapter.seconds, 3)
            if adapter.changes_nothing:
                self._say_unchanged()

    def _say_unchanged(self) -> None:
        if "unchanged" not in self.extra:
            note = (
                "local: the new images disagree with the model nowhere, so adaptation left it as "
                "it was; set local to false to adapt all of it"
            )
            self.extra["unchanged"] = note
            _log.warning("%s", note)

    def _score_later(self, tto: int) -> None:
        """Keep the model as it is now for scoring; where that takes too much memory, score now."""
        adapter, held = self.adapter, sum(kept.bytes for _, kept in self.waiting)
        if adapter is None or held + adapter.snapshot_bytes > MOST_WAITING_BYTES:
            self._score_all(tto)
        else:
            self.waiting.append((self._state(tto), adapter.snapshot()))

    def _score_all(self, tto: int) -> None:
        """Score what waits, then the model as it is now."""
        self._score_waiting()
        self._score(self._state(tto), self.model.scene)

    def _score_waiting(self) -> None:
        while self.waiting and self.adapter is not None:
            state, kept = self.waiting.pop(0)
            self._score(state, self.adapter.shown(kept))

    def _score(self, state: AdaptationState, scene: SceneModel) -> None:
        for split, store in self.scored:
            rows, stopped = self._score_split(state, scene, split, store)
            self.rows += rows
            if rows:
                write_metrics(self.context.folder.root, self.rows)
            if stopped:
                self._stop_if_asked()
        rows = [record for record in self._summary() if record["tto"] == state.tto]
        self.context.progress.event("metrics", rows=rows)
        write_contact_sheet(self.context.folder.root, state.tto)
        for path in (self.context.folder.metrics_csv, self.context.folder.pred / str(state.tto)):
            self.context.progress.artifact(path)

    def _score_split(
        self, state: AdaptationState, scene: SceneModel, split: Split, store: ImageStore
    ) -> tuple[tuple[MetricRow, ...], bool]:
        tto = state.tto

        def tell(done: int, total: int, row: MetricRow) -> None:
            self.context.progress.progress(
                "render", done, total, tto=tto, split=split, psnr=row.psnr
            )

        def remember(index: int, rendered: Rendered) -> None:
            if split == "old_val":
                self.site.add(tto, store, index, rendered)

        scored = score_images(
            scene,
            store,
            chosen(len(store), self.job.max_images),
            split,
            state,
            lpips=self.lpips,
            pictures=self.pictures,
            exposure_of=partial(self._gains, tto, split),
            shares=self.shares,
            on_rendered=remember,
            on_progress=tell,
            should_stop=self.context.stop.is_asked,
        )
        return scored.rows, scored.stopped

    def _gains(self, tto: int, split: Split, index: int) -> Gains:
        """Exposure that a rendering is shown with: nothing held out was looked at to find it."""
        if self.adapter is None or tto == 0 or split == "old_val":
            return no_exposure()
        if split == "adapted" or self.plan.halves:
            return self.adapter.gains_of(index)
        return self.adapter.typical_gains

    def _state(self, tto: int) -> AdaptationState:
        seconds = self.adapter.seconds if self.adapter is not None and tto > 0 else 0.0
        rays = tto * self.job.support_rays
        return AdaptationState(tto, seconds, rays, self.job.seed, self._origin())

    def _origin(self) -> str:
        return f"{self.job.checkpoint_path}:{self.model.checkpoint.name}"

    def _save(self, tto: int) -> None:
        """Keep the adapted model beside the one it came from."""
        folder = self.context.folder.checkpoints
        original = keep_original(folder, self.model.checkpoint)
        extra = {"adapted_from": self._origin(), "tto": tto, "batch": self.job.batch}
        step = self.model.step + tto
        path = CheckpointStore(folder).save(self.model.scene, step, extra=extra)
        self.extra["versions"] = [original.name, path.name]
        self.context.progress.event("checkpoint", path=path, step=step)

    def _go_back(self) -> None:
        """Let the original count again, where an adapted model was kept that cannot be scored."""
        if "versions" in self.extra:
            roll_back(self.context.folder.checkpoints, self.extra["versions"][0])

    def _facts(self) -> dict[str, Any]:
        """What the report says of the job besides its metrics."""
        job = self.job
        names = ("batch", "protocol", "replay", "local", "exposure", "adapt", "support_rays")
        fields = {name: getattr(job, name) for name in names}
        typical = no_exposure() if self.adapter is None else self.adapter.typical_gains
        return {
            "job": self.context.job_id,
            "checkpoint": self._origin(),
            "seed": job.seed,
            **fields,
            "typical_exposure_log2": np.round(typical, 3).tolist(),
            **self.extra,
        }

    def _summary(self) -> list[dict[str, Any]]:
        """Return the mean scores per tto and split."""
        records = summarise(metrics_frame(self.rows)).to_dict("records")
        return [{str(name): value for name, value in record.items()} for record in records]

    def _stop_if_asked(self) -> None:
        saved = f"{len(self.rows)} scores are in metrics.csv" if self.rows else "nothing was scored"
        self.context.stop.raise_if_asked(saved)
