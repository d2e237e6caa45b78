#!/usr/bin/env python3
"""Make a synthetic city: two drone flights with an event in between, as COLMAP models in ECEF."""

import errno
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from configs.exit_codes import ExitCode
from nerfcore.city import CitySettings, Event, write_city
from nerfcore.city.settings import parse_size
from nerfcore.errors import NerfcoreError

app = typer.Typer(add_completion=False, rich_markup_mode=None)
DEFAULT = CitySettings()
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _run(out: Path, settings: CitySettings, quiet: bool) -> None:
    """Write the city with a progress bar, then say what was written."""
    columns = (TextColumn("{task.description:24}"), BarColumn(), TextColumn("{task.completed}/"
               "{task.total}"), TimeElapsedColumn())  # fmt: skip
    with Progress(*columns, disable=quiet, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total)
            bars.update(tasks[phase], completed=done)

        city = write_city(out, settings, report)
    if not quiet:
        event = city["event"]
        print(f"{out}: {city['buildings']} buildings, {settings.images} + "
              f"{settings.update_images} photographs, {city['points']['before']} points, "
              f"event {event['kind']} changed {len(event['changed_buildings'])} buildings, "
              f"{100 * city['changed_share']:.0f} % of the second flight's pixels")  # fmt: skip


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def main(
    out: Annotated[Path, typer.Argument(help="Folder to make; it must not exist yet.")],
    seed: Annotated[int, typer.Option(help="Decides everything random.")] = DEFAULT.seed,
    blocks: Annotated[
        int, typer.Option(help="Blocks a side, 1..12; a block is about 55 m.")
    ] = DEFAULT.blocks,
    images: Annotated[
        int, typer.Option(help="Photographs of the first flight, 8..5000.")
    ] = DEFAULT.images,
    update_images: Annotated[
        int, typer.Option(help="Photographs of the second, lower flight, 4..5000.")
    ] = DEFAULT.update_images,
    size: Annotated[
        str, typer.Option(help="Size of a photograph, WIDTHxHEIGHT px.")
    ] = f"{DEFAULT.width_px}x{DEFAULT.height_px}",
    event: Annotated[
        str,
        typer.Option(help="What happens between the flights: none, collapse (large buildings in "
                     "the middle become rubble), flood (the river rises), fire (burnt buildings "
                     "with smoke)."),
    ] = str(DEFAULT.event),
    altitude: Annotated[
        float, typer.Option(help="First flight's height above the ground, 70..400 m.")
    ] = DEFAULT.altitude_m,
    update_altitude: Annotated[
        float, typer.Option(help="Second flight's height above the ground, 55..400 m.")
    ] = DEFAULT.update_altitude_m,
    points: Annotated[
        int, typer.Option(help="Sparse points of the first model, 100..200000.")
    ] = DEFAULT.points,
    pixel_noise: Annotated[
        float, typer.Option(help="Noise of the points' observations, 0..2 px an axis.")
    ] = DEFAULT.pixel_noise_px,
    supersampling: Annotated[
        int, typer.Option(help="Rays a side of a pixel, 1..4.")
    ] = DEFAULT.supersampling,
    latitude: Annotated[
        float, typer.Option(help="Latitude of the site, deg.")
    ] = DEFAULT.latitude_deg,
    longitude: Annotated[
        float, typer.Option(help="Longitude of the site, deg.")
    ] = DEFAULT.longitude_deg,
    height: Annotated[
        float, typer.Option(help="Height of the site above the WGS 84 ellipsoid, m.")
    ] = DEFAULT.height_m,
    ground_truth: Annotated[
        bool, typer.Option("--ground-truth", help="Also write each photograph's exact depth.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing.")] = False,
) -> None:  # fmt: skip
    """Make a synthetic city with a drone flight before and one after an event.

    OUT/before and OUT/after hold `images` and a COLMAP binary `model` in ECEF, as
    prepare_dataset.py and update_dataset.py take them (the model in OUT/after holds both flights).
    OUT/after/change holds masks of what changed; OUT/city.json says what happened where. The same
    seed and options give the same city.
    """
    try:
        width_px, height_px = parse_size(size)
        settings = CitySettings(
            seed=seed, blocks=blocks, images=images, update_images=update_images,
            width_px=width_px, height_px=height_px, event=Event.named(event), altitude_m=altitude,
            update_altitude_m=update_altitude, points=points, pixel_noise_px=pixel_noise,
            supersampling=supersampling, latitude_deg=latitude, longitude_deg=longitude,
            height_m=height, ground_truth=ground_truth,
        )  # fmt: skip
        _run(out, settings, quiet)
    except (NerfcoreError, OSError) as error:
        full, text = False, str(error)
        if isinstance(error, OSError) and error.errno in _FULL:
            full = True
            text = f"{error.filename}: {error.strerror}; make room or choose another OUT"
        print(f"make_city: {text}", file=sys.stderr)
        raise typer.Exit(ExitCode.DISK_FULL if full else ExitCode.USAGE) from None


if __name__ == "__main__":
    app()
