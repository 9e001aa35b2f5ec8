"""A multipart/form-data body (RFC 7578) as it arrives, piece by piece: what each piece tells, without any I/O."""

from __future__ import annotations

import logging
from typing import Final, NamedTuple, TypeAlias

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from broker.errors import InvalidRequestError

_PLAIN_ENCODINGS: Final = frozenset({b"", b"binary", b"8bit", b"7bit"})
_silent = logging.getLogger(f"{__name__}.silent")
# The parser would log what its caller is told anyway, once for each broken request.
_silent.disabled = True


class PartBegin(NamedTuple):
    """A part begins. `file_name` is None for a plain field; both names are as they were sent."""

    name: bytes
    file_name: bytes | None
    content_type: bytes


class PartData(NamedTuple):
    """Some bytes of the present part."""

    data: memoryview


class PartEnd(NamedTuple):
    """The present part is whole."""


FormEvent: TypeAlias = PartBegin | PartData | PartEnd


class FormParser:
    """Turns the pieces of a body into events.

    Args:
        content_type: The request's header.

    Raises:
        InvalidRequestError: The header names no boundary that can be used.
    """

    def __init__(self, content_type: str) -> None:
        boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
        if not boundary:
            raise InvalidRequestError("The header Content-Type names no boundary; let your HTTP client write it.")
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._take_header_name,
                    "on_header_value": self._take_header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._take_data,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise _broken(error) from None
        self._parser.logger = _silent
        self._events: list[FormEvent] = []
        self._headers: dict[bytes, bytes] = {}
        self._header_name = self._header_value = b""
        self._is_complete = False

    def feed(self, piece: bytes) -> list[FormEvent]:
        """What the next piece of the body tells; data stays a view of `piece`.

        Raises:
            InvalidRequestError: It is no multipart form, or a part has headers that cannot be used.
        """
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise _broken(error) from None
        events, self._events = self._events, []
        return events

    def finish(self) -> None:
        """The body has ended. Raises InvalidRequestError when the form has not."""
        if not self._is_complete:
            raise InvalidRequestError("The multipart body ends before its last boundary; send it whole.")

    # Of the parser

    def _begin_part(self) -> None:
        self._headers = {}

    def _take_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _take_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _end_headers(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition"))
        name = options.get(b"name")
        if kind != b"form-data" or name is None:
            raise InvalidRequestError(
                "A part of the body is no field: it needs `Content-Disposition: form-data; name=…`."
            )
        encoding = self._headers.get(b"content-transfer-encoding", b"").strip().lower()
        if encoding not in _PLAIN_ENCODINGS:
            raise InvalidRequestError("A part of the body has a Content-Transfer-Encoding; send its bytes as they are.")
        self._events.append(PartBegin(name, options.get(b"filename"), self._headers.get(b"content-type", b"")))

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(PartData(memoryview(data)[start:end]))

    def _end_part(self) -> None:
        self._events.append(PartEnd())

    def _end(self) -> None:
        self._is_complete = True


def _broken(error: Exception) -> InvalidRequestError:
    reason = str(error).rstrip(".")
    return InvalidRequestError(f"The body is not the multipart form that its header announces: {reason}.")
