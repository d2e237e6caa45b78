"""The adaptation bench: which jobs it names, and the table of restrictions."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_evaluation_frame import ROW

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from bench_adaptation import RESTRICTIONS, Protocol, restriction_table  # noqa: E402

from configs import EvalJob, TrainJob, parse_job  # noqa: E402
from nerfcore.evaluation import metrics_frame  # noqa: E402

DATA = {"data_path": "data/site/", "data_dirname": "prepared", "mask_dirname": "g22"}


def protocol(**evaluation: Any) -> Protocol:
    return Protocol(
        DATA, ("scratch", "joint"), (0, 1), {"time_limit_s": 9.0, "outer_steps": 50}, {},
        {"batch": "batch_0001", "tto": "0,4", **evaluation}, "joint",
    )  # fmt: skip


def frame(gains: dict[str, float]) -> pd.DataFrame:
    """Two images a split: 20 dB before, and as much more on average after 4 and 64 steps."""
    rows = [
        replace(ROW, tto=tto, split=split, image=image, psnr=20.0 + (gain + odd if tto else odd))
        for tto in (0, 4, 64)
        for split, gain in gains.items()
        for image, odd in (("a", -1.0), ("b", 1.0))
    ]
    return metrics_frame([replace(row, psnr=row.psnr - 9.0 * (row.tto == 4)) for row in rows])


def test_restrictions_are_held_against_the_unrestricted_gain_by_hand() -> None:
    """Means over seeds at the chosen steps; the fall of old views also at its worst seed."""
    frames = {
        "local": [frame({"new_heldout": 3.0, "old_val": -0.1}),
                  frame({"new_heldout": 2.0, "old_val": 0.3})],
        "unrestricted": [frame({"new_heldout": 6.0, "old_val": -2.0}),
                         frame({"new_heldout": 4.0, "old_val": -1.0})],
        "replay+local, no exposure": [frame({"new_heldout": 4.5, "old_val": 0.0})],
    }  # fmt: skip
    table = restriction_table(frames, 64).set_index("restriction")
    assert list(table.index) == list(frames)
    assert list(table["new_gain_db"]) == pytest.approx([2.5, 5.0, 4.5])
    assert list(table["old_val_falls_db"]) == pytest.approx([-0.1, 1.5, 0.0])
    assert list(table["old_val_falls_most_db"]) == pytest.approx([0.1, 2.0, 0.0])
    assert list(table["of_unrestricted"]) == pytest.approx([0.5, 1.0, 0.9])
    assert list(table["exposure"]) == [True, False, False]
    assert set(table["tto"]) == {64}
    early = restriction_table(frames, 4).set_index("restriction")
    assert early.loc["local", "new_gain_db"] == pytest.approx(2.5 - 9.0)


def test_with_and_without_exposure_are_never_mixed_up() -> None:
    """Other jobs and labels, the same starting points; restrictions say it themselves."""
    fitted, plain = protocol(), protocol(exposure=False)
    assert (fitted.label("joint"), plain.label("joint")) == ("joint", "joint, no exposure")
    assert fitted.train_job("joint", 0) == plain.train_job("joint", 0)
    names = [one.eval_job("joint", 0)["job_id"] for one in (fitted, plain)]
    assert names[0] != names[1]
    for fields in RESTRICTIONS.values():
        jobs = [one.eval_job("joint", 0, **fields) for one in (fitted, plain)]
        assert jobs[0] == jobs[1] and jobs[0]["exposure"] == fields["exposure"]
    specs = [tuple(sorted(fields.items())) for fields in RESTRICTIONS.values()]
    assert len(set(specs)) == len(RESTRICTIONS)


@pytest.mark.parametrize("algo", ["scratch", "joint"])
def test_every_job_is_a_valid_spec(algo: str) -> None:
    """An untrained model is a train job of one step at no rate."""
    one = protocol(exposure=False)
    train, evaluation = one.train_job(algo, 1), one.eval_job(algo, 1, **RESTRICTIONS["local"])
    parsed = parse_job(train)
    assert isinstance(parsed, TrainJob) and parsed.seed == 1
    still = (parsed.encoding_lr, parsed.sigma_lr, parsed.color_lr, parsed.bg_lr) == (0, 0, 0, 0)
    assert still == (algo == "scratch") == (parsed.outer_steps == 1)
    scored = parse_job(evaluation)
    assert isinstance(scored, EvalJob) and scored.checkpoint_path == train["job_id"]
    assert len(evaluation["job_id"]) <= 64 and scored.local and scored.exposure
