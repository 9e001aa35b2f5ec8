"""The task JSON that callers see: the store's document, completed by what depends on who asks."""

from __future__ import annotations

from broker.store.transitions import Changed
from broker.task import TaskState
from broker_services.api.messages import Language, repeated_message, state_message


def task_body(document: bytes, uuid: str, state: TaskState, language: Language) -> bytes:
    """A stored task JSON with its message and links."""
    return _complete(document, uuid, state_message(state, language))


def changed_body(change: Changed, language: Language) -> bytes:
    """The same after a completion, with `changed`."""
    if change.changed:
        message, flag = state_message(change.state, language), b',"changed":true'
    else:
        message, flag = repeated_message(language), b',"changed":false'
    return _complete(change.document or b"{}", change.uuid, message, flag)


def queue_of(change: Changed) -> str:
    """The queue of a task that was ended, read from its document: uuid and queue come first and hold no quotes."""
    return (change.document or b"").split(b'"', 8)[7].decode()


def _complete(document: bytes, uuid: str, message: bytes, more: bytes = b"") -> bytes:
    """Members are added as bytes, since the values in the document must stay as they are; no message needs escapes."""
    name = uuid.encode()
    return b'%s,"message":"%s","links":{"query":"/queryTaskState?uuid=%s","events":"/taskEvents?uuid=%s"}%s}' % (
        document[:-1],
        message,
        name,
        name,
        more,
    )
