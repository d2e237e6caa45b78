"""The CPU's tracer: march, encode level by level, then chunk by chunk through MLPs and light.

The hash grid wants all points of a level at once (its table stays in cache), the MLPs and the
compositing want few rays at once (their activations stay in cache). So a batch is marched and
encoded whole, then its rays are dealt to the workers in chunks that do everything else, forward
and backward, before the next; at the end the features' gradients go back to the tables. Nothing
here is done expert by expert but by the compiled passes, so that many experts cost no more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from nerfcore.compiled import EXACT
from nerfcore.encoding import directions, numba_grid
from nerfcore.encoding.splats import Splats
from nerfcore.field.parameters import Architecture, Parameters
from nerfcore.field.workers import for_each, worker_count
from nerfcore.sampling.entries import Entries, entry_positions, group_by_expert
from nerfcore.sampling.march import Samples
from nerfcore.tracing import chunk
from nerfcore.tracing.chunk_memory import Batch, Targets
from nerfcore.tracing.contract import Gradients, LossReport, Rays, TracedRays, TracedScene
from nerfcore.tracing.packed import MlpLayout
from nerfcore.tracing.placing import place_samples
from nerfcore.tracing.skies import Sky, grouped_by_expert

CHUNK_SAMPLES = 1024
CHUNKS_A_TASK = 4
RENDER_MIN_WEIGHT = 2e-4


@dataclass(frozen=True)
class _Prepared:
    """A batch cut into chunks.

    Attributes:
        samples: of all rays.
        used: experts that have any, i64[K]; starts: i64[K + 1], their first entries.
        positions: f32[3, E], entries' points in their experts' cubes.
        features: f32[width, E].
        batch: what the compiled passes read.
    """

    samples: Samples
    used: NDArray[np.int64]
    starts: NDArray[np.int64]
    positions: NDArray[np.float32]
    features: NDArray[np.float32]
    batch: Batch

    def columns(self, array: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Each used expert's columns of an array f32[rows, E]."""
        return [array[:, a:z] for a, z in pairwise(self.starts.tolist())]

    @property
    def tasks(self) -> list[tuple[int, int]]:
        """Runs of neighbouring chunks, for one worker each."""
        count = len(self.batch.bounds) - 1
        return [(c, min(c + CHUNKS_A_TASK, count)) for c in range(0, count, CHUNKS_A_TASK)]


def _chunk_bounds(samples: Samples, rows: int) -> NDArray[np.int64]:
    """First rays of chunks of about `rows` samples each, and the ray count."""
    total = samples.count
    marks = np.searchsorted(samples.ray_starts, np.arange(rows, total, rows))
    return np.unique(np.concatenate([[0], marks, [len(samples.ray_starts) - 1]])).astype(np.int64)


@numba.njit(**EXACT)
def _splits(starts, sample_ids, edges, out):  # type: ignore[no-untyped-def]
    """First entry of each expert at or behind each chunk's first sample."""
    for k in range(starts.shape[0] - 1):
        own = sample_ids[starts[k] : starts[k + 1]]
        out[k] = starts[k] + np.searchsorted(own, edges)


