"""What an upload's form holds: one file and, if its sender likes, `wait`. Decides piece by piece, without any I/O."""

from __future__ import annotations

import unicodedata
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from broker.errors import InvalidRequestError, PayloadTooLargeError
from broker.requests import UploadRequest, convert
from broker_services.api.multipart import FormParser, PartBegin, PartData

FILE: Final = "file"
_FIELDS: Final = frozenset(UploadRequest.__struct_fields__)
FRAME_BYTES: Final = 65_536
"""What a form may have beside its file: boundaries, headers, fields."""
FIELD_MAX_BYTES: Final = 256
NAME_MAX_CHARS: Final = 255
CONTENT_TYPE_MAX_CHARS: Final = 255
DEFAULT_CONTENT_TYPE: Final = "application/octet-stream"

# Characters that end lines or rearrange what is shown around them: names are shown to people.
_UNSHOWN_CATEGORIES: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
_REORDERING: Final = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Upload(msgspec.Struct, frozen=True):
    """A form that was read to its end. Names are the sender's, and nothing but text; `size` is the file's, in bytes."""

    name: str
    content_type: str
    size: int
    wait: float | None


class UploadForm:
    """Reads the form of one upload.

    Args:
        content_type: The request's header.
        max_bytes: The longest acceptable file.

    Raises:
        InvalidRequestError: The header names no boundary.
    """

    def __init__(self, content_type: str, *, max_bytes: int) -> None:
        self._parser = FormParser(content_type)
        self._max_bytes = max_bytes
        self._name: str | UnsetType = UNSET
        self._content_type = DEFAULT_CONTENT_TYPE
        self._size = 0
        self._fields: dict[str, bytearray] = {}
        # The field whose bytes come now; None while they are the file's.
        self._field: bytearray | None = None

    def feed(self, piece: bytes) -> list[memoryview]:
        """The bytes of the file that are in the next piece of the body, as views of it.

        Raises:
            InvalidRequestError: The form is broken, or has a field that cannot be used.
            PayloadTooLargeError: The file is longer than it may be.
        """
        of_file: list[memoryview] = []
        for event in self._parser.feed(piece):
            if isinstance(event, PartBegin):
                self._begin(event)
            elif isinstance(event, PartData):
                if self._field is None:
                    of_file.append(event.data)
                    self._count(len(event.data))
                else:
                    self._field += event.data
                    self._check_field()
        return of_file

    def finish(self) -> Upload:
        """The body has ended. Raises InvalidRequestError when something is missing or cannot be used."""
        self._parser.finish()
        if self._name is UNSET:
            raise InvalidRequestError("`file` is missing: send a multipart form with one file.", field=FILE)
        fields: dict[str, Any] = {name: _text(bytes(value), name) for name, value in self._fields.items()}
        asked = convert({FILE: "", **fields}, UploadRequest, from_text=True)
        wait = None if asked.wait is UNSET else asked.wait
        return Upload(self._name, self._content_type, self._size, wait)

    def _begin(self, part: PartBegin) -> None:
        name = _text(part.name, "name")
        if name not in _FIELDS:
            raise InvalidRequestError(
                f"`{name[:64]}` is no field of an upload: send `file` and, if you like, `wait`.", field=name[:64]
            )
        if name in self._fields or (name == FILE and self._name is not UNSET):
            raise InvalidRequestError(f"`{name}` is there twice; send it once.", field=name)
        if name == FILE:
            self._name = file_name(part.file_name)
            self._content_type = _content_type(part.content_type)
            self._field = None
        elif part.file_name is not None:
            raise InvalidRequestError(f"`{name}` is a file; send it as a plain field.", field=name)
        else:
            self._field = self._fields[name] = bytearray()

    def _count(self, length: int) -> None:
        self._size += length
        if self._size > self._max_bytes:
            raise PayloadTooLargeError(f"The file has more than {self._max_bytes} bytes, which is the most.")

    def _check_field(self) -> None:
        for name, value in self._fields.items():
            if len(value) > FIELD_MAX_BYTES:
                raise InvalidRequestError(f"`{name}` has more than {FIELD_MAX_BYTES} bytes.", field=name)


def file_name(sent: bytes | None) -> str:
    """The name that a sender gave a file, without the folders that some put before it.

    Raises:
        InvalidRequestError: There is none, or it cannot be shown to anybody as it is.
    """
    if sent is None:
        raise InvalidRequestError(
            "`file` is a plain field; send a file with its name (curl -F file=@NAME).", field=FILE
        )
    name = _text(sent, FILE).replace("\\", "/").rpartition("/")[2].strip()
    if name in ("", ".", ".."):
        raise InvalidRequestError("`file` has no name; name it.", field=FILE)
    if len(name) > NAME_MAX_CHARS:
        raise InvalidRequestError(f"The name of `file` has more than {NAME_MAX_CHARS} characters.", field=FILE)
    if any(unicodedata.category(letter) in _UNSHOWN_CATEGORIES or letter in _REORDERING for letter in name):
        raise InvalidRequestError("The name of `file` holds control characters; rename it.", field=FILE)
    return name


def _content_type(sent: bytes) -> str:
    """What the sender calls the file's type; nobody here relies on it."""
    text = sent.decode("ascii", "replace").strip()
    return (
        text
        if text.isprintable() and text.isascii() and 0 < len(text) <= CONTENT_TYPE_MAX_CHARS
        else DEFAULT_CONTENT_TYPE
    )


def _text(sent: bytes, field: str) -> str:
    try:
        return sent.decode()
    except UnicodeDecodeError:
        raise InvalidRequestError(f"The form is not UTF-8 (at `{field}`).", field=field) from None
