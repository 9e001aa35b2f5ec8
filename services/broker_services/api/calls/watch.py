"""The calls about published values."""

from __future__ import annotations

from typing import Final

from broker import values
from broker.requests import (
    NamespaceRequest,
    PublishRequest,
    UnpublishRequest,
    WatchRequest,
    WatchSeveralRequest,
    invalid_field,
    received,
)
from broker.watched import Wanted
from broker_services.api.answers import Answer, etag_versions, json_answer
from broker_services.api.calls.shared import Api, held
from broker_services.api.http_request import HttpRequest

WATCH_DEFAULT_S: Final = 60.0
"""How long a watch is held whose caller names no wait: as Apollo's."""


async def watch(api: Api, request: HttpRequest) -> Answer:
    """GET /watch/{namespace}."""
    namespace = request.read_path(NamespaceRequest).namespace
    asked = request.read_query(WatchRequest)
    wait, applied = api.wait_s(request, asked.wait, WATCH_DEFAULT_S)
    version = asked.version if asked.version is not None else _cached_version(request)
    seen = await held(api, request, wait, api.broker.watches.watch([Wanted(namespace, version)], wait))
    if seen.changed:
        (changed,) = seen.changed
        return Answer(200, changed.document, applied, etag=_etag(changed.version))
    return Answer(304, b"", applied, etag=None if seen.known is None else _etag(seen.known))


async def watch_several(api: Api, request: HttpRequest) -> Answer:
    """GET /watch."""
    asked = request.read_query(WatchSeveralRequest)
    wait, applied = api.wait_s(request, asked.wait, WATCH_DEFAULT_S)
    wanted = [_wanted(text) for text in asked.namespace]
    if len({namespace for namespace, _ in wanted}) < len(wanted):
        raise invalid_field("namespace", "each namespace is given once")
    seen = await held(api, request, wait, api.broker.watches.watch(wanted, wait))
    if seen.changed:
        return Answer(200, b"[%s]" % b",".join(changed.document for changed in seen.changed), applied)
    return Answer(304, b"", applied)


async def publish(api: Api, request: HttpRequest) -> Answer:
    """POST or GET /publish/{namespace}."""
    namespace = request.read_path(NamespaceRequest).namespace
    value = await _read_value(request, api.settings.max_body_bytes)
    return json_answer({"namespace": namespace, "version": await api.broker.publish_json(namespace, value)})


async def unpublish(api: Api, request: HttpRequest) -> Answer:
    """DELETE /publish/{namespace}."""
    namespace = request.read_path(NamespaceRequest).namespace
    request.read_query(UnpublishRequest)
    await api.broker.unpublish(namespace)
    return Answer(204)


async def _read_value(request: HttpRequest, max_bytes: int) -> bytes:
    if request.method != "GET":
        return await request.read_value("value", max_bytes=max_bytes)
    value = received(request.read_query(PublishRequest).value)
    values.check(value, "value", max_bytes=max_bytes)
    return value


def _cached_version(request: HttpRequest) -> str | None:
    """The version that a cache would ask for; of several the last, since an answer that it has does no harm."""
    versions = etag_versions(request.header(b"if-none-match") or "")
    return versions[-1] if versions else None


def _wanted(text: str) -> Wanted:
    namespace, _, version = text.partition(":")
    return Wanted(namespace, version or None)


def _etag(version: str) -> bytes:
    return b'"%s"' % version.encode()
