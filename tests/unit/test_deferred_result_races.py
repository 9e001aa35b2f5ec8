"""`DeferredResult` in an application, under every order of what may happen to a held call. No server: a broker that the
test drives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from starlette.responses import Response

from broker import Settings
from broker.errors import StoreUnavailableError, TaskAlreadyFinalError, TaskNotFoundError
from broker.fastapi import DeferredResult, Resolver
from broker.requests import ChangeRequest, NewTask
from broker.store.completions import Changed
from broker.store.queries import StoredTask
from broker.task import TaskState

Happening = Literal["time", "result", "error-result", "gone", "away", "cancel", "pass"]
Conduct = Literal["nothing", "sets", "sets elsewhere", "raises", "slow"]

HAPPENINGS: Final[tuple[Happening, ...]] = ("time", "result", "error-result", "gone", "away", "cancel", "pass")
STEPS_BESIDE: Final = 20
"""In which all that runs beside a cancelled call comes to its end."""


class FakeDeadlines:
    """Sockets are watched at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._handles: list[asyncio.Handle] = []

    def start(self, item: Any, timeout: float) -> int:
        self._handles.append(self.loop.call_soon(item.expire))
        return len(self._handles) - 1

    def stop(self, item: Any, tick: int) -> None:
        self._handles[tick].cancel()


