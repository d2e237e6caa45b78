"""Traces batches of rays through the experts: march, shade, blend, composite, and the gradient.

The order is: place samples (`sampling.march`), encode and evaluate densities expert by expert,
drop samples behind opaque matter, shade the rest, blend the experts of each sample
(sigma = sum w_k sigma_k, colour = sum w_k c_k), composite. Densities are per metre, distances world
units; `scale_m` converts.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nerfcore import volrend
from nerfcore.encoding.directions import spherical_harmonics
from nerfcore.field.evaluate import FieldBackend, Shaded
from nerfcore.field.parameters import Parameters
from nerfcore.sampling.march import (
    Entries,
    MarchScene,
    Samples,
    group_by_expert,
    local_positions,
    march,
)
from nerfcore.settings import SamplingSettings

RENDER_MIN_WEIGHT = 2e-4


@dataclass(frozen=True)
class TraceScene:
    """Everything but the parameters that tracing needs.

    Attributes:
        march: boxes, routing and occupancy.
        sampling: step lengths and bounds, metres.
        scale_m: metres per world unit.
        backend, device: where and how fields are evaluated.
    """

    march: MarchScene
    sampling: SamplingSettings
    scale_m: float
    backend: FieldBackend
    device: torch.device


@dataclass
class _Group:
    """One expert's entries: which samples, their weights, and the field's values."""

    expert: int
    sample_ids: NDArray[np.int64]
    weights: NDArray[np.float32]
    shaded: Shaded


@dataclass
class Trace:
    """A traced batch: composited rays (before the background) and what the gradient needs."""

    composited: volrend.Composited
    harmonics: Tensor
    samples: Samples
    sample_count: int
    deltas: NDArray[np.float32]
    sigmas: NDArray[np.float32]
    rgbs: NDArray[np.float32]
    groups: list[_Group]


def place_samples(
    scene: TraceScene,
    origins: NDArray[np.float32],
    directions: NDArray[np.float32],
    jitter: NDArray[np.float32],
    max_samples: int | None = None,
) -> Samples:
    """March rays with the scene's sampling settings."""
    s = scene.sampling
    return march(
        scene.march,
        origins,
        directions,
        jitter,
        near=(s.near_m or 0.0) / scene.scale_m,
        far=1e9 if s.far_m is None else s.far_m / scene.scale_m,
        step=s.step_m / scene.scale_m,
        growth=s.step_growth,
        max_samples=min(s.max_samples, max_samples or s.max_samples),
    )


def _blend(
    out: NDArray[np.float32], ids: NDArray[np.int64], weights: NDArray[np.float32], values: Tensor
) -> None:
    """Add one expert's weighted values to its samples; an expert names a sample once."""
    array = values.cpu().numpy()
    out[ids] += array * (weights if array.ndim == 1 else weights[:, None])


def trace(
    scene: TraceScene,
    experts: list[Parameters],
    origins: NDArray[np.float32],
    directions: NDArray[np.float32],
    jitter: NDArray[np.float32],
    *,
    for_gradient: bool,
    max_samples: int | None = None,
) -> Trace:
    """Trace rays through all experts.

    Args:
        scene: what to trace through.
        experts: parameters of each expert.
        origins, directions, jitter: as in `sampling.march.march`.
        for_gradient: keep every lit sample (else those too faint to matter lose their colour).
        max_samples: a lower limit than the scene's.
    """
    samples = place_samples(scene, origins, directions, jitter, max_samples)
    harmonics = spherical_harmonics(torch.from_numpy(directions).to(scene.device))
    entries = group_by_expert(samples, len(experts), None)
    deltas = samples.dts * np.float32(scene.scale_m)
    sigmas = np.zeros(samples.count, np.float32)
    encoded = []
    for k in range(len(experts)):
        ids, weights = _of(entries, k)
        if not len(ids):
            continue
        box = scene.march.box_mins[k], scene.march.box_maxs[k]
        local, rays = local_positions(samples, ids, origins, directions, *box)
        positions = torch.from_numpy(local).to(scene.device)
        with torch.no_grad():
            features = scene.backend.encode(experts[k], positions)
        _blend(sigmas, ids, weights, scene.backend.densities(experts[k], features))
        encoded.append((k, ids, weights, torch.from_numpy(rays), positions, features))
    floor = scene.sampling.min_transmittance
    faint = 0.0 if for_gradient else RENDER_MIN_WEIGHT
    keep = volrend.visible(samples.ray_starts, sigmas, deltas, floor, faint)
    rgbs = np.zeros((samples.count, 3), np.float32)
    groups = []
    for k, ids, weights, rays, positions, features in encoded:
        chosen = np.flatnonzero(keep[ids])
        pick = torch.from_numpy(chosen).to(scene.device)
        shaded = scene.backend.shade(
            experts[k],
            positions[pick],
            features[pick],
            harmonics[rays[chosen].to(scene.device)],
        )
        group = _Group(k, ids[chosen], weights[chosen], shaded)
        _blend(rgbs, group.sample_ids, group.weights, shaded.rgbs)
        groups.append(group)
    composited = volrend.composite(samples.ray_starts, sigmas, rgbs, deltas, samples.ts, floor)
    return Trace(composited, harmonics, samples, int(keep.sum()), deltas, sigmas, rgbs, groups)


def _of(entries: Entries, expert: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    span = slice(int(entries.starts[expert]), int(entries.starts[expert + 1]))
    return entries.sample_ids[span], entries.weights[span]


def accumulate_gradient(
    scene: TraceScene,
    experts: list[Parameters],
    traced: Trace,
    grad: volrend.Composited,
    grads: list[Parameters],
) -> None:
    """Add the loss's gradient to the experts' gradient buffers.

    Args:
        scene, experts, traced: as given to and returned by `trace(for_gradient=True)`.
        grad: gradient of the loss to the composited values.
        grads: one buffer set an expert, added to in place.
    """
    samples = traced.samples
    d_sigmas, d_rgbs = volrend.composite_gradient(
        samples.ray_starts,
        traced.sigmas,
        traced.rgbs,
        traced.deltas,
        samples.ts,
        grad,
        scene.sampling.min_transmittance,
    )
    for group in traced.groups:
        weights = group.weights
        scene.backend.accumulate(
            experts[group.expert],
            group.shaded,
            torch.from_numpy(d_sigmas[group.sample_ids] * weights).to(scene.device),
            torch.from_numpy(d_rgbs[group.sample_ids] * weights[:, None]).to(scene.device),
            grads[group.expert],
        )
