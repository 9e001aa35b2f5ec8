"""What a form of an upload may hold, however it is cut into pieces."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import BrokerError, InvalidRequestError, PayloadTooLargeError
from broker_services.api.upload_form import Upload, UploadForm, file_name

BOUNDARY = b"b0undary"
CONTENT_TYPE = f'multipart/form-data; boundary="{BOUNDARY.decode()}"'
END = b"--" + BOUNDARY + b"--\r\n"
MOST = 1_000


def part(disposition: bytes, content: bytes = b"", *headers: bytes) -> bytes:
    lines = [b"--" + BOUNDARY, b"Content-Disposition: " + disposition, *headers, b"", content, b""]
    return b"\r\n".join(lines)


def file_part(content: bytes, *headers: bytes, name: bytes = b"a.png") -> bytes:
    return part(b'form-data; name="file"; filename="' + name + b'"', content, *headers)


def read(body: bytes, *cuts: int, content_type: str = CONTENT_TYPE) -> tuple[bytes, Upload]:
    form = UploadForm(content_type, max_bytes=MOST)
    places = [0, *sorted(cuts), len(body)]
    found = b"".join(b"".join(form.feed(body[start:end])) for start, end in pairwise(places) if start < end)
    return found, form.finish()


def refusal(body: bytes, *, content_type: str = CONTENT_TYPE) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as raised:
        read(body, content_type=content_type)
    return raised.value


@given(st.data())
def test_a_form_may_be_cut_anywhere(data: st.DataObject) -> None:
    words = st.sampled_from([b"\r", b"\n", b"--", BOUNDARY, b"\r\n--" + BOUNDARY[:4], b"x", b"\0"])
    content = b"".join(data.draw(st.lists(words, max_size=12)))
    if b"\r\n--" + BOUNDARY in b"\r\n" + content:
        content = b"plain"
    fields = [file_part(content, b"Content-Type: image/png"), part(b'form-data; name="wait"', b"2.5")]
    body = b"".join(data.draw(st.permutations(fields))) + END
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=20))
    assert read(body, *cuts) == (content, Upload("a.png", "image/png", len(content), 2.5))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (END, "file"),
        (part(b'form-data; name="wait"', b"1") + END, "file"),
        (part(b'form-data; name="file"', b"text") + END, "file"),
        (file_part(b"1") + file_part(b"2") + END, "file"),
        (file_part(b"1", name=b"") + END, "file"),
        (file_part(b"1") + part(b'form-data; name="wait"', b"soon") + END, "wait"),
        (file_part(b"1") + part(b'form-data; name="wait"', b"-1") + END, "wait"),
        (file_part(b"1") + part(b'form-data; name="wait"', b"1" * 300) + END, "wait"),
        (part(b'form-data; name="wait"', b"1") * 2 + file_part(b"1") + END, "wait"),
        (part(b'form-data; name="wait"; filename="w"', b"1") + END, "wait"),
        (file_part(b"1") + part(b'form-data; name="uuid"', b"1") + END, "uuid"),
        (file_part(b"1") + part(b'form-data; name="w\xffit"', b"1") + END, "name"),
        (file_part(b"1") + part(b'form-data; name="wait"', b"\xff") + END, "wait"),
    ],
)
def test_a_form_that_cannot_be_used_is_refused_by_the_field(body: bytes, field: str) -> None:
    assert refusal(body).field == field


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "ends before"),
        (file_part(b"12345"), "ends before"),
        (b"hello", "is not the multipart form"),
        (b"--" + BOUNDARY + b"\r\n: x\r\n\r\n" + END, "is not the multipart form"),
        (b"--" + BOUNDARY + b"\r\nA: " + b"x" * 9_000 + b"\r\n\r\n", "is not the multipart form"),
        (b"--" + BOUNDARY + b"\r\n\r\nx\r\n" + END, "is no field"),
        (part(b"attachment; name=file", b"x") + END, "is no field"),
        (file_part(b"aGk=", b"Content-Transfer-Encoding: base64") + END, "Content-Transfer-Encoding"),
    ],
)
def test_a_broken_form_is_refused(body: bytes, word: str) -> None:
    assert word in str(refusal(body))


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=" + "x" * 300])
def test_the_boundary_must_be_there_and_of_use(content_type: str) -> None:
    refusal(END, content_type=content_type)


def test_a_file_is_refused_as_soon_as_it_is_too_long() -> None:
    assert read(file_part(b"x" * MOST) + END)[1].size == MOST
    form = UploadForm(CONTENT_TYPE, max_bytes=MOST)
    with pytest.raises(PayloadTooLargeError):
        form.feed(file_part(b"x" * (MOST + 1)))


@given(st.binary(max_size=300))
def test_no_body_is_anything_but_read_or_refused(body: bytes) -> None:
    with suppress(BrokerError):
        read(b"--" + BOUNDARY + body)


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ("photo.png", "photo.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\photo.png", "photo.png"),
        ("/a/b/照片 1.png", "照片 1.png"),
        (" a.png ", "a.png"),
        ("x" * 255, "x" * 255),
    ],
)
def test_a_name_is_what_stands_behind_its_folders(sent: str, name: str) -> None:
    assert file_name(sent.encode()) == name


@pytest.mark.parametrize(
    "sent", [None, b"", b"a/", b"..", b"a/..", b"a\0.png", b"a\nb", b"a\x7f", "‮gnp.exe".encode(), b"\xff", b"x" * 256]
)
def test_a_name_that_cannot_be_shown_is_refused(sent: bytes | None) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        file_name(sent)
    assert raised.value.field == "file"


def test_a_type_that_is_no_word_counts_as_none() -> None:
    assert read(file_part(b"1") + END)[1].content_type == "application/octet-stream"
    assert read(file_part(b"1", "Content-Type: bild/ä".encode()) + END)[1].content_type == "application/octet-stream"
