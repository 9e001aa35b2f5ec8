"""What is sent to Redis, and who takes the reply."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any, Protocol

import hiredis
import msgspec

Argument = str | bytes | int | float
Reply = Any
Push = list[Any]


def pack(arguments: Sequence[Argument]) -> bytes:
    """A command as RESP bytes."""
    # hiredis declares a tuple of exactly one argument, where it takes any number.
    packed: bytes = hiredis.pack_command(tuple(arguments))  # type: ignore[arg-type]
    return packed


def pack_names(word: str, names: Iterable[bytes]) -> bytes:
    """The same for a command of many names, in any order: those of one length are joined, where `pack` takes 1,600
    instructions for each."""
    ordered = sorted(names, key=len)
    parts = [b"*%d\r\n$%d\r\n%s" % (len(ordered) + 1, len(word), word.encode())]
    for length, same in groupby(ordered, len):
        bulk = b"\r\n$%d\r\n" % length
        parts += [bulk, bulk.join(same)]
    return b"".join([*parts, b"\r\n"])


class ScriptText(Protocol):
    """A script as the server knows it."""

    @property
    def source(self) -> str:
        """Its whole text."""

    @property
    def digest(self) -> str:
        """What EVALSHA calls it by."""


class Batch(msgspec.Struct, frozen=True, eq=False):
    """What calls of one script share that may be joined into one: the script, its key and its first arguments.

    Neighbours of the same batch leave as one call, whose reply holds an answer for each. A call costs the server
    several microseconds before the script's first line, and a script of several tasks writes an index once.
    """

    script: ScriptText
    key: str
    shared: tuple[Argument, ...] = ()

    def call(self, own: tuple[Argument, ...]) -> tuple[Argument, ...]:
        """One call with the arguments of all that are joined."""
        return ("EVALSHA", self.script.digest, 1, self.key, *self.shared, *own)

    def whole_call(self, own: tuple[Argument, ...]) -> tuple[Argument, ...]:
        """The same for a server that does not know the script."""
        return ("EVAL", self.script.source, 1, self.key, *self.shared, *own)


class Command(msgspec.Struct, frozen=True):
    """What to send. `repeatable`: a second run of the same call changes nothing more, so a lost reply is no harm.

    With a `batch`, `arguments` are its own only, and its reply is its answer in the reply of the joined call.
    """

    arguments: tuple[Argument, ...]
    repeatable: bool = False
    if_unknown: Callable[[], tuple[Argument, ...]] | None = None
    batch: Batch | None = None


class Receiver(Protocol):
    """Takes the reply to a command without being awaited: a held call is woken by its outcome only."""

    @property
    def is_abandoned(self) -> bool:
        """Whether the command need not be sent any more."""

    def succeed(self, reply: Reply) -> None:
        """The reply has come."""

    def fail(self, error: Exception) -> None:
        """It will not come: StoreUnavailableError or StoreError."""


class Sender(Protocol):
    """Takes commands: a link, or what stands before one."""

    def send(self, command: Command) -> asyncio.Future[Reply]:
        """Gives the reply."""

    def hand(self, command: Command, receiver: Receiver) -> None:
        """The same for a receiver."""

    def hand_all(self, calls: Sequence[tuple[Command, Receiver]]) -> None:
        """The same for several in one write."""

    def flush_soon(self) -> None:
        """Has what is handed over until then leave together, behind what the loop is to run already."""


class Awaited:
    """The receiver of a command that somebody awaits."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[Reply]) -> None:
        self.future = future

    @property
    def is_abandoned(self) -> bool:
        """Whoever awaited it has left."""
        return self.future.cancelled()

    def succeed(self, reply: Reply) -> None:
        """Wakes whoever awaits it."""
        if not self.future.done():
            self.future.set_result(reply)

    def fail(self, error: Exception) -> None:
        """Wakes whoever awaits it with an error."""
        if not self.future.done():
            self.future.set_exception(error)


def send_all(sender: Sender, commands: Iterable[Command]) -> list[asyncio.Future[Reply]]:
    """Sends several commands in one write; each future gives a reply, or raises as `Link.send` does."""
    loop = asyncio.get_running_loop()
    calls = [(command, Awaited(loop.create_future())) for command in commands]
    sender.hand_all(calls)
    return [awaited.future for _, awaited in calls]


class Call(msgspec.Struct, eq=False):
    """A command on its way. `packed` is empty until it is written; `deadline` is in the loop's time."""

    command: Command
    receiver: Receiver
    deadline: float
    packed: bytes = b""
    was_written: bool = False
