"""The arrows between packages: who may import whom, read from the source itself."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"configs", "kafka_utils", "mediator", "nerfcore", "runner"}
ALLOWED = {
    "configs": set[str](),
    "kafka_utils": set[str](),
    "nerfcore": set[str](),
    "runner": {"configs", "nerfcore"},
    "mediator": {"configs", "kafka_utils"},
}
HEAVY = {"torch", "numba", "numpy", "pandas", "viser", "cv2", "pycolmap"}
FORBIDDEN = {
    "configs": HEAVY | {"confluent_kafka"},
    "kafka_utils": HEAVY | {"pydantic"},
    "mediator": HEAVY,
    "nerfcore": {"confluent_kafka", "pickle"},
    "runner": {"confluent_kafka", "pickle"},
}


def imported_packages(file: Path) -> set[str]:
    """Return the top-level packages that a source file imports anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = {alias.name for alias in node.names}
            if (node.module, names) != ("pickle", {"UnpicklingError"}):  # raised by torch.load
                found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", sorted(OURS))
def test_a_package_imports_only_what_it_may(package: str) -> None:
    """Each package keeps to its arrows, lazily imported names included."""
    for file in sorted((ROOT / package).rglob("*.py")):
        packages = imported_packages(file)
        assert packages & OURS <= ALLOWED[package] | {package}, file
        assert not packages & FORBIDDEN[package], file


@pytest.mark.parametrize("module", ["configs", "mediator.__main__", "runner.__main__"])
def test_a_light_start_loads_nothing_heavy(module: str) -> None:
    """Jobs are refused quickly: torch and its like are not loaded on the way."""
    program = f"import sys, {module}; print(*sorted(set(sys.modules) & set({sorted(HEAVY)!r})))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
