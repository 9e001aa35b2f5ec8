"""For a user's own FastAPI (or Starlette) application: endpoints that return a result which any process sets later."""

from broker.fastapi.deferred_result import DeferredResult
from broker.fastapi.installation import BrokerDep, install_broker
from broker.fastapi.resolver import Resolver

__all__ = ["BrokerDep", "DeferredResult", "Resolver", "install_broker"]
