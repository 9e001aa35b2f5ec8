"""Who may be the only one to wait for a task: the scripts' arguments in, a typed answer out."""

from __future__ import annotations

from typing import Final

from broker import naming
from broker.requests import NewTask
from broker.store import scripts
from broker.store.codes import Code
from broker.store.commands import Command, Reply

MARKER_MS: Final = 5_000
"""How long a marker stands for a caller who is not subscribed yet: longer than any reply may take (4 s)."""


def take_command(new: NewTask, who: str, *, will_wait: bool) -> Command:
    """Asks to be the only one who waits for the task; `read_taken` reads the reply.

    To be sent where subscriptions of this process are: they are counted, too.
    """
    return scripts.TAKE_EXCLUSIVE_WAIT.command(
        naming.tasks_key(),
        new.uuid,
        "1" if new.uuid_is_chosen else "",
        new.queue,
        new.fingerprint,
        who,
        MARKER_MS if will_wait else 0,
        new.idempotency or "",
        # A second run would find the marker of the first.
        repeatable=False,
    )


def read_taken(reply: Reply) -> tuple[bool, str]:
    """Whether the caller is let in, and the uuid of the task: an idempotency key may stand for another one."""
    return reply[0] == Code.FREE, reply[1].decode()


def release_command(uuid: str, idempotency: str | None, who: str) -> Command:
    """Takes the caller's markers away."""
    return scripts.RELEASE_EXCLUSIVE_WAIT.command(naming.exclusive_key(uuid), who, idempotency or "", repeatable=True)
