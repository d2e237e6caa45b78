"""Owns what a synthetic city can be asked for, and the refusal of what it cannot."""

from dataclasses import dataclass
from enum import StrEnum

from nerfcore.errors import SettingsError


class Event(StrEnum):
    """What happens between the two flights."""

    NONE = "none"
    COLLAPSE = "collapse"
    FLOOD = "flood"
    FIRE = "fire"

    @classmethod
    def named(cls, name: str) -> "Event":
        """Return the event of this name.

        Raises:
            SettingsError: there is none.
        """
        if name not in set(cls):
            raise SettingsError(f"event: '{name}' is none of {', '.join(cls)}; choose one")
        return cls(name)


# Field -> (lowest, highest, unit) of every number a user can set.
LIMITS: dict[str, tuple[float, float, str]] = {
    "seed": (0, 2**32 - 1, ""),
    "blocks": (1, 12, "blocks a side"),
    "images": (8, 5000, "images"),
    "update_images": (4, 5000, "images"),
    "width_px": (64, 4096, "px"),
    "height_px": (48, 4096, "px"),
    "altitude_m": (70, 400, "m"),
    "update_altitude_m": (55, 400, "m"),
    "points": (100, 200_000, "points"),
    "pixel_noise_px": (0, 2, "px"),
    "supersampling": (1, 4, "rays a side of a pixel"),
    "latitude_deg": (-85, 85, "deg"),
    "longitude_deg": (-180, 180, "deg"),
    "height_m": (-500, 9000, "m"),
}


@dataclass(frozen=True)
class CitySettings:
    """One synthetic city and its two flights.

    Attributes:
        seed: decides everything random.
        blocks: blocks a side; a block is about 55 m.
        images, update_images: photographs of the first and of the second flight.
        width_px, height_px: size of a photograph.
        event: what happens in between.
        altitude_m, update_altitude_m: mean heights of the flights above the ground.
        points: sparse points wanted for the first flight's model.
        pixel_noise_px: standard deviation of the observations of sparse points, px an axis.
        supersampling: rays a side of a pixel.
        latitude_deg, longitude_deg, height_m: the geographic reference, ENU's origin (WGS 84).
        ground_truth: also write the exact depth of every photograph.
    """

    seed: int = 0
    blocks: int = 4
    images: int = 80
    update_images: int = 24
    width_px: int = 256
    height_px: int = 192
    event: Event = Event.COLLAPSE
    altitude_m: float = 100.0
    update_altitude_m: float = 65.0
    points: int = 12_000
    pixel_noise_px: float = 0.3
    supersampling: int = 2
    latitude_deg: float = 51.5
    longitude_deg: float = 7.4
    height_m: float = 100.0
    ground_truth: bool = False

    def __post_init__(self) -> None:
        for field, (lowest, highest, unit) in LIMITS.items():
            value = getattr(self, field)
            if not lowest <= value <= highest:  # also refuses NaN
                raise SettingsError(
                    f"{field}: {value} is outside {lowest}..{highest} {unit}".rstrip()
                    + "; choose a value inside"
                )
        if not 0.5 <= self.width_px / self.height_px <= 3.0:
            raise SettingsError(
                f"size: {self.width_px}x{self.height_px} is too narrow or too wide; "
                "keep width / height within 0.5..3"
            )


def parse_size(text: str) -> tuple[int, int]:
    """Read an image size such as "256x192".

    Returns:
        Width and height, px.

    Raises:
        SettingsError: the text is not WIDTHxHEIGHT.
    """
    width, cross, height = text.lower().partition("x")
    if not (
        cross and width.isascii() and width.isdigit() and height.isascii() and height.isdigit()
    ):
        raise SettingsError(f"size: '{text}' is not WIDTHxHEIGHT; write for example 256x192")
    return int(width), int(height)
