"""Owns telling a damaged photograph from a whole one, which most decoders do not.

libjpeg goes on after damage and gives a picture that is grey or shifted from there on; its warnings
are what tells. What they do not tell either: damage that leaves the codes in step. PNGs carry
checksums, which are compared. Other formats, and rare kinds of JPEG, are left to their decoders.
"""

import io
import re
from typing import Final

import simplejpeg
from PIL import Image

_JPEG: Final = b"\xff\xd8"
_PNG: Final = b"\x89PNG\r\n\x1a\n"
# Some cameras pad the codes before the end marker.
_PADDING: Final = re.compile(r"\b\d extraneous bytes before marker 0xd9")


def damage(content: bytes) -> str | None:
    """Say what is damaged in a photograph's file; None when nothing is seen.

    Args:
        content: the whole file.
    """
    try:
        if content.startswith(_JPEG) and _is_known(content):
            simplejpeg.decode_jpeg(content, "GRAY", strict=True)
        elif content.startswith(_PNG):
            with Image.open(io.BytesIO(content)) as picture:
                picture.verify()
    except (ValueError, SyntaxError, EOFError, OSError) as error:
        return None if _PADDING.search(str(error)) else f"damaged: {error}"
    return None


def _is_known(content: bytes) -> bool:
    """Tell whether the library knows a JPEG's coding: it leaves out rare subsamplings and CMYK."""
    try:
        return simplejpeg.decode_jpeg_header(content)[2] != "CMYK"
    except ValueError as error:
        return "subsampling" not in str(error)
