"""The CPU's tracer: march, encode level by level, then chunk by chunk through MLPs and light.

The hash grid wants all points of a level at once (its table stays in cache), the MLPs and the
compositing want few rays at once (their activations stay in cache). So a batch is marched and
encoded whole, then its rays are dealt to the workers in chunks that do everything else, forward
and backward, before the next; at the end the features' gradients go back to the tables.
"""

import threading
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nerfcore.encoding import directions, numba_grid
from nerfcore.encoding.splats import Splats
from nerfcore.field.parameters import Architecture, Parameters
from nerfcore.field.reference import MAX_LOG_SIGMA, SIGMA_SHIFT
from nerfcore.field.workers import for_each, worker_count
from nerfcore.sampling.entries import Entries, group_by_expert, local_positions
from nerfcore.sampling.march import Samples
from nerfcore.tracing.chunk import Batch, Chunk, Weights, Workspace
from nerfcore.tracing.contract import Gradients, LossReport, Rays, TracedRays, TracedScene
from nerfcore.tracing.placing import place_samples
from nerfcore.tracing.skies import Sky, grouped_by_expert

CHUNK_SAMPLES = 2048
RENDER_MIN_WEIGHT = 2e-4


class _Prepared:
    """A batch with its chunks: rays and segments of each."""

    def __init__(
        self,
        tracer: "CpuTracer",
        scene: TracedScene,
        experts: Sequence[Parameters],
        rays: Rays,
        max_samples: int | None,
        sky: Sky,
    ) -> None:
        self.samples = place_samples(scene, rays, max_samples)
        entries = group_by_expert(self.samples, len(experts), None)
        used = np.flatnonzero(np.diff(entries.starts))
        self.experts = {int(k): experts[int(k)] for k in used}
        self.weights = {k: Weights.of(p) for k, p in self.experts.items()}
        self.spans = {k: (int(entries.starts[k]), int(entries.starts[k + 1])) for k in self.experts}
        self.positions: dict[int, NDArray[np.float32]] = {}
        features: dict[int, Tensor] = {}
        for k, parameters in self.experts.items():
            ids = entries.sample_ids[slice(*self.spans[k])]
            self.positions[k] = local_positions(
                self.samples, ids, rays.origins, rays.directions, *scene.box(k)
            )
            features[k] = tracer.encode(parameters, self.positions[k])
        s = self.samples
        deltas = s.dts * np.float32(scene.scale_m)
        self.batch = Batch(
            s.ray_starts, s.ray_ids, s.ts, deltas, entries.sample_ids, entries.weights,
            entries.starts, features,
            sky.harmonics.numpy(), sky.rgbs.numpy(), np.zeros(s.count, np.float32),
        )  # fmt: skip
        self.bounds = _chunk_bounds(s, CHUNK_SAMPLES)
        self.splits = self._splits(entries)

    def _splits(self, entries: Entries) -> NDArray[np.int64]:
        """First entry of each used expert in each chunk, i64[K used, chunks + 1]."""
        edges = self.samples.ray_starts[self.bounds]
        return np.array(
            [
                begin + np.searchsorted(entries.sample_ids[begin:end], edges)
                for begin, end in self.spans.values()
            ],
            np.int64,
        ).reshape(len(self.spans), len(edges))

    def chunk(self, task: int, space: Workspace) -> Chunk:
        """The chunk of a task."""
        low, high = self.splits[:, task], self.splits[:, task + 1]
        ids = np.array(list(self.spans), np.int64)
        segments = np.ascontiguousarray(np.stack([ids, low, high], axis=1)[high > low])
        rays = int(self.bounds[task]), int(self.bounds[task + 1])
        return Chunk(self.batch, rays, segments, self.weights, space)

    @property
    def count(self) -> int:
        return len(self.bounds) - 1


def _chunk_bounds(samples: Samples, rows: int) -> NDArray[np.int64]:
    """First rays of chunks of about `rows` samples each, and the ray count."""
    total = samples.count
    marks = np.searchsorted(samples.ray_starts, np.arange(rows, total, rows))
    return np.unique(np.concatenate([[0], marks, [len(samples.ray_starts) - 1]])).astype(np.int64)


