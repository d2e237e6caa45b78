"""The report on disk and its command: files, refusals, exit codes, safe HTML."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_flights import leftovers
from survey_sites import COUNT, Damage, make_site

from nerfcore.data.dataset import load_dataset
from nerfcore.errors import DataError
from nerfcore.survey import Survey, survey_dataset
from nerfcore.survey.report import write, write_report
from nerfcore.survey.report.drawing import round_step
from nerfcore.survey.report.page import html_report

ROOT = Path(__file__).parents[2]
PICTURES = {"site", "heights", "footprints", "coverage", "altitudes", "exposure", "sharpness"}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    return make_site(tmp_path_factory.mktemp("site"), Damage(blurred=("0003.png",)))


@pytest.fixture(scope="module")
def survey(site: Path) -> Survey:
    return survey_dataset(load_dataset(site))


def inspect(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/inspect_dataset.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_command_writes_the_report(site: Path, tmp_path: Path) -> None:
    """Page, pictures and numbers appear; problems do not fail the command, --strict does."""
    done = inspect(site, "--output", tmp_path / "report", "--strict")
    assert done.returncode == 3, done.stderr
    assert re.search(r"25 photographs · [\d.]+ ha · 4[67]\.\d cm/px · \d+% overlap", done.stdout)
    assert "verdict: 1 serious problem to mend before training" in done.stdout
    found = {path.name for path in (tmp_path / "report").iterdir()}
    assert found == {"report.html", "survey.json"} | {f"{name}.png" for name in PICTURES}
    numbers = json.loads((tmp_path / "report" / "survey.json").read_text())
    assert [one["photographs"] for one in numbers["problems"]] == [["0003.png"]]
    assert numbers["verdict"] == "serious" and numbers["photographs"]["train"] == 20
    assert leftovers(tmp_path) == []
    assert inspect(site, "--output", tmp_path / "report").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/nothing"], "not a prepared dataset (dataset.json is missing); make it with"),
        (["{site}", "--clusters", "other"], "clusters: 'other' is not in"),
        (["{site}", "--output", "{site}"], "holds files but no survey.json"),
        (["{site}", "--output", "{site}/dataset.json"], "is a file; name a folder"),
    ],
)
def test_refusals_are_one_line(
    arguments: list[str], message: str, site: Path, tmp_path: Path
) -> None:
    """Bad input is refused in one line that says what to do, and writes nothing."""
    before = sorted(site.rglob("*"))
    done = inspect(*(one.format(site=site, tmp=tmp_path) for one in arguments))
    assert done.returncode == 11
    assert done.stderr.count("\n") == 1 and message in done.stderr, done.stderr
    assert sorted(site.rglob("*")) == before


def test_help_is_worth_reading() -> None:
    """--help tells what comes out, what is looked for, and the exit codes."""
    text = " ".join(inspect("--help").stdout.split())
    for words in ("report.html", "--strict", "--clusters", "Exit codes: 0", "duplicate"):
        assert words in text


def test_a_new_folder_is_all_or_nothing(survey: Survey, tmp_path: Path, monkeypatch) -> None:
    """Given a disk that fills up in the middle, then no report is left."""
    original = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name == "report.html":
            raise OSError(28, "No space left on device")
        return original(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_report(survey, tmp_path / "report", "site")
    assert list(tmp_path.iterdir()) == []


def test_a_users_files_stay(survey: Survey, tmp_path: Path) -> None:
    """An older report is replaced; a note beside it is left alone; other folders are refused."""
    page = write_report(survey, tmp_path / "report", "one")
    note = tmp_path / "report" / "note.txt"
    note.write_text("mine")
    assert write_report(survey, tmp_path / "report", "two") == page
    assert note.read_text() == "mine" and "<h1>two</h1>" in page.read_text()
    with pytest.raises(DataError, match="choose another folder"):
        write.check_output(tmp_path)


def test_page_needs_no_network(survey: Survey) -> None:
    """Nothing is loaded from anywhere, and a policy says so."""
    page = html_report(survey, "site")
    loaded = re.findall(r'(?:\bsrc|\bhref)="([^"]{1,40})', page) + re.findall(r"url\(.{9}", page)
    assert {re.split("[:-]", one)[0] for one in loaded} == {"data", "#photo", "geo"}
    assert "default-src 'none'" in page
    assert len(page) < 3_000_000


def test_names_cannot_break_the_page(survey: Survey) -> None:
    """Given a name full of markup, then it is shown as it is."""
    nasty = '</script><img src=x onerror="alert(1)">&.png'
    images = replace(survey.roster.images, names=(nasty, *survey.roster.names[1:]))
    problems = (replace(survey.problems[0], subject=nasty, images=(0,)),)
    changed = replace(survey, roster=replace(survey.roster, images=images), problems=problems)
    page = html_report(changed, nasty)
    assert "<img src=x" not in page
    data = re.search(r'<script type="application/json" id="photos">(.*?)</script>', page, re.S)
    assert data is not None
    photos = json.loads(data[1])
    assert len(photos) == COUNT and photos[0]["name"] == nasty


def test_pictures_show_the_site(survey: Survey) -> None:
    """The PNGs hold what they say: blue cameras on the map, the coverage's own colours."""
    files = write.report_files(survey, "site")
    site = cv2.imdecode(np.frombuffer(files["site.png"], np.uint8), cv2.IMREAD_COLOR)
    assert site is not None and site.shape[1] > 1000
    blue = (np.abs(site.astype(int) - [0xE0, 0x69, 0x17]).max(axis=2) < 8).sum()
    assert blue > 25 * 40
    coverage = cv2.imdecode(np.frombuffer(files["coverage.png"], np.uint8), cv2.IMREAD_COLOR)
    assert coverage is not None
    red = (np.abs(coverage.astype(int) - [0x1F, 0x30, 0xD7]).max(axis=2) < 4).mean()
    assert 0.02 < red < 0.5


@pytest.mark.parametrize(("span", "wanted", "step"), [(100, 5, 20), (7, 4, 2), (0.3, 3, 0.1)])
def test_round_step(span: float, wanted: int, step: float) -> None:
    """Axes are divided at 1, 2 or 5 times a power of ten."""
    assert round_step(span, wanted) == pytest.approx(step)


def test_the_report_counts_as_create_clusters_does(tmp_path: Path) -> None:
    """The experts' table of the report and balance.json give the same numbers."""
    root = make_site(tmp_path, experts=False)
    script = ROOT / "scripts" / "create_clusters.py"
    command = [sys.executable, script, "--data_path", root, "--cluster_2d"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=120)
    (file,) = root.glob("masks/*/balance.json")
    experts = survey_dataset(load_dataset(root)).experts
    assert experts is not None
    stored = json.loads(file.read_text())["experts"]
    assert [one["images"] for one in stored] == experts.counts.images.tolist()
    assert [one["points"] for one in stored] == experts.counts.points.tolist()
    assert [one["pixel_share"] for one in stored] == experts.counts.pixel_shares.tolist()
