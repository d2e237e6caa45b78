"""A checkpoint of another scene: refused by what differs, before its experts are looked at."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_scenes import tiny_scene

from nerfcore.checkpoint import save_checkpoint
from nerfcore.checkpoint.files import require_same_frame
from nerfcore.checkpoint.frames import frame_differences
from nerfcore.data.records import Dataset, ImageSet, SceneFrame
from nerfcore.errors import CheckpointError
from nerfcore.geometry.geodesy import GeoPoint

HERE = SceneFrame(40.0, np.array([1.0, 2.0, 3.0]), GeoPoint(51.5, 7.4, 100.0), (0.0, 50.0))
NONE = ImageSet(
    (), (), (), np.zeros((0, 3, 4), np.float32), np.zeros((0, 4), np.float32),
    np.zeros(0, np.int32), np.zeros(0, np.int32),
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"enu_ref": GeoPoint(51.5, 7.4, 112.5)}, "112.500 m instead of 51.5"),
        ({"enu_ref": GeoPoint(51.5, 7.4, 112.5)}, "12.500 m apart"),
        ({"enu_ref": None}, "reference none instead of 51.50000000 7.40000000 100.000 m"),
        ({"pose_scale_factor_m": 41.0}, "scale 41 m instead of 40 m a unit"),
        ({"origin_drb_m": np.array([1.0, 5.0, 7.0])}, "5.000 m apart"),
    ],
)  # fmt: skip
def test_what_differs_is_named_alone(changes: dict[str, Any], words: str) -> None:
    """Reference, scale or origin; distances by hand (heights; a triangle of 3, 4 and 5)."""
    assert frame_differences(HERE, replace(HERE)) == []
    (found,) = frame_differences(replace(HERE, **changes), HERE)
    assert words in found


def test_a_checkpoint_of_another_city_is_refused_by_its_frame(tmp_path: Path) -> None:
    """One line: both references and how far apart they are; the manifest is enough to tell."""
    scene = replace(tiny_scene(), frame=replace(HERE, enu_ref=GeoPoint(50.1, 8.7, 100.0)))
    folder = save_checkpoint(scene, tmp_path / "step1", 1)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    dataset = Dataset(Path("city"), HERE, NONE, NONE)
    with pytest.raises(CheckpointError) as refused:
        require_same_frame(folder, dataset)
    message = str(refused.value)
    for part in ("city", "50.10000000 8.70000000", "51.50000000 7.40000000", "m apart", "own"):
        assert part in message, message
    assert "scale" not in message and "origin" not in message
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["frame"]["enu_ref"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"manifest\.json: frame: KeyError"):
        require_same_frame(folder, dataset)
