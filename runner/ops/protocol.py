"""Owns which images an eval job adapts to and which it scores, as its `protocol` says.

- holdout with a batch: adapt on the batch's adapt split; score its held-out split (`new_heldout`),
  the adapted images (`adapted`) and the validation images (`old_val`).
- holdout without a batch: adapt on the even-numbered validation images; score the odd ones
  (`new_heldout`) and the even ones (`adapted`); with nothing to adapt (tto 0 alone) score every
  validation image (`old_val`).
- fit: adapt on and score the same images: the whole batch, or every validation image.
- half: adapt on the left halves of those images; score the right halves (`new_heldout`), the left
  ones (`adapted`) and, with a batch, the validation images (`old_val`).
"""

from dataclasses import dataclass

import numpy as np

from configs import EvalJob
from nerfcore.data.records import Dataset, ImageSet, SparsePoints
from nerfcore.errors import DataError
from nerfcore.evaluation import Split
from nerfcore.evaluation.halves import left_points

Scored = tuple[Split, tuple[ImageSet, ...]]


@dataclass(frozen=True)
class Plan:
    """What to adapt to and what to score.

    Attributes:
        adapt: sets of images adapted to.
        points: sparse points that what is adapted to sees, None when there are none of their own.
        scored: each split with its images, none of them empty.
        halves: only left halves are adapted to and scored as `adapted`, right ones as
            `new_heldout`.
    """

    adapt: tuple[ImageSet, ...]
    points: SparsePoints | None
    scored: tuple[Scored, ...]
    halves: bool = False


def plan_of(job: EvalJob, dataset: Dataset) -> Plan:
    """Return the plan of a job.

    Raises:
        DataError: nothing to adapt to although `tto` asks for it, or nothing to score.
    """
    plan = _batch_plan(job, dataset) if job.batch is not None else _validation_plan(job, dataset)
    if job.tto_steps[-1] > 0 and not any(len(images) for images in plan.adapt):
        raise DataError(f"tto = {job.tto}: {_where(job)} has no image to adapt to; {_mend(job)}")
    scored: tuple[Scored, ...] = tuple(
        (split, _filled(sets)) for split, sets in plan.scored if _filled(sets)
    )
    if not scored:
        raise DataError(f"{_where(job)} has no image to score; {_mend(job)}")
    return Plan(_filled(plan.adapt), plan.points, scored, plan.halves)


def chosen(count: int, most: int | None) -> list[int]:
    """Return indices of at most `most` of `count` images, evenly spaced."""
    if most is None or count <= most:
        return list(range(count))
    return np.linspace(0, count - 1, most).round().astype(int).tolist()


def _batch_plan(job: EvalJob, dataset: Dataset) -> Plan:
    batch = dataset.batch(job.batch or "")
    both = (batch.adapt, batch.heldout)
    if job.protocol == "fit":
        return Plan(both, batch.points, (("adapted", both),))
    if job.protocol == "half":
        scored: tuple[Scored, ...] = (
            ("new_heldout", both),
            ("adapted", both),
            ("old_val", (dataset.val,)),
        )
        points = None if batch.points is None else left_points(batch.points, batch.adapt)
        return Plan(both, points, scored, halves=True)
    return Plan(
        (batch.adapt,),
        batch.points,
        (
            ("new_heldout", (batch.heldout,)),
            ("adapted", (batch.adapt,)),
            ("old_val", (dataset.val,)),
        ),
    )


def _validation_plan(job: EvalJob, dataset: Dataset) -> Plan:
    val = dataset.val
    if job.protocol == "fit":
        return Plan((val,), None, (("adapted", (val,)),))
    if job.protocol == "half":
        return Plan((val,), None, (("new_heldout", (val,)), ("adapted", (val,))), halves=True)
    if job.tto_steps[-1] == 0:
        return Plan((), None, (("old_val", (val,)),))
    even, odd = val.subset(range(0, len(val), 2)), val.subset(range(1, len(val), 2))
    return Plan((even,), None, (("new_heldout", (odd,)), ("adapted", (even,))))


def _filled(sets: tuple[ImageSet, ...]) -> tuple[ImageSet, ...]:
    return tuple(images for images in sets if len(images))


def _where(job: EvalJob) -> str:
    return f"batch {job.batch}" if job.batch is not None else "the validation split"


def _mend(job: EvalJob) -> str:
    if job.batch is not None:
        return "choose another batch"
    return "prepare the dataset with a larger --val_split, or name a batch"
