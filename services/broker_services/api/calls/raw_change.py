"""Completions in the sender's own format: any JSON or form body is the result."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qs

import orjson
from msgspec import Raw

from broker.errors import InvalidRequestError
from broker.requests import ChangeRequest, convert
from broker_services.api.http_request import HttpRequest
from broker_services.api.problems import HttpError

_FORM: Final = "application/x-www-form-urlencoded"
_MULTIPART: Final = "multipart/form-data"
RAW_FORMS: Final = (_FORM, _MULTIPART)
# What callback senders call a JSON body.
_RAW_JSON: Final = frozenset({"", "application/json", "text/plain", "text/json", "application/octet-stream"})
RAW_FIELDS: Final = ("uuid", "state", "lease")


async def read_raw_change(request: HttpRequest, pairs: dict[str, str]) -> ChangeRequest:
    """The sender chooses its own format: the body is the result, and of the query only our own fields are read."""
    fields: dict[str, Any] = {name: pairs[name] for name in RAW_FIELDS if name in pairs}
    body = b"" if request.method == "GET" else await _raw_result(request)
    if body:
        fields["result"] = Raw(body)
    return convert(fields, ChangeRequest, from_text=True)


async def _raw_result(request: HttpRequest) -> bytes:
    body = (await request.read_body()).strip()
    if request.media_type in _RAW_JSON or request.media_type.endswith("+json"):
        return body
    if request.media_type == _FORM:
        # curl -d sends JSON under this type too; no form starts with an unescaped bracket.
        return body if body[:1] in (b"{", b"[") else _form_json(body)
    if request.media_type == _MULTIPART:
        return await _multipart_json(request, body)
    raise HttpError(
        "unsupported-media-type", f"The body is {request.media_type}; a raw completion takes JSON or a form."
    )


def _form_json(body: bytes) -> bytes:
    try:
        fields = parse_qs(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=1_000)
    except ValueError:
        raise InvalidRequestError("The form is not percent-encoded UTF-8 of at most 1,000 fields.") from None
    return orjson.dumps({name: found[0] if len(found) == 1 else found for name, found in fields.items()})


async def _multipart_json(request: HttpRequest, body: bytes) -> bytes:
    # Imported here: few senders use this form, and all else of a call gets along without starlette.
    from starlette.datastructures import UploadFile
    from starlette.requests import Request

    async def replay() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    fields: dict[str, Any] = {}
    try:
        form = await Request(dict(request.scope), replay).form(max_files=0)
    except Exception as error:  # starlette raises HTTPException where an app is, its own type elsewhere
        raise InvalidRequestError(f"The multipart form cannot be read: {error}; send fields, not files.") from None
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            raise InvalidRequestError(f"`{name}` is a file; a raw completion takes fields only.", field=name)
        fields.setdefault(name, []).append(value)
    return orjson.dumps({name: found[0] if len(found) == 1 else found for name, found in fields.items()})
