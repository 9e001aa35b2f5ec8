"""A user's own application, for tests: orders that wait to be paid. It remembers which callbacks were called."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from broker.errors import TaskNotFoundError
from broker.fastapi import BrokerDep, DeferredResult, install_broker


class Payment(BaseModel):
    """What is paid."""

    amount: float


def make_app() -> FastAPI:
    """One instance."""
    app = FastAPI()
    install_broker(app)
    app.state.called = []
    _add_orders(app)
    _add_calls(app)
    return app


def _add_orders(app: FastAPI) -> None:
    @app.get("/orders/{order}")
    async def wait_for(order: str, broker: BrokerDep, timeout: float = 20, exclusive: bool = False) -> DeferredResult:
        result = DeferredResult(broker, order, timeout=timeout, timeout_result={"paid": False}, exclusive=exclusive)
        note(app, result)
        return result

    @app.post("/orders/{order}/payment")
    async def pay(order: str, payment: Payment, broker: BrokerDep) -> bool:
        try:
            return await DeferredResult.of(broker, order).set_result(payment)
        except TaskNotFoundError:
            raise HTTPException(404, "No such order.") from None

    @app.post("/orders/{order}/refusal")
    async def refuse(order: str, broker: BrokerDep) -> bool:
        return await DeferredResult.of(broker, order).set_error_result("No money.", code="declined", details=[1])


def _add_calls(app: FastAPI) -> None:
    @app.get("/called")
    def called() -> list[Any]:
        return list(app.state.called)

    @app.get("/own")
    async def own(broker: BrokerDep, timeout: float) -> DeferredResult:
        """A key of its own."""
        result = note(app, DeferredResult(broker, timeout=timeout))
        app.state.called.append(result.key)
        return result

    @app.get("/plain")
    async def plain(request: Request) -> Response:
        await asyncio.sleep(0)
        return Response(b"plain")


def note(app: FastAPI, result: DeferredResult) -> DeferredResult:
    """Writes down what is called."""

    @result.on_timeout
    async def on_timeout() -> None:
        app.state.called.append("timeout")

    @result.on_error
    def on_error(error: Exception) -> None:
        app.state.called.append(type(error).__name__)

    @result.on_completion
    def on_completion() -> None:
        app.state.called.append("completion")

    return result


app = make_app()
