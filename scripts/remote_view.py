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
    parser.add_argument("--size", default="640x480", help="of a picture, px")
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


def circle(view: RemoteView, count: int, size: str, folder: Path) -> None:
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
    width, height = (int(part) for part in size.split("x"))
    for index in range(count):
        turn = 2.0 * math.pi * index / count
        spot = middle[0] - reach * math.sin(turn), middle[1] - reach * math.cos(turn), up
        began = time.monotonic()
        view.update_camera(
            spot,
            heading_deg=math.degrees(turn),
            pitch_deg=PITCH_DEG,
            width_px=width,
            height_px=height,
        )
        picture = view.wait_for_final()
        path = folder / f"view_{index:02d}.png"
        Image.fromarray(picture.pixels).save(path)
        print(f"{path}: {time.monotonic() - began:.2f} s")


if __name__ == "__main__":
    sys.exit(main())
