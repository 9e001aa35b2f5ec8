"""Completions: the command, and what its reply says."""

from __future__ import annotations

from typing import Final

import msgspec

from broker import naming
from broker.errors import TaskAlreadyFinalError
from broker.requests import Completion, is_outcome_of
from broker.store import scripts
from broker.store.codes import Code
from broker.store.commands import Command, Reply
from broker.store.script_answers import broken, flag, raise_lost
from broker.task import TaskState

# A member of an enum is a Python call to look up, before Python 3.12.
_CHANGED: Final = int(Code.CHANGED)
_FINISH_BATCH: Final = scripts.FINISH_TASKS.batch(naming.created_key())


class Changed(msgspec.Struct, frozen=True):
    """The answer to a completion that won, or repeats the winner."""

    uuid: str
    changed: bool
    state: TaskState
    document: bytes | None


def finish_command(uuid: str, completion: Completion, lease: str, *, wants_document: bool = False) -> Command:
    """The completion as a command; `is_changed` and `read_finished` read its reply."""
    # The worst that a second run can do is to tell the one who changed it that it was so already.
    head = f"{completion.state._value_}\0{flag(wants_document)}\0".encode()
    # What cannot be a lease is none that holds.
    own = lease.encode(errors="surrogatepass")
    end = b"%b%b\0%b\0%b" % (head, completion.result, completion.error, own)
    return Command((uuid, end), repeatable=True, batch=_FINISH_BATCH)


def is_changed(reply: Reply) -> bool:
    """Whether the reply to a completion, without a document, says that it was the first, as it usually is."""
    return bool(reply == _CHANGED)


def read_finished(reply: Reply, uuid: str, completion: Completion) -> Changed:
    """Reads the reply to a completion; raises as `Transitions.finish` does."""
    if is_changed(reply):
        return Changed(uuid, True, completion.state, None)
    code = reply[0]
    if code == Code.CHANGED:
        return Changed(uuid, True, completion.state, reply[1])
    raise_lost(code, uuid)
    if code != Code.FINAL:
        raise broken(reply)
    state, document = TaskState(reply[1].decode()), reply[2]
    if not is_outcome_of(document, completion):
        raise TaskAlreadyFinalError(uuid, state, document)
    return Changed(uuid, False, state, document)
