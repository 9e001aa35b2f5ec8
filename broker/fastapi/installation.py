"""One line that gives an application its broker: opened and closed with it, drained on a signal, errors answered."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from types import FrameType
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI
from fastapi.encoders import jsonable_encoder
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response

from broker.broker import Broker
from broker.errors import BrokerError, ConfigurationError, TaskFailedError
from broker.settings import Settings

STATUS: Final[Mapping[str, int]] = {
    "malformed-json": 400,
    "task-not-found": 404,
    "task-conflict": 409,
    "task-already-final": 409,
    "lease-lost": 409,
    "waiter-exists": 409,
    "payload-too-large": 413,
    "invalid-request": 422,
    "idempotency-mismatch": 422,
    "queue-full": 429,
    "too-many-waiters": 503,
    "store-unavailable": 503,
    "store-error": 503,
}
"""As the API service answers them."""

Drain = Callable[[], None]


def install_broker(
    app: FastAPI,
    settings: Settings | None = None,
    *,
    drain_on: Sequence[int] = (signal.SIGTERM, signal.SIGINT),
) -> None:
    """Opens a `Broker` while `app` runs, before its own lifespan; endpoints get it as `BrokerDep`.

    - Errors of the broker that an endpoint does not catch are answered as problem details (RFC 9457) with their `code`:
      404, 409, 422, 429 or 503, and 500 for a `TaskFailedError`. Handlers of the application's own come first.
    - On a signal, what is held is answered at once, as if its time were over. Web servers tell an application of their
      end only when the last call is answered, and would wait for held ones.

    Args:
        app: Not started yet.
        settings: What to run with; those of the environment (`BROKER_…`), as it is at the start, when not given.
        drain_on: The signals. Nothing is done about one that the server does not handle itself.
    """
    own_lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(started: Any) -> AsyncIterator[Any]:
        async with Broker(settings or Settings.from_environment()) as broker:
            app.state.broker = broker
            with _drained_on(drain_on, broker.end_waits):
                async with own_lifespan(started) as state:
                    yield state

    app.router.lifespan_context = lifespan
    if BrokerError not in app.exception_handlers:
        app.add_exception_handler(BrokerError, _problem)


def _broker_of(connection: HTTPConnection) -> Broker:
    broker = getattr(connection.app.state, "broker", None)
    if not isinstance(broker, Broker):
        raise ConfigurationError(
            "This application has no open broker: call install_broker(app), and run the application with its lifespan "
            "(in tests: `with TestClient(app)`)."
        )
    return broker


BrokerDep = Annotated[Broker, Depends(_broker_of)]
"""The type of an endpoint's parameter that takes the application's broker."""


async def _problem(request: Request, error: Exception) -> Response:
    code = getattr(error, "code", "broker-error")
    status = 500 if isinstance(error, TaskFailedError) else STATUS.get(code, 500)
    document = {"title": HTTPStatus(status).phrase, "status": status, "detail": str(error), "code": code}
    if isinstance(error, TaskFailedError) and error.details is not None:
        document["details"] = jsonable_encoder(error.details)
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return JSONResponse(document, status, headers, media_type="application/problem+json")


@contextmanager
def _drained_on(numbers: Sequence[int], drain: Drain) -> Iterator[None]:
    """Has `drain` called before the server's own handlers of these signals."""
    if threading.current_thread() is not threading.main_thread():
        # Signals belong to the main thread, and so does whoever runs the application here.
        yield
        return
    loop = asyncio.get_running_loop()
    handlers: dict[int, Callable[[int, FrameType | None], Any]] = {
        number: handler for number in numbers if callable(handler := signal.getsignal(number))
    }

    def take(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(drain)
        handlers[number](number, frame)

    for number in handlers:
        signal.signal(number, take)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if signal.getsignal(number) is take:
                signal.signal(number, handler)
