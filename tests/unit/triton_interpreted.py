"""Run by test_engine_triton.py in a process of its own, where Triton interprets on the CPU.

python triton_interpreted.py checks            one line a check: its name, "ok" or the error
python triton_interpreted.py picture CHECKPOINT OUT.npy
python triton_interpreted.py compile           the kernels for sm_80 and sm_90 (no interpreter)
"""

import sys
from collections.abc import Callable
from pathlib import Path

import grid_checks as checks
import numpy as np
import torch
from tracing_scenes import some_rays, traced_scene

from nerfcore.checkpoint import load_checkpoint
from nerfcore.encoding import triton_grid
from nerfcore.encoding.layout import GridLayout, grid_layout
from nerfcore.field.backends import make_tracer
from nerfcore.settings import HashGridSettings

CPU = torch.device("cpu")
SIGNATURES = {
    "_encode": ("positions", "table"),
    "_add_table_gradient": ("positions", "d_features"),
    "_position_gradient": ("positions", "table", "d_features"),
}


def _grid(layout: GridLayout) -> triton_grid.TritonGrid:
    return triton_grid.TritonGrid(layout, CPU)


def first_order() -> None:
    checks.check_first_order(_grid(checks.LAYOUT), checks.random_points())


def second_order() -> None:
    checks.check_second_order(_grid(checks.LAYOUT), checks.random_points(100))


def borders() -> None:
    checks.check_first_order(_grid(checks.BORDER_LAYOUT), checks.border_points())
    checks.check_second_order(_grid(checks.BORDER_LAYOUT), checks.border_points())


def features() -> None:
    for count in (1, 4):
        layout = grid_layout(HashGridSettings(3, count, 9, 4, 32))
        checks.check_first_order(_grid(layout), checks.random_points(60))


def nothing() -> None:
    none, width = torch.zeros(0, 3), checks.LAYOUT.width
    assert _grid(checks.LAYOUT).encode(none, checks.random_table(checks.LAYOUT)).shape == (0, width)


CHECKS: tuple[Callable[[], None], ...] = (first_order, second_order, borders, features, nothing)


def run_checks() -> None:
    """Print each check's verdict."""
    for check in CHECKS:
        try:
            check()
            verdict = "ok"
        except AssertionError as error:
            verdict = f"failed: {error}"
        print(check.__name__, verdict)


def picture(checkpoint: Path, out: Path) -> None:
    """Render a checkpoint by the Triton tracer and save the rays' colours."""
    model = load_checkpoint(checkpoint, "cpu", "torch")
    tracer = make_tracer("triton", model.architecture, CPU)
    found = tracer.render(traced_scene(model), model.experts, model.background, some_rays())
    np.save(out, found.rgb)


def compile_kernels() -> None:
    """Compile every kernel to machine code; needs no GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    levels = {"scales": "*fp32", "resolutions": "*i32", "offsets": "*i64", "dense": "*i32"}
    constants = {"LEVELS": 16, "FEATURES": 2, "BLOCK": triton_grid.BLOCK_POINTS}
    for name, inputs in SIGNATURES.items():
        signature = dict.fromkeys(inputs, "*fp32") | levels | {"out": "*fp32", "points": "i32"}
        signature |= dict.fromkeys(constants, "constexpr")
        source = ASTSource(getattr(triton_grid, name), signature, constants)
        for capability in (80, 90):
            compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
            assert compiled.asm["cubin"]
            print(name, capability, "ok")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["checks"]:
            run_checks()
        case ["picture", checkpoint, out]:
            picture(Path(checkpoint), Path(out))
        case ["compile"]:
            compile_kernels()
        case other:
            sys.exit(f"unknown arguments {other}")
