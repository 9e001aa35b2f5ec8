"""One call after another over HTTP until it is answered, and one answer after another until a task has ended."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import httpx

from broker.client.answers import TRY_AGAIN, Answer, RemoteTask, error_of, task_of, unreachable
from broker.client.calls import Call, query_call, target_of, watch_call
from broker.client.pacing import Backoff, Clock, retry_after_s
from broker.errors import BrokerError, InvalidRequestError
from broker.task import TaskActions

NO_END = math.inf
_NEVER_ARRIVED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class Session:
    """The connection pool of a client, and how patiently it is used.

    Calls are repeated that are safe to repeat: reads, settling (the same outcome again changes nothing) and creating (a
    known uuid or idempotency key attaches). One that is not is sent again only while it cannot have arrived.

    Args:
        http: The pool.
        url: Where the API is.
        hold_s: How long one call may be held by the API; longer waits are several calls.
        margin_s: How much longer than the hold an answer may take before the connection counts as lost.
        patience_s: How long a call is repeated that nothing answers, in seconds, where a known end doesn't say better.
        clock: Time.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        url: httpx.URL,
        *,
        hold_s: float,
        margin_s: float,
        patience_s: float,
        clock: Clock,
    ) -> None:
        self._http = http
        self._url = url
        self._hold_s = hold_s
        self._margin_s = margin_s
        self.patience_s = patience_s
        self.clock = clock

    def end_after(self, seconds: float | None) -> float:
        """The moment that is `seconds` from now; None for no end."""
        return NO_END if seconds is None else self.clock.now() + max(seconds, 0.0)

    async def ask(self, call: Call, end: float = 0.0) -> Answer:
        """Sends a call about which nothing is known yet, and repeats it for `patience_s` as long as nothing answers.

        Args:
            call: What to ask.
            end: When the caller's wait is over; a moment that has passed means: answer at once.

        Raises:
            BrokerError: What the API refused, or why there was no answer.
        """
        give_up_by = end if end > self.clock.now() else NO_END
        outcome = await self._persist(call, end, patience_s=self.patience_s, give_up_by=give_up_by)
        if isinstance(outcome, BrokerError):
            raise outcome
        return outcome

    async def follow(self, task: RemoteTask, answer: Answer, end: float, actions: TaskActions) -> RemoteTask:
        """Asks for a known task until it has ended or `end` is there, and returns it as it was last seen.

        Raises:
            BrokerError: The record is gone; without an end also: nothing answered for `patience_s`.
        """
        backoff = Backoff(self.clock)
        pause_s = answer.retry_after_s or 0.0
        while not task.state.is_terminal:
            left_s = end - self.clock.now()
            if left_s <= 0:
                break
            await self.clock.sleep(min(pause_s, left_s))
            asked_at, hold_s = self.clock.now(), self._hold(end)
            outcome = await self._read(task.uuid, answer, end)
            if isinstance(outcome, BrokerError):
                break
            answer, task = outcome, task_of(outcome, actions)
            if self.clock.now() - asked_at < hold_s / 2:
                # Answered early without an outcome: an instance that drains, or one that holds nothing. Don't spin.
                pause_s = backoff.next_s(answer.retry_after_s)
            else:
                backoff.reset()
                pause_s = answer.retry_after_s or 0.0
        return task

    async def repeat(self, call: Call, end: float, is_enough: Callable[[Answer], bool]) -> Answer:
        """Asks until an answer is enough or `end` is there, and returns the last one. Raises as `ask` does."""
        backoff = Backoff(self.clock)
        while True:
            asked_at, hold_s = self.clock.now(), self._hold(end)
            answer = await self.ask(call, end)
            now = self.clock.now()
            if is_enough(answer) or now >= end:
                return answer
            if now - asked_at < hold_s / 2:
                # Answered early, and not enough: an instance that drains. Don't spin.
                await self.clock.sleep(min(backoff.next_s(answer.retry_after_s), end - now))
            else:
                backoff.reset()

    async def until_changed(self, known: Sequence[tuple[str, str | None]], end: float) -> Answer | None:
        """Asks until a namespace has another version, over several calls if need be; None when `end` is there first.

        Args:
            known: Namespaces, each with the version that is known, None for whatever it has now.
            end: When the caller's wait is over.

        Raises:
            BrokerError: What the API refused, or why there was no answer for `patience_s`.
        """
        backoff = Backoff(self.clock)
        while True:
            asked_at, hold_s = self.clock.now(), self._hold(end)
            answer = await self.ask(watch_call(known), end)
            if answer.status != httpx.codes.NOT_MODIFIED:
                return answer
            if len(known) == 1 and answer.version is not None:
                # What is published between two calls must not be missed by who began without a version.
                known = [(known[0][0], answer.version)]
            left_s = end - self.clock.now()
            if left_s <= 0:
                return None
            if self.clock.now() - asked_at < hold_s / 2:
                # An instance that drains answers early. Don't spin.
                await self.clock.sleep(min(backoff.next_s(), left_s))

    async def _read(self, uuid: str, previous: Answer, end: float) -> Answer | BrokerError:
        call = query_call(uuid, target_of(previous.location, self._url))
        if end < NO_END:
            return await self._persist(call, end, patience_s=NO_END, give_up_by=end)
        return await self.ask(call, end)

    async def _persist(self, call: Call, end: float, *, patience_s: float, give_up_by: float) -> Answer | BrokerError:
        """Sends until something but "not now" is answered; returns the last failure when that takes too long."""
        backoff = Backoff(self.clock)
        give_up_at: float | None = None
        while True:
            outcome = await self._attempt(call, self._hold(end))
            if isinstance(outcome, Answer) and outcome.status not in TRY_AGAIN:
                return _accepted(call, outcome)
            if not call.repeatable and not isinstance(outcome, _NEVER_ARRIVED):
                return self.failure(call, outcome)
            now = self.clock.now()
            if give_up_at is None:
                give_up_at = min(now + patience_s, give_up_by)
            if now >= give_up_at:
                return self.failure(call, outcome)
            asked_for_s = outcome.retry_after_s if isinstance(outcome, Answer) else None
            await self.clock.sleep(min(backoff.next_s(asked_for_s), give_up_at - now))

    async def _attempt(self, call: Call, hold_s: float) -> Answer | httpx.TransportError:
        try:
            return await self._send(call, hold_s)
        except httpx.LocalProtocolError as error:
            raise InvalidRequestError(f"The request cannot be sent: {error}.") from None
        except httpx.TransportError as error:
            return error
        except httpx.DecodingError as error:
            return httpx.RemoteProtocolError(str(error))

    async def _send(self, call: Call, hold_s: float) -> Answer:
        response = await self._http.request(
            call.method,
            call.url(self._url, hold_s),
            timeout=httpx.Timeout(self._margin_s, read=self._margin_s + (hold_s if call.holds else 0.0)),
            **call.content(hold_s),
        )
        return _answer(response)

    # Answers that go on

    @asynccontextmanager
    async def stream(self, call: Call, silence_s: float) -> AsyncIterator[httpx.Response]:
        """The answer to a call while it comes in; raises httpx.TransportError when it breaks off.

        Args:
            call: What to ask.
            silence_s: How long nothing may come where all is well.
        """
        timeout = httpx.Timeout(self._margin_s, read=self._margin_s + silence_s)
        try:
            async with self._http.stream(
                call.method, call.url(self._url, 0), headers=dict(call.headers), timeout=timeout
            ) as response:
                yield response
        except httpx.LocalProtocolError as error:
            raise InvalidRequestError(f"The request cannot be sent: {error}.") from None
        except UnicodeEncodeError:
            raise InvalidRequestError("The id of an event consists of ASCII characters.", field="after") from None

    async def read(self, response: httpx.Response) -> Answer:
        """An answer that does not go on, to its end."""
        await response.aread()
        return _answer(response)

    def failure(self, call: Call, outcome: Answer | httpx.TransportError) -> BrokerError:
        """The error that a refusal, or no answer, stands for."""
        if isinstance(outcome, Answer):
            return error_of(outcome, uuid=call.uuid, may_have_run=call.writes)
        return unreachable(str(self._url), outcome)

    def _hold(self, end: float) -> float:
        return min(self._hold_s, max(end - self.clock.now(), 0.0))


def _answer(response: httpx.Response) -> Answer:
    return Answer(
        status=response.status_code,
        body=response.content,
        location=response.headers.get("Location"),
        retry_after_s=retry_after_s(response.headers.get("Retry-After")),
        version=(response.headers.get("ETag") or "").strip('"') or None,
    )


def _accepted(call: Call, answer: Answer) -> Answer:
    if answer.status not in (200, 202, 204, 304):
        raise error_of(answer, uuid=call.uuid, may_have_run=False)
    return answer
