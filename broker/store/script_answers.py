"""What the answers of several scripts have in common: codes to errors, and the task JSON where there is one."""

from __future__ import annotations

from broker.errors import LeaseLostError, StoreError, TaskAlreadyFinalError, TaskNotFoundError
from broker.store.codes import Code
from broker.store.commands import Reply
from broker.task import TaskState


def document_of(reply: Reply, place: int) -> bytes | None:
    """The task JSON of an answer; one that was not asked for is not there."""
    return reply[place] if len(reply) > place else None


def broken(reply: Reply) -> StoreError:
    """What an answer says that tells of a script's failure."""
    reason = reply[1].decode("utf-8", "replace") if len(reply) > 1 else "no reason given"
    return StoreError(f"A script failed, probably on a damaged key: {reason}.")


def flag(value: bool) -> str:
    """A truth as scripts take it."""
    return "1" if value else ""


def raise_lost(code: int, uuid: str) -> None:
    """Raises TaskNotFoundError or LeaseLostError where the code says so."""
    if code == Code.NOT_FOUND:
        raise TaskNotFoundError(uuid)
    if code == Code.LEASE_LOST:
        raise LeaseLostError(f"This lease of task {uuid} no longer holds: it ran out, was replaced or was given back.")


def already_final(uuid: str, reply: Reply) -> TaskAlreadyFinalError:
    """The error of an answer that holds the winner's state and task JSON."""
    return TaskAlreadyFinalError(uuid, TaskState(reply[1].decode()), reply[2])
