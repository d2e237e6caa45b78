"""Direction and frequency encodings against integrals and values worked by hand."""

import numpy as np
import pytest
import torch

from nerfcore.encoding.directions import frequencies, spherical_harmonics


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
