"""The hash grid as Triton kernels for CUDA; importing this module needs Triton.

float32 throughout. `encode` and `add_table_gradient` run one program a block of points and level
(the gradient adds atomically, so its last bits vary from run to run); `position_gradient` one a
block of points, which walks the levels and needs no atomics. With TRITON_INTERPRET=1 in the
environment before Triton is first imported, the same kernels run on the CPU, for tests.
"""

# Triton types a jit function as never returning when Python calls it; kernels call it all the same.
# pyright: reportGeneralTypeIssues=false

import os

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.errors import TritonError

from nerfcore.encoding.layout import GridLayout

BLOCK_POINTS = 256


def is_interpreted() -> bool:
    """Whether Triton interprets kernels on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@triton.jit
def _row(x, y, z, dense, resolution, size):  # type: ignore[no-untyped-def]
    flat = (x + y * resolution + z * resolution * resolution) % size
    hashed = (x ^ (y * 2654435761) ^ (z * 805459861)) & (size - 1)
    return tl.where(dense, flat, hashed).to(tl.int64)


@triton.jit
def _axis(positions, i, axis, mask, scale):  # type: ignore[no-untyped-def]
    """Lower grid coordinate and fraction along one axis."""
    p = tl.load(positions + i * 3 + axis, mask=mask, other=0.0) * scale + 0.5
    low = p.to(tl.uint32)
    return low, p - low.to(tl.float32)


@triton.jit
def _encode(  # type: ignore[no-untyped-def]
    positions, table, scales, resolutions, offsets, dense, out, points,
    LEVELS: tl.constexpr, FEATURES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    level = tl.program_id(1)
    i = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    mask = i < points
    scale = tl.load(scales + level)
    resolution = tl.load(resolutions + level).to(tl.uint32)
    base = tl.load(offsets + level)
    size = (tl.load(offsets + level + 1) - base).to(tl.uint32)
    is_dense = tl.load(dense + level) != 0
    x, fx = _axis(positions, i, 0, mask, scale)
    y, fy = _axis(positions, i, 1, mask, scale)
    z, fz = _axis(positions, i, 2, mask, scale)
    for f in tl.static_range(FEATURES):
        total = tl.zeros((BLOCK,), tl.float32)
        for corner in tl.static_range(8):
            wx = fx if corner & 1 else 1.0 - fx
            wy = fy if corner & 2 else 1.0 - fy
            wz = fz if corner & 4 else 1.0 - fz
            row = base + _row(
                x + (corner & 1), y + ((corner >> 1) & 1), z + (corner >> 2),
                is_dense, resolution, size,
            )  # fmt: skip
            value = tl.load(table + row * FEATURES + f, mask=mask, other=0.0)
            total += wx * wy * wz * value
        tl.store(out + i * (LEVELS * FEATURES) + level * FEATURES + f, total, mask=mask)


@triton.jit
def _add_table_gradient(  # type: ignore[no-untyped-def]
    positions, d_features, scales, resolutions, offsets, dense, out, points,
    LEVELS: tl.constexpr, FEATURES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    level = tl.program_id(1)
    i = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    mask = i < points
    scale = tl.load(scales + level)
    resolution = tl.load(resolutions + level).to(tl.uint32)
    base = tl.load(offsets + level)
    size = (tl.load(offsets + level + 1) - base).to(tl.uint32)
    is_dense = tl.load(dense + level) != 0
    x, fx = _axis(positions, i, 0, mask, scale)
    y, fy = _axis(positions, i, 1, mask, scale)
    z, fz = _axis(positions, i, 2, mask, scale)
    for f in tl.static_range(FEATURES):
        gradient = d_features + i * (LEVELS * FEATURES) + level * FEATURES + f
        d = tl.load(gradient, mask=mask, other=0.0)
        for corner in tl.static_range(8):
            wx = fx if corner & 1 else 1.0 - fx
            wy = fy if corner & 2 else 1.0 - fy
            wz = fz if corner & 4 else 1.0 - fz
            row = base + _row(
                x + (corner & 1), y + ((corner >> 1) & 1), z + (corner >> 2),
                is_dense, resolution, size,
            )  # fmt: skip
            tl.atomic_add(out + row * FEATURES + f, wx * wy * wz * d, mask=mask, sem="relaxed")


@triton.jit
def _position_gradient(  # type: ignore[no-untyped-def]
    positions, table, d_features, scales, resolutions, offsets, dense, out, points,
    LEVELS: tl.constexpr, FEATURES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    mask = i < points
    out_x = tl.zeros((BLOCK,), tl.float32)
    out_y = tl.zeros((BLOCK,), tl.float32)
    out_z = tl.zeros((BLOCK,), tl.float32)
    for level in range(LEVELS):
        scale = tl.load(scales + level)
        resolution = tl.load(resolutions + level).to(tl.uint32)
        base = tl.load(offsets + level)
        size = (tl.load(offsets + level + 1) - base).to(tl.uint32)
        is_dense = tl.load(dense + level) != 0
        x, fx = _axis(positions, i, 0, mask, scale)
        y, fy = _axis(positions, i, 1, mask, scale)
        z, fz = _axis(positions, i, 2, mask, scale)
        for corner in tl.static_range(8):
            wx = fx if corner & 1 else 1.0 - fx
            wy = fy if corner & 2 else 1.0 - fy
            wz = fz if corner & 4 else 1.0 - fz
            row = base + _row(
                x + (corner & 1), y + ((corner >> 1) & 1), z + (corner >> 2),
                is_dense, resolution, size,
            )  # fmt: skip
            pulled = tl.zeros((BLOCK,), tl.float32)
            for f in tl.static_range(FEATURES):
                gradient = d_features + i * (LEVELS * FEATURES) + level * FEATURES + f
                d = tl.load(gradient, mask=mask, other=0.0)
                pulled += d * tl.load(table + row * FEATURES + f, mask=mask, other=0.0)
            pulled *= scale
            out_x += wy * wz * (pulled if corner & 1 else -pulled)
            out_y += wx * wz * (pulled if corner & 2 else -pulled)
            out_z += wx * wy * (pulled if corner & 4 else -pulled)
    tl.store(out + i * 3, out_x, mask=mask)
    tl.store(out + i * 3 + 1, out_y, mask=mask)
    tl.store(out + i * 3 + 2, out_z, mask=mask)


class TritonGrid:
    """`nerfcore.encoding.grids.HashGrid` on one CUDA device (or the CPU, interpreted)."""

    def __init__(self, layout: GridLayout, device: torch.device) -> None:
        self.layout = layout
        self.device = device
        self._levels = (
            torch.from_numpy(layout.scales).to(device),
            torch.from_numpy(layout.resolutions).to(device),
            torch.from_numpy(layout.offsets).to(device),
            torch.from_numpy(layout.dense).to(device, torch.int32),
        )

    def encode(self, positions: Tensor, table: Tensor) -> Tensor:
        out = torch.empty(len(positions), self.layout.width, device=self.device)
        self._launch(_encode, positions, [positions, table], out, self.layout.levels)
        return out

    def add_table_gradient(self, positions: Tensor, d_features: Tensor, out: Tensor) -> None:
        if not out.is_contiguous():
            raise ValueError("out: must be contiguous, it is added to in place")
        inputs = [positions, d_features]
        self._launch(_add_table_gradient, positions, inputs, out, self.layout.levels)

    def position_gradient(self, positions: Tensor, table: Tensor, d_features: Tensor) -> Tensor:
        out = torch.empty(len(positions), 3, device=self.device)
        self._launch(_position_gradient, positions, [positions, table, d_features], out, 1)
        return out

    def _launch(
        self, kernel: triton.JITFunction, positions: Tensor, inputs: list[Tensor], out: Tensor,
        levels: int,
    ) -> None:  # fmt: skip
        for tensor in (*inputs, out):
            if tensor.dtype != torch.float32 or tensor.device.type != self.device.type:
                raise TypeError(
                    f"the Triton grid takes float32 tensors on {self.device}, got {tensor.dtype} "
                    f"on {tensor.device}"
                )
        if not len(positions):
            return
        blocks = (triton.cdiv(len(positions), BLOCK_POINTS), levels)
        arguments = [*(t.detach().contiguous() for t in inputs), *self._levels, out.detach()]
        sizes = {"LEVELS": self.layout.levels, "FEATURES": self.layout.features}
        try:
            with torch.cuda.device_of(out):
                kernel[blocks](*arguments, len(positions), **sizes, BLOCK=BLOCK_POINTS)
        except TritonError as error:
            raise RuntimeError(f"Triton: {error}") from error
