"""Joins neighbouring commands of one batch into one call, and hands each its answer."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from broker.errors import StoreError
from broker.store.commands import Argument, Batch, Call, Command, Receiver, Reply, pack

log = logging.getLogger("broker.store")

MOST_JOINED: Final = 100
"""Commands of one call: a millisecond or two of the server's time."""


class _Joined:
    """The receiver of a joined call."""

    __slots__ = ("_receivers",)

    def __init__(self, receivers: list[Receiver]) -> None:
        self._receivers = receivers

    @property
    def is_abandoned(self) -> bool:
        """Whether nobody is left who waits for any of it."""
        return all(receiver.is_abandoned for receiver in self._receivers)

    def succeed(self, reply: Reply) -> None:
        """Hands out the answers; a number is the answer to each."""
        if type(reply) is int:
            reply = [reply] * len(self._receivers)
        if not isinstance(reply, list) or len(reply) != len(self._receivers):
            self.fail(StoreError("Redis gave another number of answers than it was asked questions."))
            return
        for receiver, answer in zip(self._receivers, reply, strict=True):
            try:
                receiver.succeed(answer)
            except Exception:
                # A defect of one must not take the answers from its neighbours.
                log.exception("An answer could not be handled.")

    def fail(self, error: Exception) -> None:
        """None of them has an answer."""
        for receiver in self._receivers:
            try:
                receiver.fail(error)
            except Exception:
                log.exception("An error could not be handled.")


def joined(calls: Iterable[Call]) -> list[Call]:
    """The calls to write, in order: neighbours of one batch as one call, the others as they are.

    What no command can hold, such as a lone surrogate, fails its own command only.
    """
    written: list[Call] = []
    batch: Batch | None = None
    several: list[Call] = []
    for call in calls:
        # A joined call that is sent again has its bytes already.
        own_batch = None if call.packed else call.command.batch
        if batch is not None and (own_batch is not batch or len(several) == MOST_JOINED):
            written += _join(batch, several)
            several = []
        batch = own_batch
        if batch is not None:
            several.append(call)
            continue
        if not call.packed:
            call.packed = _packed(call)
        if call.packed:
            written.append(call)
    if batch is not None:
        written += _join(batch, several)
    return written


def _join(batch: Batch, calls: list[Call]) -> list[Call]:
    """One call of all of them."""
    own: list[Argument] = []
    receivers: list[Receiver] = []
    is_repeatable, deadline = True, calls[0].deadline
    for call in calls:
        own += call.command.arguments
        receivers.append(call.receiver)
        is_repeatable = is_repeatable and call.command.repeatable
        deadline = min(deadline, call.deadline)
    words = tuple(own)
    command = Command(batch.call(words), is_repeatable, if_unknown=lambda: batch.whole_call(words))
    try:
        return [Call(command, _Joined(receivers), deadline, pack(command.arguments))]
    except (TypeError, ValueError):
        fit = [call for call in calls if _packed(call)]
        return _join(batch, fit) if fit else []


def _packed(call: Call) -> bytes:
    """A command's own arguments as bytes; none where that cannot be, which its receiver is told."""
    try:
        return pack(call.command.arguments)
    except (TypeError, ValueError) as error:
        call.receiver.fail(StoreError(f"A command cannot be written for Redis: {error}."))
        return b""
