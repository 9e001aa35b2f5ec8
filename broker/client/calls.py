"""What is asked of the API: one call each, as JSON or as a query, with values as Python objects or as JSON text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import orjson

from broker.errors import InvalidRequestError, MalformedJsonError
from broker.task import TaskFailure


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call, before it is known how long it may hold.

    Args:
        method: GET, POST or DELETE.
        target: Path, and query if it has one, below the API's URL.
        uuid: The task it is about, for errors.
        fields: The members of the JSON body of a POST, None for absent.
        headers: More headers.
        holds: Whether the call takes a `wait`.
        body: The whole body, where that is no object of fields.
        repeatable: Whether a second run changes nothing more; any other call is sent again only if it never arrived.
    """

    method: str
    target: str
    uuid: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    holds: bool = False
    body: bytes | None = None
    repeatable: bool = True

    @property
    def writes(self) -> bool:
        """Whether the call may change something."""
        return self.method != "GET"

    def url(self, base: httpx.URL, hold_s: float) -> httpx.URL:
        """The address to ask, with `wait` in the query where that is its place."""
        url = httpx.URL(str(base).rstrip("/") + self.target)
        return url.copy_set_param("wait", seconds(hold_s)) if self.holds and not self.writes else url

    def content(self, hold_s: float) -> Mapping[str, Any]:
        """What httpx takes as the body, with its headers; nothing but headers for a GET.

        Raises:
            InvalidRequestError: A value has no word in JSON.
        """
        if self.body is not None:
            return {"content": self.body, "headers": {"Content-Type": "application/json", **self.headers}}
        if not self.writes:
            return {"headers": dict(self.headers)}
        given = {name: value for name, value in self.fields.items() if value is not None}
        if self.holds:
            given["wait"] = seconds(hold_s)
        headers = {"Content-Type": "application/json", **self.headers}
        return {"content": dump(given, "The request"), "headers": headers}


def query_call(uuid: str, target: str | None = None) -> Call:
    """`GET /queryTaskState`, or the place that a `Location` named for it."""
    own = f"/queryTaskState?{httpx.QueryParams({'uuid': uuid})}"
    return Call(method="GET", target=target or own, uuid=uuid, holds=True)


def events_call(uuid: str, after: str | None) -> Call:
    """`GET /taskEvents`, as lines of JSON, behind the event of that id."""
    headers = {"Accept": "application/x-ndjson", **({} if after is None else {"Last-Event-ID": after})}
    return Call(method="GET", target=f"/taskEvents?{httpx.QueryParams({'uuid': uuid})}", uuid=uuid, headers=headers)


def list_call(*, queue: str | None, state: str | None, cursor: str | None, limit: int) -> Call:
    """`GET /tasks`."""
    given = {"queue": queue, "state": state, "cursor": cursor, "limit": limit}
    query = httpx.QueryParams({name: value for name, value in given.items() if value is not None})
    return Call(method="GET", target=f"/tasks?{query}", uuid="")


def watch_call(known: Sequence[tuple[str, str | None]]) -> Call:
    """`GET /watch`, of one namespace or of several, each with the version that is known."""
    if len(known) == 1:
        ((namespace, version),) = known
        query = "" if version is None else f"?{httpx.QueryParams({'version': version})}"
        return Call(method="GET", target=f"/watch/{_segment(namespace)}{query}", uuid="", holds=True)
    names = [namespace if version is None else f"{namespace}:{version}" for namespace, version in known]
    return Call(method="GET", target=f"/watch?{httpx.QueryParams({'namespace': names})}", uuid="", holds=True)


def publish_call(namespace: str, given: Any, json_text: bytes | str | None) -> Call:
    """`POST /publish/{namespace}`. A repeated one could undo what others have published since.

    Raises:
        InvalidRequestError: The value has no word in JSON, or is given twice.
        MalformedJsonError: The text is not JSON.
    """
    body = dump(value(given, json_text, "value"), "`value`")
    return Call(method="POST", target=f"/publish/{_segment(namespace)}", uuid="", body=body, repeatable=False)


def unpublish_call(namespace: str) -> Call:
    """`DELETE /publish/{namespace}`."""
    return Call(method="DELETE", target=f"/publish/{_segment(namespace)}", uuid="", body=b"", repeatable=False)


def target_of(location: str | None, base: httpx.URL) -> str | None:
    """Path and query that a `Location` names below `base`; None when it names none, or leads to another server.

    Another server is never followed, since it would be handed the API key. Behind a balancer that adds a path of its
    own, an instance may or may not know that path.
    """
    if not location:
        return None
    try:
        place = base.join(location)
    except httpx.InvalidURL:
        return None
    if (place.scheme, place.netloc) != (base.scheme, base.netloc):
        return None
    return "/" + place.raw_path.decode("ascii").removeprefix(base.raw_path.decode("ascii").rstrip("/")).lstrip("/")


def value(given: Any, json_text: bytes | str | None, name: str) -> Any:
    """What stands for one JSON value in a body: a Python value, or JSON text that travels byte for byte.

    Raises:
        InvalidRequestError: Both are given, or the Python value has no word in JSON.
        MalformedJsonError: The text is not JSON.
    """
    if json_text is None:
        return None if given is None else orjson.Fragment(dump(given, f"`{name}`"))
    if given is not None:
        raise InvalidRequestError(f"Give either `{name}` or `{name}_json`, not both.", field=name)
    raw = json_text.encode() if isinstance(json_text, str) else json_text
    _check(raw, name)
    return orjson.Fragment(raw)


def failure(error: TaskFailure | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """An `error` as the API takes it; members that are None are left out."""
    if not isinstance(error, TaskFailure):
        return error
    members = {"code": error.code, "message": error.message, "details": error.details}
    return {name: member for name, member in members.items() if member is not None}


def idempotency_headers(key: str | None) -> dict[str, str]:
    """The header for an idempotency key.

    Raises:
        InvalidRequestError: The key cannot stand in a header.
    """
    if key is None:
        return {}
    if not key or not key.isascii() or not key.isprintable():
        raise InvalidRequestError(
            "An idempotency key consists of printable ASCII characters; encode anything else, for example in base64.",
            field="Idempotency-Key",
        )
    return {"Idempotency-Key": key}


def _segment(name: str) -> str:
    """A name as one segment of a path, whatever it holds: the API says what is wrong with it."""
    return quote(name, safe="")


def _check(raw: bytes, name: str) -> None:
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
        raw.decode()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedJsonError(f"`{name}` is not valid JSON: {error}.", field=name) from None


def dump(given: Any, what: str) -> bytes:
    """JSON text. Raises InvalidRequestError where a value has no word in it."""
    try:
        return orjson.dumps(given)
    except (TypeError, RecursionError) as error:  # orjson's own error is a TypeError
        raise InvalidRequestError(f"{what} cannot be written as JSON: {error}.") from None


def seconds(duration_s: float) -> float | int:
    return round(duration_s, 3) if duration_s % 1 else int(duration_s)
