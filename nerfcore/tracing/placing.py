"""Places the samples of rays with a scene's sampling settings."""

from nerfcore.sampling.march import Samples, march
from nerfcore.tracing.contract import Rays, TracedScene


def place_samples(scene: TracedScene, rays: Rays, max_samples: int | None = None) -> Samples:
    """March rays through a scene.

    Args:
        max_samples: a lower limit than the scene's.
    """
    s = scene.sampling
    samples = march(
        scene.march,
        rays.origins,
        rays.directions,
        rays.jitter,
        near=(s.near_m or 0.0) / scene.scale_m,
        far=1e9 if s.far_m is None else s.far_m / scene.scale_m,
        step=s.step_m / scene.scale_m,
        growth=s.step_growth,
        max_samples=min(s.max_samples, max_samples or s.max_samples),
    )
    if scene.variants is None:
        return samples
    return scene.variants.apply(samples, rays.origins, rays.directions)
