"""Eval jobs with the real engine on a tiny city: scores, their order, and what is kept."""

import json
import re
from typing import Any

import pandas as pd
import pytest
from runner_city import EVAL, TRAIN, City

from configs import ExitCode
from nerfcore.errors import DataError, NonFiniteError
from runner.ops import evaluate


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> City:
    """A city with a job `trained` that ended well."""
    made = City(tmp_path_factory.mktemp("city"))
    code, output = made.run("trained", **TRAIN)
    assert code == ExitCode.OK, output
    return made


def test_an_eval_job_scores_a_batch_before_and_after(city: City) -> None:
    """Metrics, truth and predictions for each tto and split, and the adapted model on request."""
    extra = {"batch": "batch_0001", "tto": "0,3", "replay": 0.5, "save_adapted": True}
    code, output = city.run("scored", **{**EVAL, **extra})
    assert code == ExitCode.OK, output
    frame = pd.read_csv(city.logs / "scored/metrics.csv")
    groups = frame.groupby(["tto", "split"]).size().to_dict()
    splits = ("adapted", "new_heldout", "old_val")
    assert groups == {(tto, split): 2 for tto in (0, 3) for split in splits}
    assert len(list((city.logs / "scored/gt").glob("*.png"))) == 6
    assert len(list((city.logs / "scored/pred/3").glob("*.png"))) == 6
    result = city.record("scored", "result.json")
    assert len(result["summary"]) == 6
    assert result["summary"][0]["psnr"] > 5.0
    assert 0.0 < result["adapt_seconds"] < result["seconds_to_adapted"]
    rows = [event["rows"] for event in city.events("scored") if event["event"] == "metrics"]
    assert [len(row) for row in rows] == [3, 3]
    assert (city.logs / "scored/checkpoints/step23/manifest.json").exists()
    names = [event["event"] for event in city.events("scored")]
    assert names.index("adapted") < names.index("checkpoint") < names.index("metrics")
    code, output = city.run_here("rescored", **{**EVAL, "checkpoint_path": "scored", "tto": 0})
    assert code == ExitCode.OK, output


def test_images_that_cannot_be_scored_are_refused_before_the_first_step(
    city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a version would be saved, and count, that nobody ever scores."""

    def refuse(store: object, indices: object, split: str) -> None:
        if split == "old_val":
            raise DataError("image x: 0 valid pixels")

    monkeypatch.setattr(evaluate, "check_images", refuse)
    spec = {**EVAL, "batch": "batch_0001", "tto": 2, "save_adapted": True}
    code, output = city.run_here("unscorable", **spec)
    assert code == ExitCode.BAD_DATA and "0 valid pixels" in output
    assert not city.has_event("unscorable", "progress", "adapt")
    assert not (city.logs / "unscorable/checkpoints").exists()


def test_scores_are_the_same_whether_models_wait_for_them_or_not(
    city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory holds no earlier model, it is scored before the steps that change it."""
    frames, orders = [], []
    for limit in (evaluate.MOST_WAITING_BYTES, 0):
        monkeypatch.setattr(evaluate, "MOST_WAITING_BYTES", limit)
        code, output = city.run_here(f"held{limit}", **{**EVAL, "tto": "0,1,3"})
        assert code == ExitCode.OK, output
        frame = pd.read_csv(city.logs / f"held{limit}/metrics.csv")
        frames.append(frame.drop(columns=["adapt_seconds", "render_seconds"]))
        assert (frame.groupby("tto")["adapt_seconds"].first().diff().dropna() > 0).all()
        names = [event["event"] for event in city.events(f"held{limit}")]
        orders.append([name for name in names if name in ("adapted", "metrics")])
    pd.testing.assert_frame_equal(*frames, rtol=1e-4)
    assert orders[0] == ["adapted"] * 2 + ["metrics"] * 3
    assert orders[1] == ["metrics", "adapted", "metrics", "adapted", "metrics"]


def test_an_adapted_model_that_cannot_be_scored_does_not_count(
    city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was kept before; the original is the last version again."""
    score = evaluate.score_images

    def spoilt(*arguments: Any, **options: Any) -> Any:
        if arguments[4].tto > 0:
            raise NonFiniteError("image x after 2 steps: NaN")
        return score(*arguments, **options)

    monkeypatch.setattr(evaluate, "score_images", spoilt)
    code, output = city.run_here("unscored", **{**EVAL, "tto": 2, "save_adapted": True})
    assert code == ExitCode.NON_FINITE, output
    index = json.loads((city.logs / "unscored/checkpoints/index.json").read_text())
    assert (index["last"], index["steps"]) == ("step20", ["step20", "step22"])
    assert set(pd.read_csv(city.logs / "unscored/metrics.csv")["tto"]) == {0}


def test_an_adaptation_that_diverges_keeps_the_original(city: City) -> None:
    """The job fails with the step and both models named; what was scored before stays."""
    rates = {"encoding_lr": 1.0, "sigma_lr": 1.0, "color_lr": 1.0}
    extra = {"batch": "batch_0001", "tto": 5, "save_adapted": True, "change_map": False}
    code, output = city.run_here("wild", **{**EVAL, **rates, **extra})
    assert code == ExitCode.NON_FINITE, output
    message = city.record("wild", "failure.json")["message"]
    assert re.match(r"(after )?adaptation step [1-5]: ", message), message
    assert "the original model trained:step20 is kept, no adapted one is saved" in message
    assert set(pd.read_csv(city.logs / "wild/metrics.csv")["tto"]) == {0}
    assert not (city.logs / "wild/checkpoints").exists()


@pytest.mark.parametrize(
    ("protocol", "splits"),
    [("holdout", ["new_heldout"] * 2 + ["adapted"] * 2), ("fit", ["adapted"] * 4)],
)
def test_an_eval_job_without_a_batch_takes_validation_images(
    city: City, protocol: str, splits: list[str]
) -> None:
    """holdout adapts on even ones and scores both halves apart, fit scores all it adapted to."""
    spec = {**EVAL, "protocol": protocol, "tto": 1, "max_images": None}
    code, output = city.run_here(f"val-{protocol}", **spec)
    assert code == ExitCode.OK, output
    frame = pd.read_csv(city.logs / f"val-{protocol}/metrics.csv")
    assert list(frame["tto"]) == [0] * 4 + [1] * 4
    assert list(frame["split"]) == splits * 2
    gains = [row["psnr_gain"] for row in city.record(f"val-{protocol}", "result.json")["summary"]]
    half = len(gains) // 2
    assert not any(gains[:half]) and all(gains[half:])
