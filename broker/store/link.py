"""One RESP3 connection that many callers share: pipelined per loop tick, push-aware, self-checking, self-healing.

The commands of one tick of the event loop leave together, in writes of `BATCH` at most, and replies are matched in
order. A connection that falls silent with commands outstanding, or answers no PING, is dropped and opened again with
jittered backoff. What was outstanding is repeated only where that is harmless; everything else fails and says whether
it may have run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import hiredis

from broker.errors import ConfigurationError, StoreError, StoreUnavailableError
from broker.measures import COMMAND_BOUNDS_S, Histogram
from broker.store.batches import joined
from broker.store.commands import Argument, Awaited, Call, Command, Push, Receiver, Reply
from broker.store.connection import Connection
from broker.store.greeting import greet
from broker.store.topology import Topology

log = logging.getLogger("broker.store")

COMMAND_DEADLINE_S: Final = 4.0
"""How long a caller waits for any command, reconnects included."""
REPLY_DEADLINE_S: Final = 3.0
"""How long a connection may owe a reply before it counts as dead. Scripts take microseconds."""
PING_AFTER_S: Final = 5.0
"""Silence after which a connection is asked whether it is still there."""
CONNECT_DEADLINE_S: Final = 3.0
BACKOFF_FIRST_S: Final = 0.05
BACKOFF_MOST_S: Final = 2.0
WATCH_EVERY_S: Final = 0.25
BATCH: Final = 32
"""Commands that leave at once instead of waiting for the end of the tick. Without it 64 callers move in step: the
server idles while this process reads all their requests, and the other way round. Fewer cost more, since what leaves
together shares script calls and turns of the processor: 8 took 17 % more CPU a task, 64 a fifth of the rate."""
MEASURED_ONE_IN: Final = 16
"""Replies of which one is timed: enough for a histogram, next to nothing for the others."""
MOST_OUTSTANDING: Final = 65_536
"""Commands waiting, and calls written, of which one may be several commands joined; beyond it callers are refused at
once rather than queued."""

# Errors by which the server says "not now" or "not here", and that nothing ran.
_UNAVAILABLE: Final = ("LOADING", "READONLY", "MASTERDOWN", "BUSY", "OOM", "MISCONF", "NOREPLICAS", "CLUSTERDOWN")
# Errors after which this connection is of no more use.
_LEAVE: Final = ("LOADING", "READONLY", "MASTERDOWN")


class Link:
    """A connection that is kept open until `close`.

    Args:
        topology: Where to connect.
        name: Shown by CLIENT LIST.
        scripts: Sources to load on each new connection, so that the first calls find them.
        identifies: Whether `identity` is looked up on each new connection, which takes the right to INFO.
        prelude: Asked on each flush for bytes to write before the commands of the tick (subscriptions).
        on_push: Takes each RESP3 push; must not block.
        on_connected: Told of each new connection before the first flush.
        on_lost: Told when a connection is gone.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        name: str,
        scripts: tuple[str, ...] = (),
        identifies: bool = False,
        prelude: Callable[[], bytes] = bytes,
        on_push: Callable[[Push], None] = lambda _push: None,
        on_connected: Callable[[], None] = lambda: None,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._topology = topology
        self._name = name
        self._scripts = scripts
        self._identifies = identifies
        self._prelude = prelude
        self._on_push = on_push
        self._on_connected = on_connected
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._waiting: deque[Call] = deque()
        self._flush_is_due = False
        self._is_closed = False
        self._connected = asyncio.Event()
        self._retry_now = asyncio.Event()
        self._unfollow: Callable[[], None] = lambda: None
        self._keeper: asyncio.Task[None] | None = None
        self._watcher: asyncio.TimerHandle | None = None
        self._last_reason = "no attempt yet"
        self._master_seen = float("-inf")
        self._replies = 0
        self.connections_made = 0
        self.commands_unavailable = 0
        self.latency = Histogram(COMMAND_BOUNDS_S)

    @property
    def is_connected(self) -> bool:
        """Whether commands leave at once."""
        return self._connection is not None

    @property
    def identity(self) -> bytes:
        """Which server this is, and since when a master; empty without a connection, or if it is not looked up."""
        return b"" if self._connection is None else self._connection.identity

    @property
    def master_seen_at(self) -> float:
        """The last time, by the loop's clock, at which the server is known to have been the master still."""
        return self._master_seen if self._topology.is_watched else self._loop.time()

    @property
    def outstanding(self) -> int:
        """Commands that wait to be written or answered."""
        return len(self._waiting) + (len(self._connection.outstanding) if self._connection else 0)

    async def open(self, timeout: float = CONNECT_DEADLINE_S) -> None:
        """Connects and keeps connected.

        Args:
            timeout: Seconds to wait for the first connection.

        Raises:
            StoreUnavailableError: No connection in time; the link is closed again.
            ConfigurationError: The server is too old, or refuses the login.
        """
        self._unfollow = self._topology.follow(self._take_master)
        self._keeper = asyncio.create_task(self._keep_connected())
        self._watch()
        first = asyncio.create_task(self._connected.wait())
        await asyncio.wait({first, self._keeper}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        first.cancel()
        if self._keeper.done():
            failure = self._keeper.exception()
            await self.close()
            raise failure or self._unavailable()
        if not self._connected.is_set():
            await self.close()
            raise self._unavailable()

    async def close(self) -> None:
        """Disconnects for good; what is still outstanding fails."""
        unfollow, self._unfollow = self._unfollow, lambda: None
        unfollow()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConfigurationError):
                await self._keeper
        self._is_closed = True
        for call in self._waiting:
            self._fail(call.receiver, self._unavailable(call))
        self._waiting.clear()

    def send(self, command: Command) -> asyncio.Future[Reply]:
        """Queues a command for this tick's write; the future gives the reply.

        The future raises StoreUnavailableError (not answered in time, or the server can't now) or StoreError (the
        server's own error).
        """
        future: asyncio.Future[Reply] = self._loop.create_future()
        self.hand(command, Awaited(future))
        return future

    def hand(self, command: Command, receiver: Receiver) -> None:
        """The same for a receiver that is told of the reply, or of the error, instead of awaiting it."""
        if self._is_closed:
            self._fail(receiver, StoreUnavailableError("The connection to Redis has been closed here."))
            return
        waiting, connection = self._waiting, self._connection
        already = len(waiting)
        # `outstanding`, without a call.
        if already + (0 if connection is None else len(connection.outstanding)) >= MOST_OUTSTANDING:
            self._fail(receiver, StoreUnavailableError(f"{MOST_OUTSTANDING} commands wait for Redis; try again soon."))
            return
        waiting.append(Call(command, receiver, self._loop.time() + COMMAND_DEADLINE_S))
        if already + 1 >= BATCH:
            self._flush()
        elif not self._flush_is_due:
            self.flush_soon()

    def hand_all(self, calls: Sequence[tuple[Command, Receiver]]) -> None:
        """The same for several in one write, where neighbours of one batch share calls as far as they may."""
        if self._is_closed or self.outstanding + len(calls) > MOST_OUTSTANDING:
            for command, receiver in calls:
                self.hand(command, receiver)
            return
        deadline = self._loop.time() + COMMAND_DEADLINE_S
        for command, receiver in calls:
            self._waiting.append(Call(command, receiver, deadline))
        self._flush()

    def flush_soon(self) -> None:
        """Has the prelude and all queued commands written in this tick."""
        if not self._flush_is_due and self._connection is not None:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def drop(self, reason: str) -> None:
        """Gives the present connection up and opens another."""
        if self._connection is not None:
            log.warning("The Redis connection %s is opened anew: %s.", self._name, reason)
            self._last_reason = reason
            self._connection.abort()

    def _flush(self) -> None:
        self._flush_is_due = False
        if self._connection is None or self._connection.is_closing:
            # What waits leaves with the next connection.
            return
        waiting = [call for call in self._waiting if not call.receiver.is_abandoned]
        # First, should one that cannot be written be told so and ask for something else.
        self._waiting.clear()
        calls = joined(waiting)
        data = b"".join([self._prelude(), *[call.packed for call in calls]])
        if data:
            self._connection.write(data, calls)

    # Replies

    def _take_reply(self, call: Call, reply: Reply) -> None:
        self._replies += 1
        if self._replies % MEASURED_ONE_IN == 0 and self._connection is not None:
            # Both times were taken anyway: when it was handed over, and when these bytes came.
            self.latency.observe(self._connection.last_heard - (call.deadline - COMMAND_DEADLINE_S))
        if isinstance(reply, hiredis.ReplyError):
            self._take_error(call, str(reply))
        else:
            call.receiver.succeed(reply)

    def _take_error(self, call: Call, text: str) -> None:
        word = text.partition(" ")[0]
        if word == "NOSCRIPT" and call.command.if_unknown is not None:
            self._send_whole(call, call.command.if_unknown())
        elif word in _UNAVAILABLE:
            self._fail(call.receiver, StoreUnavailableError(f"Redis cannot serve this now: {text}"))
            if word in _LEAVE:
                self.drop(text)
        else:
            call.receiver.fail(StoreError(f"Redis refused a command: {text}"))

    def _send_whole(self, call: Call, arguments: tuple[Argument, ...]) -> None:
        again = Call(Command(arguments, repeatable=call.command.repeatable), call.receiver, call.deadline)
        self._waiting.append(again)
        self.flush_soon()

    # Staying connected

    async def _keep_connected(self) -> None:
        backoff = BACKOFF_FIRST_S
        while True:
            connection = None
            try:
                connection = await self._connect()
                backoff = BACKOFF_FIRST_S
                await asyncio.shield(connection.lost)
                self._last_reason = "the connection was closed"
            except (OSError, TimeoutError, StoreUnavailableError) as error:
                self._last_reason = str(error) or type(error).__name__
            except ConfigurationError as error:
                # At start this is for the operator to mend; later it may pass (a password being changed, say).
                if self.connections_made == 0:
                    raise
                self._last_reason = str(error)
            except Exception as error:
                # Whatever it was, a process without its connection is of no use: it tries again.
                log.exception("Connecting to Redis failed in a way that nobody foresaw.")
                self._last_reason = str(error)
            finally:
                self._lose(connection)
            # Full jitter over the upper half: a fleet must not come back in step.
            await self._pause(backoff * random.uniform(0.5, 1.0))  # noqa: S311
            backoff = min(backoff * 2, BACKOFF_MOST_S)

    async def _pause(self, seconds: float) -> None:
        """Until the next attempt to connect; shorter when a master is found meanwhile."""
        self._retry_now.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._retry_now.wait()

    async def _connect(self) -> Connection:
        connection = Connection(self._take_reply, self._on_push)
        try:
            async with asyncio.timeout(CONNECT_DEADLINE_S):
                server = await self._topology.locate()
                connection.address = server.address
                await server.open(lambda: connection)
                await greet(
                    connection,
                    server,
                    name=self._name,
                    scripts=self._scripts,
                    identifies=self._identifies,
                    deadline=self._loop.time() + CONNECT_DEADLINE_S,
                )
        except BaseException:
            connection.abort()
            raise
        self._connection = connection
        self.connections_made += 1
        self._on_connected()
        self._connected.set()
        self._flush()
        return connection

    def _take_master(self, address: str) -> None:
        """The master is known to be there: a connection to another server is to one that is no master any more."""
        if self._connection is None:
            self._retry_now.set()
        elif self._connection.address == address:
            self._master_seen = self._loop.time()
        else:
            self.drop(f"the master is {address} now, and no longer {self._connection.address}")

    def _lose(self, connection: Connection | None) -> None:
        if connection is None:
            return
        connection.abort()
        self._connection = None
        self._connected.clear()
        self._on_lost()
        again = deque[Call]()
        for call in connection.outstanding:
            if call.command.repeatable or not call.was_written:
                again.append(call)
            else:
                self._fail(call.receiver, self._unavailable(call))
        self._waiting = again + self._waiting

    def _watch(self) -> None:
        now = self._loop.time()
        while self._waiting and self._waiting[0].deadline < now:
            call = self._waiting.popleft()
            self._fail(call.receiver, self._unavailable(call))
        if self._connection is not None:
            self._check_alive(self._connection, now)
        self._watcher = self._loop.call_later(WATCH_EVERY_S, self._watch)

    def _check_alive(self, connection: Connection, now: float) -> None:
        owes_since = connection.owes_since()
        if owes_since is not None and now - owes_since > REPLY_DEADLINE_S:
            self.drop(f"no reply for {REPLY_DEADLINE_S:g} s")
        elif owes_since is None and now - connection.last_heard > PING_AFTER_S:
            self.send(Command(("PING",))).add_done_callback(_forget_outcome)

    def _fail(self, receiver: Receiver, error: StoreUnavailableError) -> None:
        self.commands_unavailable += 1
        receiver.fail(error)

    def _unavailable(self, call: Call | None = None) -> StoreUnavailableError:
        may_have_run = call is not None and call.was_written
        return StoreUnavailableError(
            f"Redis at {self._topology.address} does not answer ({self._last_reason}).", may_have_run=may_have_run
        )


def _forget_outcome(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
