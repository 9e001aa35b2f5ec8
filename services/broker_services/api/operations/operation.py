"""What an operation is: one path, as the dispatcher serves it and as the OpenAPI document describes it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from broker_services.api.answers import Answer
from broker_services.api.calls.shared import Api
from broker_services.api.direct import DirectCall
from broker_services.api.http_request import HttpRequest

Call = Callable[[Api, HttpRequest], Awaitable[Answer]]
Begin = Callable[[Api, DirectCall], bool]


class Outcome(msgspec.Struct, frozen=True):
    """One way an operation succeeds. `schema` is a type, or a tuple of those that the answer may have."""

    description: str
    schema: Any = None
    headers: tuple[str, ...] = ()
    media_types: tuple[str, ...] = ("application/json",)

    @property
    def schemas(self) -> tuple[Any, ...]:
        """The types that the answer may have."""
        if self.schema is None:
            return ()
        return self.schema if isinstance(self.schema, tuple) else (self.schema,)


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One path, or some methods of one that ends with a parameter: operations may share such a path.

    `begin` is the same call without a task of its own, for requests that have come whole: it gives False, having done
    nothing, for those that need one.
    `parameter` is a request type with one field, named as the `{name}` at the path's end; calls read it by
    `request.read_path`. `body` is the type of a whole body that is a value and no request; without it the body is
    `request`, whose fields a method without a body takes from the query.
    `form` marks those whose request is a multipart form.
    `raw` marks those that take a body of the sender's own format with `raw=1` in the query.
    `writes` marks those whose GET form changes something: it is guarded, may be switched off, and has no HEAD.
    `scope` is what an API key needs, None where nobody needs one. `headers` are request headers it looks at.
    """

    path: str
    name: str
    summary: str
    methods: tuple[str, ...]
    call: Call
    begin: Begin | None = None
    scope: str | None
    request: Any = None
    parameter: Any = None
    body: Any = None
    form: bool = False
    raw: bool = False
    writes: bool = False
    outcomes: Mapping[int, Outcome]
    problems: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    example: Mapping[str, Any] = msgspec.field(default_factory=dict)

    @property
    def all_problems(self) -> tuple[str, ...]:
        """With those that any operation may have: of slow or long heads, and of keys."""
        access = () if self.scope is None else ("unauthorized", "forbidden")
        return tuple(dict.fromkeys((*access, "request-timeout", "headers-too-large", *self.problems)))


BODY_PROBLEMS: Final = (
    "malformed-json",
    "forbidden",
    "request-timeout",
    "payload-too-large",
    "unsupported-media-type",
    "invalid-request",
    "headers-too-large",
    "draining",
    "store-unavailable",
)

READ_PROBLEMS: Final = ("invalid-request", "headers-too-large", "store-unavailable", "method-not-allowed")
