"""The README tells the truth, and the files that install and check the project agree.

Checked by name only: commands, files and job fields that the README mentions exist.
"""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from configs import EvalJob, TrainJob, VideoJob, ViewJob

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
OWN_FOLDERS = "mediator|runner|nerfcore|configs|kafka_utils|scripts|tests|docs|.ci"


def code_lines() -> list[str]:
    """The lines of the README's fenced blocks, continued lines joined, and its inline code."""
    blocks = re.findall(r"```[a-z]*\n(.*?)```", README, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    return lines + re.findall(r"`([^`\n]+)`", prose)


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):.*## ", MAKEFILE, flags=re.MULTILINE))


def pinned(lines: list[str]) -> dict[str, str]:
    """Name and version of each `name==version`, names normalised as pip does."""
    found = {}
    for line in lines:
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[[a-z,]+\])?==([^\s;]+)", line)
        if match is not None:
            found[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2]
    return found


@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_readme_names_the_two_commands(command: str) -> None:
    """A reader finds the two commands."""
    assert command in README


def test_make_commands_exist() -> None:
    """Every `make X` in the README is a target that `make help` lists."""
    named = {m for line in code_lines() for m in re.findall(r"\bmake ([a-z]+)", line)}
    assert named <= make_targets()


def test_files_exist() -> None:
    """Every path in the README's code that lies in one of our folders exists."""
    paths = {
        match
        for line in code_lines()
        for match in re.findall(rf"(?<![\w/.<>-])(?:\./)?((?:{OWN_FOLDERS})/[\w./<>*{{}}-]+)", line)
        if not set(match) & set("<>*{}")
    }
    missing = sorted(p for p in paths if not (ROOT / p.rstrip("./")).exists())
    assert missing == []


def test_links_exist() -> None:
    """Every relative link and picture in the README leads to a file."""
    targets = re.findall(r"\]\(([^)\s#]+)", README) + re.findall(r'src="([^"]+)"', README)
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (ROOT / target).exists()] == []


def test_modules_exist() -> None:
    """Every `python -m X` in the README, where X is ours, is a module."""
    named = {m for line in code_lines() for m in re.findall(r"python3? -m ([\w.]+)", line)}
    ours = {name for name in named if (ROOT / name.split(".")[0]).is_dir()}
    for name in ours:
        place = ROOT / name.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), name


def test_script_options_exist() -> None:
    """Every --option that the README gives a script of ours stands in that script's source."""
    unknown = []
    for line in code_lines():
        match = re.search(r"(scripts/\w+\.(?:py|sh))\b(.*)", line)
        if match is None or not (ROOT / match[1]).is_file():
            continue
        source = (ROOT / match[1]).read_text()
        for option in re.findall(r"(?<!\S)--([a-z][\w-]*)", match[2].split("|")[0].split(";")[0]):
            # typer turns a parameter a_b, or an explicit "--a_b", into the option.
            if option not in source and option.replace("-", "_") not in source:
                unknown.append(f"{match[1]} --{option}")
    assert unknown == []


def test_job_fields_exist() -> None:
    """Every field in the first column of a table headed `field` is a field of some job."""
    known = {name for job in (TrainJob, EvalJob, ViewJob, VideoJob) for name in job.model_fields}
    named: set[str] = set()
    for table in re.findall(r"(?im)^\| *fields? *\|.*\n((?:\|.*\n?)+)", README):
        for row in table.splitlines():
            named |= set(re.findall(r"`([a-z_0-9]+)`", row.split("|")[1]))
    assert named <= known


def test_constraints_agree_with_pyproject() -> None:
    """Every pin of pyproject.toml is the pin of constraints.txt, and every dependency has one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in project.get("optional-dependencies", {}).values():
        wanted += extra
    locked = pinned((ROOT / "constraints.txt").read_text().splitlines())
    for name, version in pinned(wanted).items():
        assert locked.get(name) == version, name
    for requirement in wanted:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        assert name is not None
        assert re.sub(r"[-_.]+", "-", name[0]).lower() in locked, requirement
    assert pinned(re.findall(r"lpips==[\d.]+", MAKEFILE)) == {"lpips": locked["lpips"]}


def test_constraints_have_no_local_versions_or_places() -> None:
    """The lock holds on any machine: no +cpu tags, no paths, no editable installs."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []


def test_make_demo_passes_view_on() -> None:
    """`make demo VIEW=0` runs the demo without the viewer, `make demo` with it."""
    if shutil.which("make") is None and not os.environ.get("CI"):
        pytest.skip("make is not installed")

    def planned(*arguments: str) -> str:
        # Not a part of the make that may run these tests.
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "VIEW"))
        }
        command = ["make", "-n", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        ).stdout

    assert "scripts/demo.py --no-view" in planned("demo", "VIEW=0")
    assert "--no-view" not in planned("demo")


def test_ci_runs_the_make_targets() -> None:
    """.ci/run is an executable, well-formed script that runs install, lint, type and test."""
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
    for target in ("install", "lint", "type", "test"):
        assert f"run make {target}" in script.read_text()
        assert target in make_targets()
