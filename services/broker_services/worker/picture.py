"""What a picture is, and a thumbnail of it, within bounds of memory whatever the file claims or hides."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Final, NamedTuple

from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.Image import Transpose

from broker.errors import TaskError

FORMATS: Final = ("JPEG", "PNG", "GIF", "WEBP", "BMP")
"""What is decoded. Few on purpose: each decoder is code that strangers send input to."""
MEDIA_TYPES: Final = {
    "JPEG": "image/jpeg",
    # A JPEG with more pictures behind it, as many phones write them.
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "GIF": "image/gif",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
}
MOST_PIXELS: Final = 50_000_000
"""More than cameras of any phone give by default; decoded, 200 MB."""
PIXELS_AT_ONCE: Final = 100_000_000
"""Pixels that all threads of a process decode at a time: 400 MB. Further pictures wait."""
THUMBNAIL_PIXELS: Final = 256
"""The longer side of a thumbnail."""
THUMBNAIL_QUALITY: Final = 85
_HEAD_BYTES: Final = 512
_DEEP_MODES: Final = ("I;16", "I;16B", "I;16L", "I;16N")

# By EXIF orientation.
_TURNS: Final = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_SIDEWAYS: Final = frozenset({_TURNS[5], _TURNS[6], _TURNS[7], _TURNS[8]})

# Known by their first bytes, to be refused by their names.
_FOREIGN: Final[tuple[tuple[str, Callable[[bytes], bool]], ...]] = (
    ("SVG", lambda head: b"<svg" in head.lower()),
    ("TIFF", lambda head: head[:4] in (b"II*\0", b"MM\0*")),
    ("HEIC or AVIF", lambda head: head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"avif", b"avis")),
    ("PDF", lambda head: head[:5] == b"%PDF-"),
)


class Thumbnail(NamedTuple):
    """A small JPEG of a picture; sizes in pixels."""

    content: bytes
    width: int
    height: int


class Picture(NamedTuple):
    """What a file turned out to be; sizes in pixels, as it is meant to be looked at."""

    media_type: str
    width: int
    height: int
    thumbnail: Thumbnail


class PixelBudget:
    """How many pixels the threads of one process decode at a time.

    Args:
        most: The whole budget.
    """

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        self._changed = threading.Condition()

    @contextmanager
    def spent(self, pixels: int) -> Iterator[None]:
        """Waits until there is room for so many, and holds it. More than the whole budget counts as all of it."""
        wanted = min(pixels, self._most)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= wanted)
            self._left -= wanted
        try:
            yield
        finally:
            with self._changed:
                self._left += wanted
                self._changed.notify_all()


_budget = PixelBudget(PIXELS_AT_ONCE)


def look_at(file: IO[bytes]) -> Picture:
    """Reads a picture and makes a thumbnail of it: of its first frame, and turned as its EXIF data say.

    Args:
        file: Open for reading at its beginning.

    Raises:
        TaskError: `not-an-image`, `unsupported-image`, `image-too-large` or `broken-image`; another attempt would not
            help.
    """
    image = _opened(file)
    _check_size(*image.size)
    with _budget.spent(image.width * image.height), image:
        try:
            return _looked_at(image)
        except Image.DecompressionBombError:
            raise _too_large(*image.size) from None
        except (MemoryError, TaskError):
            raise
        except Exception as error:
            # Decoders raise what they like: OSError, SyntaxError, ValueError, struct.error, IndexError …
            raise _broken(str(error)) from error


def _opened(file: IO[bytes]) -> Image.Image:
    """The header is read and nothing decoded."""
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS
    # What is beyond the limit is refused here, and what is far beyond by Pillow itself.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    try:
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise _not_an_image(head) from None
    except Image.DecompressionBombError:
        raise TaskError(
            f"The picture has more than twice {MOST_PIXELS} pixels; at most {MOST_PIXELS} are decoded.",
            code="image-too-large",
            details={"limit": MOST_PIXELS},
        ) from None
    except Exception as error:
        raise _broken(str(error)) from error


def _looked_at(image: Image.Image) -> Picture:
    media_type = MEDIA_TYPES[image.format or ""]
    width, height = image.size
    turn = _TURNS.get(_orientation(image))
    if turn in _SIDEWAYS:
        width, height = height, width
    small = _reduced(image)
    if turn is not None:
        small = small.transpose(turn)
    content = io.BytesIO()
    # Nothing but pixels: what cameras note, places among it, is not for a thumbnail.
    small.save(content, "JPEG", quality=THUMBNAIL_QUALITY)
    return Picture(media_type, width, height, Thumbnail(content.getvalue(), *small.size))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        # Camera notes are no reason to refuse a picture.
        return 1


def _reduced(image: Image.Image) -> Image.Image:
    """In the thumbnail's size and as RGB: deep greys scaled, what is transparent on white."""
    if image.mode in _DEEP_MODES:
        image = image.convert("I")
    elif image.mode in ("P", "PA", "1"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    # A JPEG is not even decoded in full for it.
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    if image.mode == "I":
        return image.point(lambda value: value * (1 / 256)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    clear = image.convert("RGBA")
    ground = Image.new("RGB", clear.size, "white")
    ground.paste(clear, mask=clear)
    return ground


def _check_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise _too_large(width, height)


def _too_large(width: int, height: int) -> TaskError:
    return TaskError(
        f"The picture has {width} x {height} pixels; at most {MOST_PIXELS} are decoded.",
        code="image-too-large",
        details={"width": width, "height": height, "limit": MOST_PIXELS},
    )


def _broken(reason: str) -> TaskError:
    return TaskError(f"The picture is broken or cut off: {reason[:200]}", code="broken-image")


def _not_an_image(head: bytes) -> TaskError:
    for name, is_one in _FOREIGN:
        if is_one(head):
            return TaskError(f"The file is {name}; send {_known()}.", code="unsupported-image")
    return TaskError(f"The file is no picture of a known type; send {_known()}.", code="not-an-image")


def _known() -> str:
    return "JPEG, PNG, GIF, WebP or BMP"
