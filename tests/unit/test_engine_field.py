"""The chunked CPU field against the torch oracle, and the traced gradient against differences."""

import numpy as np
import pytest
import torch
from engine_scenes import rays_into, tiny_scene

from nerfcore.encoding.directions import frequencies, spherical_harmonics
from nerfcore.field import evaluate
from nerfcore.field.evaluate import NumbaField, TorchField
from nerfcore.field.parameters import zeros_like
from nerfcore.scene import SceneModel
from nerfcore.tracing import accumulate_gradient, trace
from nerfcore.volrend import Composited


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 64 rows, so that several are needed."""
    monkeypatch.setattr(evaluate, "CHUNK_ROWS", 64)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


@pytest.mark.parametrize(
    ("variant", "bf16", "limit"), [("instant", False, 1e-5), ("vanilla", False, 1e-4),
                                   ("instant", True, 3e-2)]
)  # fmt: skip
def test_chunked_field_matches_the_oracle(variant: str, bf16: bool, limit: float) -> None:
    scene = tiny_scene(variant=variant, use_bf16=bf16)
    parameters = scene.experts[0]
    oracle, chunked = TorchField(scene.architecture), NumbaField(scene.architecture)
    generator = torch.Generator().manual_seed(0)
    positions = torch.rand(333, 3, generator=generator)
    directions = torch.nn.functional.normalize(torch.randn(333, 3, generator=generator), dim=1)
    harmonics = spherical_harmonics(directions)
    d_sigmas, d_rgbs = (
        torch.randn(333, generator=generator),
        torch.randn(333, 3, generator=generator),
    )
    found, grads = [], []
    for field in (oracle, chunked):
        features = field.encode(parameters, positions)
        shaded = field.shade(parameters, positions, features, harmonics)
        assert relative(field.densities(parameters, features), shaded.sigmas) < limit
        buffers = zeros_like(parameters)
        field.accumulate(parameters, shaded, d_sigmas, d_rgbs, buffers)
        found.append(shaded)
        grads.append(buffers)
    assert relative(found[1].sigmas, found[0].sigmas) < limit
    assert relative(found[1].rgbs, found[0].rgbs) < limit
    for name, expected in grads[0].items():
        assert relative(grads[1][name], expected) < 10 * limit, name


def as_double(scene: SceneModel) -> list[dict[str, torch.Tensor]]:
    return [{n: v.double() for n, v in p.items()} for p in scene.experts]


def test_traced_gradient_matches_differences_across_experts() -> None:
    """Perturb parameters of both experts along random directions; compare d(loss)."""
    scene = tiny_scene(1, 2, margin=1.5)
    origins, directions = rays_into(60)
    jitter = np.full(60, 0.5, np.float32)
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(60, 3)).astype(np.float32)

    def loss(experts) -> float:  # type: ignore[no-untyped-def]
        traced = trace(scene.trace_scene(), experts, origins, directions, jitter, for_gradient=True)
        return float((traced.composited.rgb.astype(np.float64) * weight).sum())

    traced = trace(
        scene.trace_scene(), scene.experts, origins, directions, jitter, for_gradient=True
    )
    grads = [zeros_like(p) for p in scene.experts]
    zeros = np.zeros(60, np.float32)
    accumulate_gradient(
        scene.trace_scene(), scene.experts, traced, Composited(weight, zeros, zeros), grads
    )
    generator = torch.Generator().manual_seed(1)
    for k in range(2):
        for name in scene.experts[k]:
            direction = torch.randn(scene.experts[k][name].shape, generator=generator)
            step = 1e-3 * float(scene.experts[k][name].abs().mean()) / float(direction.abs().mean())
            losses = []
            for sign in (1, -1):
                moved = [dict(p) for p in scene.experts]
                moved[k][name] = moved[k][name] + sign * step * direction
                losses.append(loss(moved))
            expected = (losses[0] - losses[1]) / (2 * step)
            found = float((grads[k][name] * direction).sum())
            scale = float(grads[k][name].norm() * direction.norm()) * 0.02 + 1e-3
            assert found == pytest.approx(expected, abs=scale, rel=0.05), (k, name)


def test_backends_render_the_same_picture() -> None:
    from nerfcore.geometry.camera import Camera

    c2w = np.array([[0, 0, -1, -2], [1, 0, 0, 0], [0, -1, 0, 0]], np.float32)
    camera = Camera(c2w, 20.0, 20.0, 8.0, 6.0, 16, 12)
    pictures = []
    for backend in ("numba", "torch"):
        pictures.append(tiny_scene(2, 2, backend=backend).render(camera))
    assert pictures[0].opacity.mean() > 0.5
    assert np.abs(pictures[0].rgb - pictures[1].rgb).max() < 1e-4


def test_spherical_harmonics_are_orthonormal() -> None:
    """Averaged over the sphere (Gauss-Legendre x uniform), sum to the identity / (4 pi)."""
    nodes, weights = np.polynomial.legendre.leggauss(16)
    angles = np.arange(32) * 2 * np.pi / 32
    z, phi = np.meshgrid(nodes, angles, indexing="ij")
    r = np.sqrt(1 - z**2)
    directions = np.stack([r * np.cos(phi), r * np.sin(phi), z], -1).reshape(-1, 3)
    values = spherical_harmonics(torch.from_numpy(directions)).numpy()
    area = np.repeat(weights, 32) * 2 * np.pi / 32
    assert np.allclose(values.T @ (values * area[:, None]), np.eye(16), atol=1e-10)


def test_frequencies_by_hand() -> None:
    """x = 0.75 maps to 2x - 1 = 0.5: sin(pi/2) = 1, cos(pi/2) = 0 at the first frequency."""
    encoded = frequencies(torch.tensor([[0.75, 0.5, 0.5]], dtype=torch.float64))[0]
    assert encoded.shape == (63,)
    assert encoded[:3].tolist() == [0.75, 0.5, 0.5]
    assert float(encoded[3]) == pytest.approx(1.0)
    assert float(encoded[33]) == pytest.approx(0.0, abs=1e-6)
