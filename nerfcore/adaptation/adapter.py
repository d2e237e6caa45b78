"""Test-time adaptation: a few Adam steps on new images, mixed with rays of old ones.

The model given is adapted in place; `reset` brings parameters, local variants and occupancy back
as they were. Every step draws its rays from pixel indices; no ray is stored. A local adaptation
gives the ground cells where the new images disagree copies of their experts and trains only those.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nerfcore.adaptation.disagreement import grown
from nerfcore.adaptation.divergence import NEW_LOSE_DB, OLD_LOSE_DB, WITNESS_RAYS, Witness
from nerfcore.adaptation.exposure import Gains, exposed, no_exposure
from nerfcore.adaptation.looks import LookAt, look
from nerfcore.adaptation.rays import BlockSampler, Reached, ending_in, reached_by
from nerfcore.adaptation.settings import AdaptSettings
from nerfcore.adaptation.snapshot import Snapshot, copied, shown_by, snapshot_of
from nerfcore.adaptation.survey import Survey, survey_new_images
from nerfcore.data.images import ImageStore
from nerfcore.data.records import SparsePoints
from nerfcore.errors import NonFiniteError, SettingsError
from nerfcore.field.parameters import Parameters
from nerfcore.sampling.ground import GroundGrid
from nerfcore.sampling.occupancy import admit_points
from nerfcore.scene import SceneModel
from nerfcore.training.learner import Learner, Rates, psnr_of
from nerfcore.training.parts import rates_of_part
from nerfcore.training.pixels import PixelSampler, RayBatch, joined
from nerfcore.training.schedule import training_sampling
from nerfcore.variants import with_variants

BAND_STEPS = 2.0
LOWER_RATES = "lower encoding_lr, sigma_lr and color_lr, or check the new images and their poses"


@dataclass(frozen=True)
class StepResult:
    """One adaptation step: its number (1-based), loss, PSNR in dB of its rays, seconds so far.

    Loss and PSNR are finite, and of the model before the step.
    """

    step: int
    loss: float
    psnr: float
    seconds: float


class Adapter:
    """Adapts a scene model to new images.

    Attributes:
        survey, reached: what the first step needs to know, once it was found; may be given by
            whoever has it of the same model and images.
        changes_nothing: a local adaptation found no ground cell where the new images disagree, so
            its steps leave the model as it is; known from the first step on.
    """

    def __init__(
        self,
        scene: SceneModel,
        new: ImageStore,
        settings: AdaptSettings,
        *,
        old: ImageStore | None = None,
        new_points: SparsePoints | None = None,
    ) -> None:
        """Prepare to adapt.

        Args:
            scene: adapted in place.
            new: images to adapt to.
            settings: how.
            old: images to replay from and to compare with; needed when `settings.replay` > 0 or
                `settings.local`.
            new_points: sparse points of the new images, which open occupancy cells.

        Raises:
            SettingsError: replay or a local update without old images.
        """
        self._new, self._old = new, old
        self._require_old(settings)
        self.scene = scene
        self.settings = settings
        self.old_rays = round(settings.rays * settings.replay) if old is not None else 0
        self._points = new_points
        self._initial: dict[int, Parameters] = {}
        self._before: dict[int, Parameters] = {}
        self._initial_background = copied(scene.background)
        self._initial_cells = scene.occupancy.state()
        self._initial_experts, self._initial_variants = scene.experts, scene.variants
        self.survey: Survey | None = None
        self.reached: Reached | None = None
        self._begin()

    def _require_old(self, settings: AdaptSettings) -> None:
        for field, wanted in (("replay", settings.replay > 0), ("local", settings.local)):
            if wanted and (self._old is None or not len(self._old)):
                value = getattr(settings, field)
                raise SettingsError(f"{field} {value}: needs old images, the dataset has none")

    def _begin(self) -> None:
        rng = np.random.default_rng(self.settings.seed)
        self._rng = rng
        self._rates = rates_of_part(self.settings.rates, self.settings.part)
        self._draw_new: Callable[[int], RayBatch] = PixelSampler(self._new, rng).draw
        self._draw_old: Callable[[int], RayBatch] | None = None
        if self._old is not None and len(self._old):
            self._draw_old = PixelSampler(self._old, rng).draw
        self._gains: NDArray[np.float32] | None = None
        self._witnesses: list[tuple[RayBatch, Witness]] = []
        self.changes_nothing = False
        self._make_learner()
        self.steps = 0
        self.seconds = 0.0

    def _make_learner(self) -> None:
        self.learner = Learner(self.scene, self._rng)
        self.learner.before_change = self._keep
        self.learner.sampling = training_sampling(self.scene.sampling, 1.0)

    def _keep(self, expert: int) -> None:
        """Keep an expert as it was before its first change, and where a step must be scaled."""
        if self.settings.factors is not None:
            self._before[expert] = copied(self.scene.experts[expert])
        if expert not in self._initial and expert < len(self._initial_experts):
            self._initial[expert] = copied(self.scene.experts[expert])

    def reset(self) -> None:
        """Bring the model back to what it was when the adapter was made."""
        self.scene.experts, self.scene.variants = self._initial_experts, self._initial_variants
        pairs = [(self.scene.experts[k], initial) for k, initial in self._initial.items()]
        for parameters, initial in [*pairs, (self.scene.background, self._initial_background)]:
            for name, value in initial.items():
                parameters[name].copy_(value)
        self.scene.occupancy.restore(self._initial_cells)
        self._begin()

    def _changed(self) -> list[int]:
        """Experts that may differ from before adaptation, local copies included."""
        return [*self._initial, *range(len(self._initial_experts), len(self.scene.experts))]

    @property
    def snapshot_bytes(self) -> int:
        """What a snapshot taken now would hold."""
        scene = self.scene
        held = [*scene.background.values(), *self._initial_cells]
        return scene.architecture.bytes() * len(self._changed()) + sum(one.nbytes for one in held)

    def snapshot(self) -> Snapshot:
        """Keep the model as it is now, to be shown when later steps have changed it."""
        return snapshot_of(self.scene, self._changed())

    def shown(self, snapshot: Snapshot) -> SceneModel:
        """The model as a snapshot kept it; render it before the next step or `reset`."""
        unchanged = [self._initial.get(k, own) for k, own in enumerate(self._initial_experts)]
        return shown_by(snapshot, self.scene, unchanged)

    def gains_of(self, image: int) -> Gains:
        """Exposure of an adapted image, by its index in the new store; zeros before a survey."""
        return no_exposure() if self._gains is None else self._gains[image]

    @property
    def typical_gains(self) -> Gains:
        """Exposure of the new flight's images that were not adapted to."""
        if self._gains is None or self.survey is None:
            return no_exposure()
        return self.survey.typical_gains

    def step(self) -> StepResult:
        """Take one step; the first one surveys the new images before, where settings need it.

        Raises:
            NonFiniteError: the loss or a gradient is not finite; the model is as before the step,
                `reset` brings back the one before adaptation.
        """
        if self.steps == 0:
            self._prepare()
        began_s = time.monotonic()
        batch = self._exposed(self._draw_new(self.settings.rays - self.old_rays))
        if self.steps == 0:
            self._bear_witness("the first step's rays", batch, NEW_LOSE_DB)
        if self._draw_old is not None and self.old_rays:
            batch = joined([batch, self._draw_old(self.old_rays)])
        mse, _ = self.learner.step(batch, self._rates)
        if not math.isfinite(mse):
            raise NonFiniteError(
                f"adaptation step {self.steps + 1}: loss or gradient is not finite; {LOWER_RATES}"
            )
        self._scale_step()
        self.steps += 1
        self.seconds += time.monotonic() - began_s
        return StepResult(self.steps, mse, psnr_of(mse), self.seconds)

    def retune(self, rays: int, replay: float, rates: Rates) -> None:
        """Go on with other rays and rates; what was surveyed, copied and learnt stays.

        Args:
            rays, replay, rates: as in the settings.

        Raises:
            SettingsError: out of range, or replay without old images.
        """
        settings = replace(self.settings, rays=rays, replay=replay, rates=rates)
        self._require_old(settings)
        self.settings = settings
        self.old_rays = round(rays * replay) if self._old is not None else 0
        self._rates = rates_of_part(rates, settings.part)

    def divergence(self) -> str | None:
        """Return how the steps so far diverged, one line, or None; see `divergence.Witness`."""
        for batch, witness in self._witnesses:
            now, _, _ = self.scene.render_rays(batch.origins, batch.directions)
            reason = witness.divergence(now)
            if reason is not None:
                return reason
        return None

    def require_progress(self) -> None:
        """Refuse what the steps so far made of the model, if they diverged.

        Raises:
            NonFiniteError: they did.
        """
        reason = self.divergence()
        if reason is not None:
            raise NonFiniteError(
                f"after adaptation step {self.steps}: diverged, {reason}; {LOWER_RATES}"
            )

    def _bear_witness(self, name: str, batch: RayBatch, most_lost_db: float) -> None:
        """Keep some rays of a batch, and how the model shows them now."""
        few = RayBatch(
            batch.origins[:WITNESS_RAYS], batch.directions[:WITNESS_RAYS],
            batch.rgbs[:WITNESS_RAYS], batch.image_ids[:WITNESS_RAYS],
        )  # fmt: skip
        before, _, _ = self.scene.render_rays(few.origins, few.directions)
        self._witnesses.append((few, Witness(name, few.rgbs, before, most_lost_db)))

    def _scale_step(self) -> None:
        """Apply the learned inner rates to what the step moved."""
        factors, variants = self.settings.factors, self.scene.variants
        for expert, before in self._before.items():
            if factors is None:
                break
            base = expert if variants is None else int(variants.bases[expert])
            own, now = factors.mlp_factors(base), self.scene.experts[expert]
            for name, value in before.items():
                if name == "table":
                    factors.scale_table(base, value, now[name])
                else:
                    now[name].copy_(value.lerp(now[name], own[name.split(".")[0]]))
        self._before.clear()

    def _exposed(self, batch: RayBatch) -> RayBatch:
        """The rays' colours as the model's exposure shows them."""
        if self._gains is None:
            return batch
        return replace(batch, rgbs=exposed(batch.rgbs, -self._gains[batch.image_ids]))

    def look_over(self) -> Survey:
        """Survey the new images with the model as it was before adaptation; once."""
        if self.survey is None:
            began_s = time.monotonic()
            self.survey = survey_new_images(self.scene, self._new, self._old, look)
            self.seconds += time.monotonic() - began_s
        return self.survey

    def prepare(self, look_at: LookAt) -> None:
        """Survey before the first step where it needs that, beside others who use the model.

        Args:
            look_at: looks at one image, when the model is free; nothing else here uses the model.
                What this takes is not counted in `seconds`.
        """
        if self._needs_survey and self.survey is None:
            self.survey = survey_new_images(self.scene, self._new, self._old, look_at)
        if self.settings.local and self.survey is not None:
            self._reach(self.survey)

    @property
    def _needs_survey(self) -> bool:
        return self.settings.exposure or self.settings.local

    def _prepare(self) -> None:
        s = self.settings
        if self._needs_survey:
            self.look_over()
        if s.exposure and self.survey is not None:
            self._gains = np.stack([self.survey.gains[i] for i in range(len(self._new))])
        if s.local and self.survey is not None and self.survey.found is not None:
            self._go_local(self.survey, self.survey.found.grid)
        else:
            self._admit(None)
            self._spare_changed()

    def _admit(self, within: tuple[GroundGrid, NDArray[np.bool_]] | None) -> None:
        """Open cells for matter near the new points, perhaps only above some ground cells."""
        if self._points is not None:
            margin = BAND_STEPS * self.scene.sampling.step_m / self.scene.scale_m
            admit_points(self.scene.occupancy, self._points.xyz, margin, within)

    def _go_local(self, survey: Survey, grid: GroundGrid) -> None:
        """Give the disagreeing cells copies of their own, and draw only rays that meet them."""
        scene, cells = self.scene, survey.disagreeing()
        owners = _owners_above(scene, grid, cells)
        count = len(scene.partition.centroids)
        scene.variants, scene.experts, fresh = with_variants(
            scene.variants, scene.experts, count, grid, cells, owners
        )
        self._make_learner()
        self.learner.only, self.learner.observes = frozenset(fresh), False
        self._admit((grid, cells))
        self.changes_nothing = not fresh
        if not fresh:
            return
        reached = self._reach(survey)
        self._draw_new = BlockSampler(self._new, survey.new, reached.new, self._rng).draw
        self._replay(survey, reached.old)

    def _reach(self, survey: Survey) -> Reached:
        """Which blocks' rays meet the disagreeing cells; found once."""
        if self.reached is None:
            self.reached = reached_by(survey, self.scene.partition.aabb)
        return self.reached

    def _spare_changed(self) -> None:
        """Let replay not hold on to what the new images contradict."""
        survey = self.survey
        if survey is not None and survey.found is not None and survey.outdated().any():
            self._replay(survey, [np.ones(one.valid.shape, np.bool_) for one in survey.old])

    def _replay(self, survey: Survey, masks: Sequence[NDArray[np.bool_]]) -> None:
        """Replay these blocks of the old looks, without what ends in outdated cells."""
        if self._draw_old is None or self._old is None or survey.found is None:
            return
        grid, changed = survey.found.grid, grown(survey.outdated())
        kept = [
            mask & one.valid & ~ending_in(one, grid, changed)
            for mask, one in zip(masks, survey.old, strict=True)
        ]
        if not any(mask.any() for mask in kept):
            self._draw_old = None
            return
        self._draw_old = BlockSampler(self._old, survey.old, kept, self._rng).draw
        if not (self.settings.replay > 0 or self.settings.local):
            return  # nobody promised to keep them: what they lose is reported, not refused
        own = np.random.default_rng([self.settings.seed, 1])  # witnesses change no step's rays
        batch = BlockSampler(self._old, survey.old, kept, own).draw(WITNESS_RAYS)
        self._bear_witness("old rays", batch, OLD_LOSE_DB)


def _owners_above(
    scene: SceneModel, grid: GroundGrid, cells: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Experts whose boxes reach over a chosen cell, bool[K]."""
    low = np.asarray(grid.low) + np.argwhere(cells) * grid.cell
    p = scene.partition
    found = np.zeros(len(p.centroids), np.bool_)
    for k in range(len(found)):
        meets = (low < p.box_maxs[k, 1:]) & (low + grid.cell > p.box_mins[k, 1:])
        found[k] = bool(meets.all(1).any())
    return found
