"""What every command that talks to the API shares: where to ask, as whom, and how to print."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from broker_services.cli import show

if TYPE_CHECKING:
    from broker.client import BrokerClient, RemoteTask
    from broker.task_event import TaskEvent

PATIENCE_S: Final = 3.0
"""Somebody sits in front of this: don't try for long whether anything answers at all."""

Answer = TypeVar("Answer")


class Connection:
    """Asks the API one question at a time, and prints the answers."""

    def __init__(self, *, url: str, api_key: str | None, language: str | None, as_json: bool) -> None:
        self.url = url
        self.api_key = api_key
        self.language = language
        self.as_json = as_json

    @property
    def is_for_people(self) -> bool:
        """Whether to print for people."""
        return show.for_people(self.as_json)

    def ask(self, question: Callable[[BrokerClient], Awaitable[Answer]]) -> Answer:
        """Asks with a client that lives as long as it takes."""

        async def asked() -> Answer:
            async with self.client() as client:
                return await question(client)

        return asyncio.run(asked())

    def stream(self, question: Callable[[BrokerClient], AsyncIterator[RemoteTask]]) -> None:
        """Asks, and prints each answer on a line as it comes."""

        async def asked() -> None:
            async with self.client() as client:
                async for task in question(client):
                    self._print_line(task)

        asyncio.run(asked())

    def follow(self, uuid: str, after: str | None) -> TaskEvent | None:
        """Follows a task to its end and prints each event as it comes; returns the last."""

        async def followed() -> TaskEvent | None:
            last = None
            async with self.client() as client, aclosing(client.events(uuid, after=after)) as events:
                async for last in events:
                    self._print_event(last)
            return last

        return asyncio.run(followed())

    def _print_event(self, event: TaskEvent) -> None:
        if show.for_people(self.as_json):
            show.event(event)
        else:
            show.document(b'{"id":"%s","event":"%s","data":%s}' % (event.id.encode(), event.kind.encode(), event.raw))

    def _print_line(self, task: RemoteTask) -> None:
        if self.is_for_people:
            show.task_line(task.raw)
        else:
            show.document(task.raw)

    def print(self, task: RemoteTask) -> None:
        """Prints what was answered."""
        if self.is_for_people:
            show.task(task.raw)
        else:
            show.document(task.raw)

    def client(self) -> BrokerClient:
        """A client for these settings."""
        # Imported here, httpx with it: help needs no client, and `broker bench` has one of its own.
        from broker.client import BrokerClient

        return BrokerClient(self.url, api_key=self.api_key, language=self.language, patience_s=PATIENCE_S)


_options: Final = (
    click.option(
        "--url", default="http://127.0.0.1:8080", envvar="BROKER_URL", show_envvar=True, help="Where the API is."
    ),
    click.option(
        "--api-key",
        envvar="BROKER_API_KEY",
        show_envvar=True,
        help="The bearer key. Prefer the variable: others can see a command line.",
    ),
    click.option(
        "--language",
        envvar="BROKER_LANGUAGE",
        show_envvar=True,
        help="Of the sentences in answers, for example `zh`.",
    ),
    click.option(
        "--json", "as_json", is_flag=True, envvar="BROKER_JSON", show_envvar=True, help="JSON on a terminal too."
    ),
)


def connected(function: Callable[..., None]) -> Callable[..., None]:
    """A decorator that gives a command the options of `Connection`, and the connection as its first argument."""

    @functools.wraps(function)
    def command(*, url: str, api_key: str | None, language: str | None, as_json: bool, **arguments: Any) -> None:
        function(Connection(url=url, api_key=api_key, language=language, as_json=as_json), **arguments)

    return functools.reduce(lambda decorated, option: option(decorated), reversed(_options), command)
