#!/usr/bin/env python3
"""An example of the remote client: circles over a running viewer's scene and saves what it sees.

    python scripts/remote_view.py --url ws://localhost:7070 --out /tmp/circle

It runs under any Python from 3.9 on that has websockets, numpy and Pillow; from outside the project
copy nerfcore/view_client.py beside it.
"""

import argparse
import math
import sys
import time
from pathlib import Path

from PIL import Image

try:
    from nerfcore.view_client import RemoteView, RemoteViewError
except ImportError:
    from view_client import RemoteView, RemoteViewError  # type: ignore[import-not-found]

PITCH_DEG = -40.0


def main() -> int:
    """Save one picture for each place on the circle; 1 when the viewer refuses or is gone."""
    parser = argparse.ArgumentParser(description="Save views of a running viewer along a circle.")
    parser.add_argument("--url", default="ws://localhost:7070", help="of the viewer")
    parser.add_argument("--token", help="the job's viewer_token, if it has one")
    parser.add_argument("--views", type=int, default=8, help="pictures on the circle")
    parser.add_argument(
        "--size", type=size_of, default=(640, 480), help="of a picture, px; 640x480 if not given"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    try:
        with RemoteView(given.url, given.token) as view:
            circle(view, given.views, given.size, given.out)
    except RemoteViewError as error:
        print(f"remote_view: {error}", file=sys.stderr)
        return 1
    return 0


def size_of(text: str) -> tuple[int, int]:
    """Return width and height, px, of a text such as 640x480."""
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r}: must be width x height, such as 640x480")
    return int(sides[0]), int(sides[1])


def circle(view: RemoteView, count: int, size: tuple[int, int], folder: Path) -> None:
    """Look at the start view's target from all sides.

    Args:
        view: connected.
        count: pictures.
        size: width x height, px.
        folder: they are saved here.
    """
    start, ground_m = view.hello["start"], view.hello["ground_up_m"]
    east, north, up = start["position_enu_m"]
    reach = (up - ground_m) / math.tan(math.radians(-PITCH_DEG))
    heading = math.radians(start["heading_deg"])
    middle = east + reach * math.sin(heading), north + reach * math.cos(heading)
    for index in range(count):
        turn = 2.0 * math.pi * index / count
        spot = middle[0] - reach * math.sin(turn), middle[1] - reach * math.cos(turn), up
        began = time.monotonic()
        view.update_camera(
            spot,
            heading_deg=math.degrees(turn),
            pitch_deg=PITCH_DEG,
            width_px=size[0],
            height_px=size[1],
        )
        picture = view.wait_for_final()
        path = folder / f"view_{index:02d}.png"
        Image.fromarray(picture.pixels).save(path)
        print(f"{path}: {time.monotonic() - began:.2f} s")


if __name__ == "__main__":
    sys.exit(main())
