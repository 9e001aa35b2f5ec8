"""Pictures to upload."""

from __future__ import annotations

import io
import random
from typing import Any

from PIL import Image


def picture(width: int, height: int, kind: str = "PNG", **options: Any) -> bytes:
    """A file of that many pixels, which no format can make very small."""
    content = io.BytesIO()
    size = (min(width, 64), min(height, 64))
    # Always the same, so that a test that failed fails again.
    noise = random.Random(0).randbytes(3 * size[0] * size[1])
    image = Image.frombytes("RGB", size, noise).resize((width, height))
    image.save(content, kind, **options)
    return content.getvalue()