class CpuTracer:
    """See `contract.Tracer`."""

    makes_splats = True

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.layout = MlpLayout.of(architecture)

    def _encode(
        self, experts: Sequence[Parameters], positions: NDArray[np.float32], starts: Sequence[int]
    ) -> NDArray[np.float32]:
        """Features f32[width, E] of points f32[3, E], starts[k] .. starts[k + 1] of expert k."""
        layout = self.architecture.layout
        if layout is None:
            points = torch.from_numpy(positions).t()
            return directions.frequencies(points).t().contiguous().numpy()
        out = np.empty((layout.width, positions.shape[1]), np.float32)
        spans = [slice(a, z) for a, z in pairwise(starts)]
        tables = [parameters["table"].numpy() for parameters in experts]
        numba_grid.encode_all(
            [positions[:, s] for s in spans], tables, layout, [out[:, s] for s in spans]
        )
        return out

    def _prepare(
        self,
        scene: TracedScene,
        experts: Sequence[Parameters],
        rays: Rays,
        max_samples: int | None,
        sky: Sky,
        lit: tuple[float, float],
    ) -> _Prepared:
        """March, encode and cut into chunks; `lit` is the least light and weight of lit samples."""
        s = place_samples(scene, rays, max_samples)
        found = group_by_expert(s, len(experts), None)
        used = np.flatnonzero(np.diff(found.starts))
        starts = np.append(found.starts[used], len(found.sample_ids))
        entries = Entries(starts, found.sample_ids, found.weights)
        boxes = [scene.box(int(k)) for k in used]
        lows, highs = (np.array([b[i] for b in boxes], np.float32).reshape(-1, 3) for i in (0, 1))
        positions = entry_positions(s, entries, rays.origins, rays.directions, lows, highs)
        own = [experts[k] for k in used.tolist()]
        features = self._encode(own, positions, starts.tolist())
        bounds = _chunk_bounds(s, CHUNK_SAMPLES)
        splits = np.empty((len(used), len(bounds)), np.int64)
        _splits(starts, entries.sample_ids, s.ray_starts[bounds], splits)
        batch = Batch(
            s.ray_starts, s.ray_ids, s.ts, s.dts * np.float32(scene.scale_m), entries.sample_ids,
            entries.weights, features.reshape(-1), sky.harmonics.numpy(), sky.rgbs.numpy(),
            np.zeros(s.count, np.float32), bounds, splits, self.layout.layers,
            self.layout.densities, self.layout.pack(own), np.float32(lit[0]), np.float32(lit[1]),
        )  # fmt: skip
        return _Prepared(s, used, starts, positions, features, batch)

    @torch.no_grad()
    def densities(
        self, parameters: Parameters, positions: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """See `contract.Tracer`."""
        count = len(positions)
        features = self._encode([parameters], np.ascontiguousarray(positions.T), [0, count])
        weights = self.layout.pack([parameters])
        out = np.empty(count, np.float32)

        def work(_: int, task: int) -> None:
            first, last = task * CHUNK_SAMPLES, min((task + 1) * CHUNK_SAMPLES, count)
            chunk.densities(
                features.reshape(-1), count, self.layout.layers, self.layout.densities, weights,
                first, last, out,
            )  # fmt: skip

        for_each(-(-count // CHUNK_SAMPLES), work)
        return out

    @torch.no_grad()
    def render(
        self,
        scene: TracedScene,
        experts: Sequence[Parameters],
        background: Parameters,
        rays: Rays,
        max_samples: int | None = None,
    ) -> TracedRays:
        """See `contract.Tracer`."""
        sky = Sky.of(background, scene.settings, rays)
        lit = (scene.sampling.min_transmittance, RENDER_MIN_WEIGHT)
        prepared = self._prepare(scene, experts, rays, max_samples, sky, lit)
        out = TracedRays(
            np.empty((len(rays), 3), np.float32), np.empty(len(rays), np.float32),
            np.empty(len(rays), np.float32),
        )  # fmt: skip
        tasks = prepared.tasks

        def work(_: int, task: int) -> None:
            chunk.render_chunks(prepared.batch, *tasks[task], out.rgb, out.opacity, out.depth)

        for_each(len(tasks), work)
        return out

    @torch.no_grad()
    def loss_gradient(
        self,
        scene: TracedScene,
        experts: Sequence[Parameters],
        background: Parameters,
        rays: Rays,
        truth: NDArray[np.float32],
        gradients: Gradients,
    ) -> LossReport:
        """See `contract.Tracer`."""
        rays, truth = grouped_by_expert(scene, rays, truth)
        sky = Sky.of(background, scene.settings, rays)
        lit = (scene.sampling.min_transmittance, 0.0)
        prepared = self._prepare(scene, experts, rays, None, sky, lit)
        wanted = np.array([k in gradients.experts for k in prepared.used.tolist()], np.bool_)
        scale = 1.0 / (3 * len(rays))
        targets = Targets(
            np.ascontiguousarray(truth), scene.settings.colour_space == "linear",
            np.float32(scale), wanted, np.empty((len(rays), 3), np.float32),
            np.empty(prepared.features.size, np.float32),
        )  # fmt: skip
        workers = worker_count()
        grads = np.zeros((workers, len(wanted), self.layout.size), np.float32)
        errors, counts = np.zeros(workers), np.zeros(workers, np.int64)
        tasks = prepared.tasks

        def work(worker: int, task: int) -> None:
            error, count = chunk.descend_chunks(
                prepared.batch, targets, *tasks[task], grads[worker]
            )
            errors[worker] += error
            counts[worker] += count

        for_each(len(tasks), work)
        mse = float(errors.sum()) * scale
        if np.isfinite(mse):
            self._hand_over(prepared, targets, grads, gradients)
            if gradients.background is not None:
                sky.add_gradient(torch.from_numpy(targets.d_backgrounds), gradients.background)
        touched = frozenset(prepared.used[wanted].tolist())
        sigmas = prepared.batch.sigmas
        return LossReport(mse, int(counts.sum()), touched, rays, prepared.samples, sigmas)

    def _hand_over(
        self,
        prepared: _Prepared,
        targets: Targets,
        grads: NDArray[np.float32],
        gradients: Gradients,
    ) -> None:
        """Add the wanted experts' gradients to where the caller wants them."""
        wanted = np.flatnonzero(targets.wanted)
        buffers = [gradients.experts[int(k)] for k in prepared.used[wanted]]
        self.layout.add(np.ascontiguousarray(grads[:, wanted]), buffers)
        layout = self.architecture.layout
        if layout is None:
            return
        d_features = prepared.columns(targets.d_features.reshape(prepared.features.shape))
        positions = prepared.columns(prepared.positions)
        for i, own in zip(wanted.tolist(), buffers, strict=True):
            if "table" in own:
                numba_grid.scatter(positions[i], d_features[i], layout, own["table"].numpy())
            else:
                expert = int(prepared.used[i])
                splats = Splats(positions[i], d_features[i])
                gradients.splats.setdefault(expert, []).append(splats)
