"""Claims: the command, and what its reply says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from broker import naming
from broker.randomness import new_secret
from broker.requests import DEFAULT_MAX_ATTEMPTS
from broker.store import scripts
from broker.store.commands import Command, Reply
from broker.store.script_answers import flag

_numbers_of: Final = scripts.CLAIM_NUMBERS.unpack_from
_NUMBERS_SIZE: Final = scripts.CLAIM_NUMBERS.size


class Claimed(msgspec.Struct, frozen=True, gc=False):
    """One claimed attempt; times in milliseconds of the server's clock. `document`: the task JSON, where asked for."""

    uuid: str
    queue: str
    attempt: int
    lease: str
    lease_end_ms: int
    created_ms: int
    expires_ms: int
    payload: bytes | None
    document: bytes | None = None


class Claims(msgspec.Struct, frozen=True):
    """What a claim has got. `again_ms`: when a queue that holds more lets another task start, by its rate."""

    tasks: list[Claimed]
    again_ms: Mapping[str, int]


class ClaimWish(msgspec.Struct, frozen=True):
    """How many tasks of one queue a worker would take."""

    queue: str
    most: int
    max_attempts: int = DEFAULT_MAX_ATTEMPTS


def claim_command(
    worker: str, lease_ms: int, wishes: Sequence[ClaimWish], *, most: int | None = None, wants_documents: bool = False
) -> Command:
    """The claim as a command, as `Transitions.claim` describes it; `read_claims` reads its reply."""
    queues: list[str | int] = []
    wished = 0
    for wish in wishes:
        queues += (wish.queue, wish.most, wish.max_attempts)
        wished += wish.most
    in_all = wished if most is None else most
    arguments = (worker, new_secret(), lease_ms, in_all, flag(wants_documents), *queues)
    # A lost reply leaves tasks leased to nobody: the sweep frees them. A second run would claim yet others.
    return scripts.CLAIM_TASKS.command(naming.pending_key(wishes[0].queue), *arguments, repeatable=False)


def read_claims(reply: Reply) -> Claims:
    """What a claim has got."""
    tasks: list[Claimed] = []
    again_ms: dict[str, int] = {}
    for row in reply:
        if type(row) is bytes:
            attempt, lease_end, created, expires = _numbers_of(row)
            # One text is made of all that is short: values may be long, and stay bytes.
            names, payload, document = row[_NUMBERS_SIZE:].rsplit(b"\x1f", 2)
            uuid, queue, lease = names.decode().split("\x1f")
            tasks.append(
                Claimed(uuid, queue, attempt, lease, lease_end, created, expires, payload or None, document or None)
            )
        elif type(row) is list:
            again_ms[row[0].decode()] = int(row[1])
    return Claims(tasks, again_ms)
