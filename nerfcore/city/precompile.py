"""Compiles the ray caster ahead of its first use: `compile_kernels`, or run this module."""

from nerfcore.city import render
from nerfcore.city.flight import first_camera, first_flight
from nerfcore.city.settings import CitySettings
from nerfcore.city.town import build_town


def compile_kernels() -> None:
    """Expose one tiny photograph and trace its depth, so that both kernels are in numba's cache."""
    town = build_town(CitySettings(blocks=1, images=8))
    camera = first_camera(8, 6)
    rays = render.pixel_rays(camera, 1)
    shot = first_flight(CitySettings(images=8), town.plan).shots[0]
    render.photograph(town.before, town.plan, camera, rays, shot)
    render.depth_map(town.before, town.plan, rays, shot)


if __name__ == "__main__":
    compile_kernels()
