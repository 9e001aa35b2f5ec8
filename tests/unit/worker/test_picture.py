"""What pictures are taken for what they are, and that none of the bad ones costs more than it may."""

from __future__ import annotations

import io
import struct
import threading
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from broker.errors import TaskError
from broker_services.worker.picture import MOST_PIXELS, PixelBudget, look_at
from tests.support.pictures import picture


def looked_at(content: bytes) -> tuple[str, int, int, Image.Image]:
    found = look_at(io.BytesIO(content))
    thumbnail = Image.open(io.BytesIO(found.thumbnail.content))
    assert thumbnail.format == "JPEG"
    assert thumbnail.size == (found.thumbnail.width, found.thumbnail.height)
    return found.media_type, found.width, found.height, thumbnail


def refusal(content: bytes) -> str:
    with pytest.raises(TaskError) as raised:
        look_at(io.BytesIO(content))
    assert not raised.value.retry
    return raised.value.code


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_each_known_type_is_told_by_its_content(kind: str) -> None:
    media_type, width, height, thumbnail = looked_at(picture(640, 320, kind))
    assert (media_type, width, height) == (f"image/{kind.lower()}", 640, 320)
    assert thumbnail.size == (256, 128)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_every_mode_becomes_a_thumbnail(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    content = io.BytesIO()
    Image.new(mode, (300, 300)).save(content, kind)
    assert looked_at(content.getvalue())[3].size == (256, 256)


def test_what_is_transparent_is_white_and_deep_greys_keep_their_shade() -> None:
    content = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(content, "PNG")
    assert looked_at(content.getvalue())[3].getpixel((4, 4)) == (255, 255, 255)
    content = io.BytesIO()
    Image.new("I;16", (8, 8), 0x8000).save(content, "PNG")
    assert looked_at(content.getvalue())[3].getpixel((4, 4)) == (128, 128, 128)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_camera_says_and_tells_nothing_else(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "maker"
    width, height, thumbnail = looked_at(picture(400, 200, "JPEG", exif=exif))[1:]
    assert (width, height) == ((200, 400) if orientation >= 5 else (400, 200))
    assert thumbnail.size == ((128, 256) if orientation >= 5 else (256, 128))
    assert not thumbnail.getexif()


def test_thin_pictures_keep_a_pixel() -> None:
    assert looked_at(picture(2_000, 1, "PNG"))[3].size == (256, 1)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "not-an-image"),
        (b"hello", "not-an-image"),
        (b"<?xml version='1.0'?><SVG xmlns='http://www.w3.org/2000/svg'/>", "unsupported-image"),
        (b"II*\0" + bytes(64), "unsupported-image"),
        (b"\0\0\0\x18ftypheic" + bytes(64), "unsupported-image"),
        (b"%PDF-1.7", "unsupported-image"),
        (picture(600, 400, "PNG")[:300], "broken-image"),
        (picture(600, 400, "JPEG")[:700], "broken-image"),
        (picture(600, 400, "GIF")[:-40], "broken-image"),
        (picture(600, 400, "WEBP")[:-40], "broken-image"),
    ],
    ids=["empty", "text", "svg", "tiff", "heic", "pdf", "cut png", "cut jpeg", "cut gif", "cut webp"],
)
def test_what_is_no_whole_picture_has_a_code(content: bytes, code: str) -> None:
    assert refusal(content) == code


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1_000)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("width", [MOST_PIXELS // 1_000 + 1, MOST_PIXELS // 500, 2**31 - 1])
def test_a_bomb_is_refused_by_its_header(width: int) -> None:
    assert refusal(bomb(width, 1_000)) == "image-too-large"


def test_a_frame_beyond_its_screen_is_a_bomb_too() -> None:
    gif = bytearray(picture(1, 1, "GIF"))
    frame = gif.index(b",\0\0\0\0")
    gif[frame + 5 : frame + 9] = struct.pack("<HH", 65_535, 65_535)
    assert refusal(bytes(gif)) == "image-too-large"


@given(st.data())
def test_damage_anywhere_has_a_code_and_no_other_error(data: st.DataObject) -> None:
    content = bytearray(picture(40, 30, data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "BMP"]))))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        look_at(io.BytesIO(bytes(content)))
    except TaskError as error:
        assert error.code in {"not-an-image", "unsupported-image", "broken-image", "image-too-large"}  # noqa: PT017


def test_pictures_wait_for_room() -> None:
    budget = PixelBudget(10)
    entered = threading.Event()

    def spend() -> None:
        with budget.spent(100):
            entered.set()

    thread = threading.Thread(target=spend)
    with budget.spent(1):
        thread.start()
        assert not entered.wait(0.05)
    assert entered.wait(5)
    thread.join()