class CpuTracer:
    """See `contract.Tracer`."""

    makes_splats = True

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self._threads = threading.local()

    def _space(self) -> Workspace:
        """This thread's own buffers: several callers may trace at once."""
        if not hasattr(self._threads, "space"):
            self._threads.space = Workspace()
        return self._threads.space

    def encode(self, parameters: Parameters, positions: NDArray[np.float32]) -> Tensor:
        """Return the features [width, N] of points f32[3, N] in the unit cube."""
        layout = self.architecture.layout
        if layout is None:
            return directions.frequencies(torch.from_numpy(positions).t()).t().contiguous()
        out = torch.empty(layout.width, positions.shape[1])
        numba_grid.encode(positions, parameters["table"].numpy(), layout, out.numpy())
        return out

    def densities(
        self, parameters: Parameters, positions: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """See `contract.Tracer`."""
        features = self.encode(parameters, np.ascontiguousarray(positions.T))
        weights = Weights.of(parameters).sigma
        out = np.empty(len(positions), np.float32)
        parts = -(-len(positions) // CHUNK_SAMPLES)

        def work(_: int, task: int) -> None:
            span = slice(task * CHUNK_SAMPLES, (task + 1) * CHUNK_SAMPLES)
            x = features[:, span].t()
            for i, weight in enumerate(weights):
                x = x @ weight
                if i + 1 < len(weights):
                    x.relu_()
            out[span] = _sigmas(x[:, 0]).numpy()

        for_each(parts, work)
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
        prepared = _Prepared(self, scene, experts, rays, max_samples, sky)
        out = TracedRays(
            np.empty((len(rays), 3), np.float32), np.empty(len(rays), np.float32),
            np.empty(len(rays), np.float32),
        )  # fmt: skip

        def work(_: int, task: int) -> None:
            chunk = prepared.chunk(task, self._space())
            chunk.densities(scene.sampling.min_transmittance, RENDER_MIN_WEIGHT)
            chunk.colours()
            chunk.composite(out.rgb, out.opacity, out.depth)

        for_each(prepared.count, work)
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
        prepared = _Prepared(self, scene, experts, rays, None, sky)
        wanted = [k for k in prepared.experts if k in gradients.experts]
        workers = worker_count()
        grads = [{k: prepared.weights[k].zeros() for k in wanted} for _ in range(workers)]
        errors, lit = np.zeros(workers), np.zeros(workers, np.int64)
        d_features = {k: torch.empty_like(prepared.batch.features[k]) for k in wanted}
        d_backgrounds = np.empty((len(rays), 3), np.float32)
        linear = scene.settings.colour_space == "linear"
        scale = 1.0 / (3 * len(rays))

        def work(worker: int, task: int) -> None:
            chunk = prepared.chunk(task, self._space())
            chunk.densities(scene.sampling.min_transmittance, 0.0)
            chunk.colours()
            errors[worker] += chunk.loss(truth, linear, scale, d_backgrounds)
            chunk.backward(grads[worker], d_features)
            lit[worker] += int(np.count_nonzero(chunk.lit))

        for_each(prepared.count, work)
        mse = float(errors.sum()) * scale
        if np.isfinite(mse):
            for k in wanted:
                self._hand_over(prepared, k, grads, d_features, gradients)
            if gradients.background is not None:
                sky.add_gradient(torch.from_numpy(d_backgrounds), gradients.background)
        return LossReport(
            mse, int(lit.sum()), frozenset(wanted), rays, prepared.samples, prepared.batch.sigmas
        )

    def _hand_over(
        self,
        prepared: _Prepared,
        expert: int,
        grads: list[dict[int, Weights]],
        d_features: dict[int, Tensor],
        gradients: Gradients,
    ) -> None:
        """Add one expert's gradient to where the caller wants it."""
        buffers = gradients.experts[expert]
        for own in grads:
            own[expert].add_to(buffers)
        layout = self.architecture.layout
        if layout is None:
            return
        positions, grad = prepared.positions[expert], d_features[expert].numpy()
        if "table" in buffers:
            numba_grid.scatter(positions, grad, layout, buffers["table"].numpy())
        else:
            gradients.splats.setdefault(expert, []).append(Splats(positions, grad))


def _sigmas(values: Tensor) -> Tensor:
    """Densities per metre from the density MLP's first output."""
    return torch.exp((values + SIGMA_SHIFT).clamp(max=MAX_LOG_SIGMA))
