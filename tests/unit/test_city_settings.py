"""What a city may be asked for, and what is refused: field, value, mend."""

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nerfcore.city import CitySettings, Event, write_city
from nerfcore.city.settings import LIMITS, parse_size
from nerfcore.errors import DataError, SettingsError

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_city.py"


@pytest.mark.parametrize("field", sorted(LIMITS))
def test_numbers_outside_their_limits_are_refused(field: str) -> None:
    """A number beyond a limit, or not a number, is refused by name with its value and the mend."""
    lowest, highest, _ = LIMITS[field]
    for value in (lowest - 1, highest + 1, math.nan):
        expected = rf"^{field}: {re.escape(str(value))} is outside .*; choose a value inside$"
        with pytest.raises(SettingsError, match=expected):
            CitySettings(**{field: value})


def test_a_picture_of_strange_shape_is_refused() -> None:
    """A photograph ten times as wide as high is refused, naming its size."""
    with pytest.raises(SettingsError, match=r"^size: 1000x100 .*keep width / height within"):
        CitySettings(width_px=1000, height_px=100)


@pytest.mark.parametrize("text", ["256", "256x", "x192", "256*192", "-5x10", "2.5x3", "²x3", ""])
def test_sizes_that_are_none_are_refused(text: str) -> None:
    """Anything but WIDTHxHEIGHT is refused with an example."""
    with pytest.raises(SettingsError, match=r"^size: .* write for example 256x192$"):
        parse_size(text)


def test_sizes_are_read() -> None:
    """WIDTHxHEIGHT gives both numbers, with a capital X too."""
    assert parse_size("256x192") == (256, 192)
    assert parse_size("1024X768") == (1024, 768)


def test_an_unknown_event_is_refused() -> None:
    """An event that does not exist is refused with those that do."""
    with pytest.raises(SettingsError, match=r"^event: 'quake' is none of none, collapse, flood, f"):
        Event.named("quake")


def test_an_existing_folder_is_refused_and_kept(tmp_path: Path) -> None:
    """A city is never written over something."""
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(DataError, match="exists already; remove it or name another folder"):
        write_city(tmp_path, CitySettings())
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_the_script_refuses_in_one_line(tmp_path: Path) -> None:
    """A bad argument ends the script with exit code 2, one line, and nothing written."""
    out = tmp_path / "city"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(out), "--blocks", "0"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "make_city: blocks: 0 is outside 1..12 blocks a side; choose a value inside"
    ]
    assert not out.exists()
