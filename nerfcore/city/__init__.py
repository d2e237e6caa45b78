"""The synthetic city: a procedural town flown over twice, with an event in between.

Frames. Everything is laid out in the *city frame*: metres, x along the streets, y across them,
z up, ground near z = 0. ENU around the geographic reference is the city frame turned by the plan's
yaw about the vertical. Cameras are COLMAP's: axes right, down, forward, world-to-camera, pixel
centres at +0.5. Colours are linear albedo or linear light until a picture is encoded as sRGB.
"""

from nerfcore.city.settings import CitySettings, Event
from nerfcore.city.write import write_city

__all__ = ["CitySettings", "Event", "write_city"]
