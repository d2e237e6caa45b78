"""The reference system's three demo jobs, field by field, are jobs of ours."""

import json

import pytest

import configs

_DATA = {
    "seed": 0,
    "dataset": "drz",
    "data_path": "data/drz/",
    "data_dirname": "example",
    "mask_dirname": "g22_grid_bm110_ss11",
    "downscale": 0.25,
}
_RAYS = {"near": 0.0, "far": 100000, "chunk_points": 4000000, "boundary_margin": 1.0}
_RATES = {
    "optimizer": "adam",
    "lr": 1e-4,
    "encoding_lr": 1e-2,
    "sigma_lr": 2e-3,
    "color_lr": 2e-3,
    "bg_lr": 1e-3,
}
TRAIN = {
    "op": "train",
    "save_step": 5,
    **_DATA,
    **_RAYS,
    **_RATES,
    "ray_samples": 96,
    "batch_size": 3,
    "test_batch_size": 1,
    "support_rays": 4000,
    "query_rays": 2000,
    "cell_dim": 5,
    "num_submodules": 4,
    "sigma_depth": 2,
    "color_depth": 2,
    "dim_hidden": 64,
    "color_hidden": 64,
    "log2_hashmap_size": 20,
    "max_resolution": 4096,
    "no_bg_nerf": False,
    "bg_hidden": 32,
    "use_amp": True,
    "no_scheduler": False,
    "decay_factor": 10.0,
    "checkpoint_path": "logs/example",
    "prefix": "step20000",
    "use_stored_args": False,
    "outer_steps": 10000,
    "inner_iter": 8,
    "inner_lr": 0.015,
}
EVAL = {
    "op": "eval",
    **_DATA,
    **_RAYS,
    **_RATES,
    "ray_samples": 96,
    "test_batch_size": 10,
    "support_rays": 4000,
    "use_amp": True,
    "checkpoint_path": "example",
    "prefix": "step20000",
    "tto": "1",
}
VIEW = {
    "op": "view",
    **_DATA,
    "use_amp": True,
    "checkpoint_path": "logs/example",
    "prefix": "step20000",
    "ray_samples": 64,
}


@pytest.mark.parametrize("spec", [TRAIN, EVAL, VIEW], ids=["train", "eval", "view"])
def test_every_field_keeps_its_value(spec: dict[str, object]) -> None:
    """Each field of a reference job arrives in the parsed job unchanged."""
    job = configs.parse_job(json.dumps(spec).encode())
    values = job.model_dump()
    assert {name: values[name] for name in spec} == spec


def test_the_reference_defaults_hold() -> None:
    """Defaults are the reference's, but for the documented differences."""
    job = configs.parse_job({"op": "train", "data_dirname": "p", "mask_dirname": "m"})
    assert isinstance(job, configs.TrainJob)
    assert (job.inner_iter, job.inner_lr, job.outer_steps) == (8, 0.015, 20000)
    assert (job.downscale, job.boundary_margin, job.near, job.far) == (0.25, None, None, None)
    assert (job.algo, job.use_occ, job.log2_hashmap_size) == ("joint", True, 19)


def test_the_short_name_of_the_margin_is_accepted() -> None:
    """`bm` means `boundary_margin`."""
    job = configs.parse_job({"op": "train", "data_dirname": "p", "mask_dirname": "m", "bm": 1.2})
    assert job.boundary_margin == 1.2


def test_a_job_with_an_inner_loop_and_no_algo_is_meta_learning() -> None:
    """As in the reference; ours without an inner loop is joint training, a stated algo wins."""
    paths = {"data_path": "data/x/", "data_dirname": "d", "mask_dirname": "m"}
    found = [
        configs.parse_job({"op": "train", **paths, **more}).algo
        for more in ({"inner_iter": 4}, {}, {"inner_lr": 0.1, "algo": "joint"})
    ]
    assert found == ["fomaml", "joint", "joint"]
