"""Pictures inside a page: small webp data URIs."""

import base64
import io
from typing import Any

import numpy as np

from reactvl.pool.images import FORMATS, check_pixels


def thumbnail(data: bytes | np.ndarray, side: int = 96) -> str:
    """A picture of at most `side` pixels as a webp data URI, 1 to 4 KB each at 96.

    `data` is an encoded image or a uint8 array (H, W, 3). Transparency is shown on white. Bytes that are no image, or one of
    too many pixels, give a tile with a cross: a report shows what it was given and does not fail for one bad picture.
    """
    from PIL import Image

    image = Image.fromarray(data) if isinstance(data, np.ndarray) else None
    try:
        image = image or Image.open(io.BytesIO(data), formats=FORMATS)
        image.draft("RGB", (side * 2, side * 2))  # of a JPEG, decode as few pixels as serve
        check_pixels(image.height, image.width)
        image = on_white(image)
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    except Exception:  # Pillow's plugins raise a dozen kinds of error on damaged bytes
        return BROKEN
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=78, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def on_white(image: Any) -> Any:
    """An RGB copy, transparent parts white."""
    from PIL import Image

    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


BROKEN = (
    "data:image/svg+xml;base64,"
    + base64.b64encode(
        b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 96 96">'
        b'<path d="M28 28 68 68M68 28 28 68" stroke="#999" stroke-width="3"/></svg>'
    ).decode()
)
