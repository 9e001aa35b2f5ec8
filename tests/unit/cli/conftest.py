"""Runs `broker` in this process, against an API that answers from a script."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from broker_services.cli.connection import Connection
from broker_services.cli.main import cli
from tests.unit.client.fake_api import FakeApi, Step

Invoke = Callable[..., Result]
Answering = Callable[..., FakeApi]


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """`broker("task", "query", …)`; no variable of the surroundings is visible."""
    for name in ("BROKER_URL", "BROKER_API_KEY", "BROKER_LANGUAGE", "BROKER_JSON", "BROKER_REDIS_URL", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def invoke(*arguments: str, stdin: str | None = None, **environment: str) -> Result:
        return CliRunner().invoke(cli, arguments, input=stdin, env=environment, prog_name="broker")

    return invoke


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Answering:
    """`answering(step, …)`: what the API says, to whichever URL; returns what it was asked."""

    def prepare(*steps: Step) -> FakeApi:
        api = FakeApi(*steps)

        def client(connection: Connection) -> object:
            return api.client(connection.url, api_key=connection.api_key, language=connection.language, patience_s=3)

        monkeypatch.setattr(Connection, "client", client)
        return api

    return prepare
