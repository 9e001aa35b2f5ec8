"""One create on its way: its reply confirms the wait that was registered before it, without waking the holder."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import msgspec

from broker.errors import BrokerError
from broker.requests import NewTask
from broker.response_hub import ResponseHub, Waiter
from broker.store.commands import Reply
from broker.store.creates import Created, create_command, read_created


class Creation(msgspec.Struct, eq=False):
    """A create with the wait that is held for its task. `ends` is the loop's time at which the wait is over."""

    new: NewTask
    ends: float
    waiter: Waiter
    _reply: Reply = None
    _error: Exception | None = None
    _confirmed: asyncio.Future[None] | None = None

    is_abandoned: ClassVar = False
    """A create is sent even when its caller has just left: it may be halfway there."""

    async def created(self) -> Created:
        """What the create found, as soon as it is known; the time of the wait may be over before that.

        Raises:
            TaskConflictError, IdempotencyMismatchError, StoreUnavailableError
        """
        if self._error is not None:
            raise self._error
        if self._reply is None:
            self._confirmed = asyncio.get_running_loop().create_future()
            await self._confirmed
        return read_created(self._reply, self.new)

    # Receiver

    def succeed(self, reply: Reply) -> None:
        """The reply has come."""
        try:
            if type(reply) is int:
                # As `is_new` says, without a call.
                self.waiter.is_confirmed = True
            else:
                self._attach(read_created(reply, self.new))
        except BrokerError as error:
            self.fail(error)
            return
        self._reply = reply
        if self._confirmed is not None and not self._confirmed.done():
            self._confirmed.set_result(None)

    def fail(self, error: Exception) -> None:
        """The create was refused, or nobody knows whether it happened."""
        self._error = error
        if self._confirmed is not None and not self._confirmed.done():
            self._confirmed.set_exception(error)
        else:
            self.waiter.set_error(error)

    def _attach(self, created: Created) -> None:
        if created.uuid == self.new.uuid:
            self.waiter.confirm(created.seal)
        if created.uuid != self.new.uuid or created.state.is_terminal:
            # No message will come on this channel any more: the holder looks elsewhere, or reads.
            self.waiter.expire()


def begin_creation(hub: ResponseHub, new: NewTask, wait_s: float) -> Creation:
    """Subscribes, creates and holds in one write on one connection, so that the outcome cannot fall in between.

    Args:
        hub: Where the wait is held.
        new: The task.
        wait_s: Seconds to hold.
    """
    ends = hub.deadlines.loop.time() + wait_s
    creation = Creation(new, ends, hub.join(new.queue, new.uuid, new.seal, wait_s))
    hub.hand(create_command(new, wants_document=False), creation)
    return creation
