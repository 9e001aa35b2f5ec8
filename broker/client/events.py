"""A task's events over HTTP, over as many connections and instances as it takes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

import httpx
import msgspec

from broker.client.answers import TRY_AGAIN, Answer, task_of, unexpected
from broker.client.calls import Call, events_call
from broker.client.pacing import LONGEST_PAUSE_S, Backoff
from broker.client.session import Session
from broker.task import TaskActions
from broker.task_event import EventKind, TaskEvent

PING_EVERY_S: Final = 15.0
"""How long an API is silent at most where nothing happens."""


class _Line(msgspec.Struct):
    """One event as it is written."""

    id: str
    event: EventKind
    data: msgspec.Raw


_decoder: Final = msgspec.json.Decoder(_Line)


class Following:
    """One who follows a task, and where it has got to.

    Args:
        session: How the API is asked.
        uuid: The task.
        after: The id of the event to go on behind; None for the first that is kept.
        actions: What the tasks in events are bound to.
    """

    def __init__(self, session: Session, uuid: str, after: str | None, actions: TaskActions) -> None:
        self._session = session
        self._uuid = uuid
        self._after = after
        self._actions = actions
        self._backoff = Backoff(session.clock)
        self._silent_since: float | None = None

    async def events(self) -> AsyncGenerator[TaskEvent, None]:
        """All events to the task's end, each once.

        Raises:
            BrokerError: What the API refused, or why there was no answer for as long as the session is patient.
        """
        is_over = False
        while not is_over:
            begun = self._session.clock.now()
            failure: Answer | httpx.TransportError | None = None
            try:
                async with self._session.stream(self._call(), PING_EVERY_S) as response:
                    if response.status_code == 204:
                        return
                    if response.status_code == 200:
                        async for event in self._read(response):
                            is_over = event.kind is EventKind.STATE
                            yield event
                    else:
                        failure = await self._session.read(response)
            except httpx.TransportError as error:
                failure = error
            if not is_over:
                await self._pause(failure, begun)

    def _call(self) -> Call:
        return events_call(self._uuid, self._after)

    async def _read(self, response: httpx.Response) -> AsyncIterator[TaskEvent]:
        async for line in _lines(response):
            self._silent_since = None
            if line:
                self._backoff.reset()
                event = self._event(line)
                self._after = event.id
                yield event

    def _event(self, line: bytes) -> TaskEvent:
        try:
            read = _decoder.decode(line)
            raw = bytes(read.data)
            if read.event is EventKind.PROGRESS:
                return TaskEvent(id=read.id, kind=read.event, data=msgspec.json.decode(raw), raw=raw)
        except (msgspec.MsgspecError, RecursionError):
            raise unexpected(Answer(status=200, body=line)) from None
        task = task_of(Answer(status=200, body=raw), self._actions)
        return TaskEvent(id=read.id, kind=read.event, data=task, raw=raw)

    async def _pause(self, failure: Answer | httpx.TransportError | None, begun: float) -> None:
        """Before the next connection; a stream that ended without the task's end is no failure."""
        clock = self._session.clock
        if clock.now() - begun > LONGEST_PAUSE_S:
            # It went well for a while.
            self._backoff.reset()
        if self._silent_since is None:
            self._silent_since = clock.now()
        refused = isinstance(failure, Answer) and failure.status not in TRY_AGAIN
        if failure is not None and (refused or clock.now() - self._silent_since >= self._session.patience_s):
            raise self._session.failure(self._call(), failure)
        await clock.sleep(self._backoff.next_s(failure.retry_after_s if isinstance(failure, Answer) else None))


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """Its whole lines. Not httpx's own, which also end at characters that JSON strings may hold."""
    rest = b""
    async for part in response.aiter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line