class FakeBroker:
    """A broker of one task, whose store takes the first outcome."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.hub = self.holding = self.transitions = self.queries = self
        self.deadlines = FakeDeadlines(asyncio.get_running_loop())
        self.task: StoredTask | None = None
        self.ending: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def create(self, new: NewTask, wait_s: float = 0) -> StoredTask:
        if self.task is None:
            self.task = StoredTask(new.uuid, new.queue, "", TaskState.PENDING, b"{}")
        if wait_s and not self.task.state.is_terminal:
            await asyncio.shield(self.ending)
        return self.task

    async def read(self, uuid: str) -> StoredTask:
        await asyncio.sleep(0)
        if self.task is None:
            raise TaskNotFoundError(uuid)
        return self.task

    async def finish(self, request: ChangeRequest) -> Changed:
        await asyncio.sleep(0)
        if self.task is None:
            raise TaskNotFoundError(request.uuid)
        task, state = self.task, TaskState(request.state)
        if task.state.is_terminal:
            raise TaskAlreadyFinalError(task.uuid, task.state, task.document)
        members: dict[str, Any] = {"uuid": task.uuid, "queue": task.queue, "state": state}
        values: dict[str, Any] = {"result": request.result, "error": request.error}
        members |= {name: value for name, value in values.items() if value is not UNSET and value is not None}
        document = msgspec.json.encode(members)
        self.task = StoredTask(task.uuid, task.queue, "", state, document)
        if not self.ending.done():
            self.ending.set_result(None)
        return Changed(task.uuid, True, state, document)


@dataclass
class Story:
    """One held call, and what was seen of it."""

    broker: FakeBroker
    result: DeferredResult
    seen: list[str] = field(default_factory=list)
    wins: list[str] = field(default_factory=list)
    body: bytes = b""
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await asyncio.sleep(0)
        if message["type"] == "http.response.body":
            self.seen.append("sent")
            self.body = message["body"]

    async def hold(self) -> None:
        """The call, in an application with a handler for every error."""
        scope = {"type": "http", "starlette.exception_handlers": ({Exception: _answer_error}, {})}
        await self.result(scope, cast(Any, self.receive), self.send)

    async def set(self, who: str, resolver: DeferredResult | Resolver, *, fails: bool = False) -> None:
        with contextlib.suppress(TaskNotFoundError):
            if await (resolver.set_error_result(who) if fails else resolver.set_result(who)):
                self.wins.append(who)

    def callback(self, name: str, conduct: Conduct) -> Callable[..., Any]:
        async def called(*_: Exception) -> None:
            self.seen.append(name)
            if conduct == "slow":
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            elif conduct == "sets":
                await self.set(name, self.result)
            elif conduct == "sets elsewhere":
                await self.set(name, DeferredResult.of(cast(Any, self.broker), self.result.key))
            elif conduct == "raises":
                raise ZeroDivisionError

        return called

    async def happen(self, what: Happening, call: asyncio.Task[None]) -> None:
        ending = self.broker.ending
        if what in ("result", "error-result"):
            other = DeferredResult.of(cast(Any, self.broker), self.result.key)
            await self.set("other", other, fails=what == "error-result")
        elif what == "gone":
            self.gone.set()
        elif what == "cancel":
            call.cancel()
        elif what == "time" and not ending.done():
            ending.set_result(None)
        elif what == "away" and not ending.done():
            ending.set_exception(StoreUnavailableError("Away."))


async def _answer_error(request: object, error: Exception) -> Response:
    return Response(type(error).__name__)


async def tell(
    happenings: list[tuple[Happening, int]],
    conduct: dict[str, Conduct],
    *,
    own_key: bool,
    has_value: bool,
    is_open: bool,
) -> tuple[Story, bool]:
    """Plays a story; the flag says whether the call was cancelled from outside."""
    broker = FakeBroker()
    value: Any = "in vain" if has_value else UNSET
    story = Story(broker, DeferredResult(cast(Any, broker), None if own_key else "k", timeout_result=value))
    for name in ("timeout", "error", "completion"):
        getattr(story.result, f"on_{name}")(story.callback(name, conduct[name]))
    if is_open:
        await story.result.open()
    call = asyncio.create_task(story.hold())
    for what, steps in [*happenings, ("time", 3)]:
        for _ in range(steps):
            await asyncio.sleep(0)
        await story.happen(what, call)
    await asyncio.wait({call}, timeout=0.5)
    assert call.done()
    for _ in range(STEPS_BESIDE):
        await asyncio.sleep(0)
    if broker.ending.done() and not broker.ending.cancelled():
        broker.ending.exception()
    return story, call.cancelled()


conducts = st.sampled_from(("nothing", "sets", "sets elsewhere", "raises", "slow"))


@given(
    happenings=st.lists(st.tuples(st.sampled_from(HAPPENINGS), st.integers(0, 6)), max_size=4),
    timeout=conducts,
    error=conducts,
    completion=conducts,
    own_key=st.booleans(),
    has_value=st.booleans(),
    is_open=st.booleans(),
)
def test_each_callback_is_called_once_and_in_order(
    happenings: list[tuple[Happening, int]],
    timeout: Conduct,
    error: Conduct,
    completion: Conduct,
    own_key: bool,
    has_value: bool,
    is_open: bool,
) -> None:
    conduct = {"timeout": timeout, "error": error, "completion": completion}
    story, was_cancelled = asyncio.run(tell(happenings, conduct, own_key=own_key, has_value=has_value, is_open=is_open))
    seen, task = story.seen, story.broker.task

    # A call that is cancelled before it has begun calls nobody.
    if seen or not was_cancelled:
        assert seen.count("completion") == 1
    assert seen.count("timeout") + seen.count("error") <= 1
    assert seen == [word for word in ("timeout", "error", "sent", "completion") if word in seen]
    if not was_cancelled and "error" not in seen:
        assert "sent" in seen

    # One of all who set a result was told that they won; nobody where the call itself has ended the key.
    assert len(story.wins) == (task is not None and task.state in (TaskState.SUCCEEDED, TaskState.FAILED))
    if "sent" in seen:
        assert story.body in possible_answers(story, conduct, has_value=has_value)
    # A key of the call's own ends with it.
    if own_key and "completion" in seen and task is not None:
        assert task.state.is_terminal


def possible_answers(story: Story, conduct: dict[str, Conduct], *, has_value: bool) -> list[bytes]:
    """What the call may have been answered with."""
    winner = [f'"{story.wins[0]}"'.encode(), b"TaskFailedError"] if story.wins else []
    if "error" in story.seen:
        return [b"", b"StoreUnavailableError", *winner]
    if "timeout" not in story.seen:
        return winner
    # With a key of the endpoint's own choice, a result may come right after the decision that there is none.
    came_later = story.result.key == "k" or story.wins in ([], ["completion"])
    if not came_later:
        return winner
    broken = [b"ZeroDivisionError"] if conduct["timeout"] == "raises" else [b"HTTPException"]
    return winner + ([b'"in vain"'] if has_value else broken)
