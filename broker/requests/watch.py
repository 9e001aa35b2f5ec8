"""What callers may ask of published values."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from broker.requests.fields import (
    NAMESPACE_AND_VERSION_PATTERN,
    JsonValue,
    Namespace,
    Version,
    Wait,
)

MOST_NAMESPACES: Final = 100
"""That one call may watch."""

NamespaceAndVersion = Annotated[
    str,
    Meta(pattern=NAMESPACE_AND_VERSION_PATTERN, description="`NAME:VERSION`; NAME alone waits for the next publish."),
]


class NamespaceRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Names the namespace, at the end of the path."""

    namespace: Namespace


class WatchRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Holds until the namespace has another version."""

    version: Version | None = None
    wait: Wait | None = None


class WatchSeveralRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Holds until one of the namespaces has another version."""

    namespace: Annotated[list[NamespaceAndVersion], Meta(min_length=1, max_length=MOST_NAMESPACES)]
    wait: Wait | None = None


class PublishRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Publishes a value; a POST has it as its whole body."""

    value: JsonValue


class UnpublishRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Deletes a namespace."""
