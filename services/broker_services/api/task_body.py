"""The task JSON that callers see: the store's document, completed by what depends on who asks."""

from __future__ import annotations

from typing import Final

from broker.store.completions import Changed
from broker.task import TaskState
from broker_services.api.messages import Language, repeated_message, state_message

# Members are added as bytes, since the values in the document must stay as they are; no message needs escapes.
_COMPLETE: Final = b'%s,"message":"%s","links":{"query":"/queryTaskState?uuid=%s","events":"/taskEvents?uuid=%s"}%s}'


def task_body(document: bytes, uuid: str, state: TaskState, language: Language) -> bytes:
    """A stored task JSON with its message and links."""
    name = uuid.encode()
    return _COMPLETE % (document[:-1], state_message(state, language), name, name, b"")


def changed_body(change: Changed, language: Language) -> bytes:
    """The same after a completion, with `changed`."""
    name, document = change.uuid.encode(), change.document or b"{}"
    if change.changed:
        message, flag = state_message(change.state, language), b',"changed":true'
    else:
        message, flag = repeated_message(language), b',"changed":false'
    return _COMPLETE % (document[:-1], message, name, name, flag)


def queue_of(change: Changed) -> str:
    """The queue of a task that was ended, read from its document: uuid and queue come first and hold no quotes."""
    return (change.document or b"").split(b'"', 8)[7].decode()
