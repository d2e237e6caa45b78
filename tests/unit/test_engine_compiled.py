"""Kernels' options and cache: what is not a number survives, and no edit leaves code stale."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nerfcore import compiled

ROOT = Path(__file__).parents[2]

EDITED = """
import numba
from pack.compiled import FAST
from pack.inner import shifted
@numba.njit(**FAST)
def outer(x):
    return 2.0 * shifted(x)
"""


def pack(folder: Path, shift: float) -> Path:
    """A package with the project's own cache whose kernel calls one in another file."""
    package = folder / "pack"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text("")
    (package / "compiled.py").write_text(Path(compiled.__file__).read_text())
    (package / "outer.py").write_text(EDITED)
    (package / "inner.py").write_text(
        "import numba\nfrom pack.compiled import EXACT\nfrom pack.numbers import SHIFT\n"
        "@numba.njit(**EXACT)\ndef shifted(x):\n    return x + SHIFT\n"
    )
    (package / "numbers.py").write_text(f"SHIFT = {shift}\n")
    return package


def called(folder: Path, argument: str) -> tuple[float, int]:
    """What a fresh process computes, and how often it found the compiled code on disk."""
    code = (
        "from pack.outer import outer\n"
        f"print(outer({argument}), sum(outer.stats.cache_hits.values()))\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    value, hits = done.stdout.split()
    return float(value), int(hits)


def test_an_edit_to_what_a_kernel_takes_in_compiles_it_anew(tmp_path: Path) -> None:
    pack(tmp_path, 1.0)
    assert called(tmp_path, "3.0") == (8.0, 0)
    assert called(tmp_path, "3.0") == (8.0, 1)
    # the kernels' own files stay as they are: Numba itself would see nothing
    (tmp_path / "pack" / "numbers.py").write_text("SHIFT = 5.0\n")
    assert called(tmp_path, "3.0") == (16.0, 0)
    inner = tmp_path / "pack" / "inner.py"
    inner.write_text(inner.read_text().replace("x + SHIFT", "x - SHIFT"))
    assert called(tmp_path, "3.0") == (-4.0, 0)


def test_fast_arithmetic_keeps_what_is_not_a_number(tmp_path: Path) -> None:
    pack(tmp_path, 1.0)
    assert np.isnan(called(tmp_path, "float('nan')")[0])
    assert called(tmp_path, "float('inf')")[0] == np.inf


def test_the_cache_lies_where_it_is_told_and_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compiled.cache_home("/elsewhere", tmp_path) == Path("/elsewhere")
    assert compiled.cache_home("", tmp_path) == tmp_path / "__pycache__"
    monkeypatch.setattr(compiled.os, "access", lambda *_: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert compiled.cache_home("", tmp_path) == tmp_path / "caches" / "skyline-nerf"


def kernels() -> list[tuple[str, ast.Call | None]]:
    """Every compiled function of nerfcore, with its decorator's call."""
    found = []
    for path in (ROOT / "nerfcore").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            for mark in getattr(node, "decorator_list", []):
                if "njit" in ast.unparse(mark):
                    found.append((f"{path.name}:{mark.lineno}", mark))
    return found


def test_every_kernel_states_its_arithmetic() -> None:
    """One that says nothing would take its first caller's, and keep it in the cache."""
    assert len(kernels()) > 50
    for place, mark in kernels():
        text = ast.unparse(mark)
        assert (
            any(f"**{n}" in text for n in ("FAST", "EXACT", "JIT")) or "inline='always'" in text
        ), place
