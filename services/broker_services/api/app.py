"""The application: FastAPI as its face and documentation, the dispatcher below it for the operations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker import Broker
from broker_services.api.access import Access
from broker_services.api.asgi import Receive, Scope, Send
from broker_services.api.calls.shared import Api
from broker_services.api.dispatcher import Dispatcher
from broker_services.late import Late

if TYPE_CHECKING:
    from fastapi import FastAPI


class Face:
    """FastAPI, from the first call on that is no operation: its import takes longer than all the rest of a start.

    Args:
        needs_keys: Whether the instance has keys.
    """

    def __init__(self, *, needs_keys: bool) -> None:
        self._needs_keys = needs_keys
        self._fastapi = Late(self._build)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fastapi = await self._fastapi.get()
        await fastapi(scope, receive, send)

    def _build(self) -> FastAPI:
        from broker_services.api.face import build_face

        return build_face(needs_keys=self._needs_keys)


def build_app(broker: Broker, access: Access | None = None) -> tuple[Dispatcher, Api]:
    """The ASGI application of one instance, and what its calls share.

    Args:
        broker: Open for as long as the application serves.
        access: Who may call; None where everybody may.
    """
    api = Api(broker, access)
    return Dispatcher(api, Face(needs_keys=access is not None)), api
