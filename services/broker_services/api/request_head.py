"""What the head of a request says, as the calls see it: nothing of it is parsed before a call asks."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from functools import cache
from typing import Any, Final, TypeVar, cast
from urllib.parse import parse_qsl, quote

import msgspec
import msgspec.inspect
from msgspec import Raw

from broker import values
from broker.errors import InvalidRequestError
from broker.requests import ErrorRequest, convert, invalid
from broker_services.api.messages import Language, preferred_language
from broker_services.api.problems import HttpError

T = TypeVar("T")

_error_decoder = msgspec.json.Decoder(ErrorRequest)

MOST_QUERY_FIELDS: Final = 200

# Query parameters whose text is JSON.
_JSON_PARAMETERS: Final = frozenset({"payload", "result", "error", "value"})
# As most senders call it, if they do.
_PLAIN_JSON: Final = (b"application/json", None)
_prefer_wait = re.compile(r'(?:^|,)\s*wait\s*=\s*"?(\d+(?:\.\d+)?)"?\s*(?:[;,]|$)', re.IGNORECASE)


class RequestHead(msgspec.Struct, eq=False):
    """A request without its body; nothing of it is parsed before a call asks.

    `method` and `query` are as sent, `path` is unquoted, `headers` are by lower-case name: repeated ones are joined, as
    HTTP allows (`by_name`). `is_held` tells that the call is held, however long it takes.
    """

    method: str
    path: str
    query: bytes
    headers: Mapping[bytes, bytes]
    is_held: bool = False

    def header(self, name: bytes) -> str | None:
        """A header's value by its lower-case name; repeated ones are joined, as HTTP allows."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def instance(self) -> str:
        """The path as a problem names it: what a caller put into it is escaped again."""
        return quote(self.path, safe="/:@!$&'()*+,;=~")

    @property
    def language(self) -> Language:
        """What its sender reads."""
        accept = self.headers.get(b"accept-language")
        return Language.ENGLISH if accept is None else preferred_language(accept.decode("latin-1"))

    @property
    def preferred_wait(self) -> float | None:
        """The seconds of `Prefer: wait=N` (RFC 7240); what cannot be read is ignored, as the RFC asks."""
        prefer = self.headers.get(b"prefer")
        found = None if prefer is None else _prefer_wait.search(prefer.decode("latin-1"))
        return None if found is None else float(found.group(1))

    @property
    def media_type(self) -> str:
        """Of the body, lower-case and without parameters; empty when the sender names none."""
        return (self.header(b"content-type") or "").partition(";")[0].strip().lower()

    # Query

    def query_pairs(self) -> list[tuple[str, str]]:
        """All query parameters in order. Raises InvalidRequestError."""
        return [(name, value) for name, _, value in self._query_parts()]

    def _query_parts(self) -> list[tuple[str, str, str]]:
        """Each parameter's name and value, and what stood between."""
        try:
            text = self.query.decode("ascii")
            if "%" not in text and "+" not in text and text.count("&") < MOST_QUERY_FIELDS:
                # As most are: they are read five times as quickly.
                return [part.partition("=") for part in text.split("&") if part]
            pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MOST_QUERY_FIELDS)
        except UnicodeDecodeError:
            raise InvalidRequestError("The query is not percent-encoded UTF-8.") from None
        except ValueError:
            raise InvalidRequestError(f"The query has more than {MOST_QUERY_FIELDS} parameters.") from None
        return [(name, "=", value) for name, value in pairs]

    def query_fields(self, lists: Container[str] = ()) -> dict[str, Any]:
        """Query parameters by name, each at most once but for those in `lists`. Raises InvalidRequestError."""
        fields: dict[str, Any] = {}
        for name, _, value in self._query_parts():
            if name in lists:
                fields.setdefault(name, []).append(value)
            elif name in fields:
                raise InvalidRequestError(f"`{name}` is given twice; give it once.", field=name)
            else:
                fields[name] = value
        return fields

    def read_query(self, request_type: type[T]) -> T:
        """The query as a request; fields that are lists may come many times. Raises InvalidRequestError,
        MalformedJsonError."""
        fields = self.query_fields(_lists_of(cast("Any", request_type)))
        if not _JSON_PARAMETERS.isdisjoint(fields):
            for name in _JSON_PARAMETERS & fields.keys():
                fields[name] = _json_parameter(name, fields[name])
        return convert(fields, request_type, from_text=True)

    # Body, as far as the head speaks of it

    @property
    def announced_bytes(self) -> int:
        """Content-Length, or 0."""
        announced = self.header(b"content-length") or ""
        return int(announced) if announced.isdigit() else 0

    def refuse_encoded(self) -> None:
        """Raises HttpError for a compressed body."""
        if b"content-encoding" not in self.headers:
            return
        encoding = (self.header(b"content-encoding") or "identity").strip().lower()
        if encoding != "identity":
            raise HttpError("unsupported-media-type", f"The body is encoded ({encoding}); send it as it is.")

    def refuse_other_than_json(self) -> None:
        """Raises HttpError for a body of another type, InvalidRequestError for fields in the query as well."""
        if self.query:
            raise InvalidRequestError(
                "A POST takes its fields in the JSON body, not in the query; send them there, or use GET."
            )
        if self.headers.get(b"content-type") in _PLAIN_JSON:
            return
        if self.media_type not in ("application/json", "") and not self.media_type.endswith("+json"):
            raise HttpError("unsupported-media-type", f"The body is {self.media_type}; send it as application/json.")


@cache
def _lists_of(request_type: Any) -> frozenset[str]:
    """The fields of a request that may come many times."""
    fields = cast("msgspec.inspect.StructType", msgspec.inspect.type_info(request_type)).fields
    return frozenset(field.name for field in fields if _is_list(field.type))


def _is_list(kind: msgspec.inspect.Type) -> bool:
    # A type with a description comes wrapped.
    return isinstance(kind.type if isinstance(kind, msgspec.inspect.Metadata) else kind, msgspec.inspect.ListType)


def by_name(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers as `RequestHead` takes them, from pairs of a lower-case name and a value."""
    named = dict(headers)
    if len(named) < len(headers):
        named = {name: b", ".join(value for key, value in headers if key == name) for name in named}
    return named


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """A JSON body as a request. Raises MalformedJsonError (400) or InvalidRequestError (422)."""
    try:
        return decoder.decode(body if body.strip() else b"{}")
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise values.refusal(body, "body", str(error)) from None
    except RecursionError:
        raise InvalidRequestError(f"The body is nested deeper than {values.MAX_NESTING} levels.") from None


def _json_parameter(name: str, text: str) -> Any:
    raw = text.encode()
    return decode(raw, _error_decoder) if name == "error" else Raw(raw)
