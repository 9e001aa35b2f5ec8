"""Every channel and key name, a function each. Nothing else in the project builds a name.

Channels are the public face (other programs subscribe to them) and stay literal. Keys are internal: they carry one
hash tag, so that every script touches a single slot.
"""

from __future__ import annotations

import re
from typing import Final

DEFAULT_QUEUE: Final = "createbranch"
UPLOAD_QUEUE: Final = "uploadpicture"
"""Of uploaded files, which the built-in worker makes thumbnails of."""
HELD_QUEUE: Final = "deferredresult"
"""Of the results that a user's own web application holds calls for, unless it names another."""

# Written so that Python and JSON Schema read them alike: Python's `$` also matches before a final line break.
UUID_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$(?!\n)"
# A queue that contained an infix would make `<queue>-request-<uuid>` ambiguous.
QUEUE_PATTERN: Final = r"^(?!.*-(request|response)(-|$))[a-z0-9]([a-z0-9_.-]{0,62}[a-z0-9])?$(?!\n)"
NAMESPACE_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$(?!\n)"
IDEMPOTENCY_KEY_MAX_CHARS: Final = 255

REQUEST_INFIX: Final = "-request-"
RESPONSE_INFIX: Final = "-response-"

KEY_PREFIX: Final = "{broker}:"

_uuid = re.compile(UUID_PATTERN)
_queue = re.compile(QUEUE_PATTERN)


def is_uuid(text: str) -> bool:
    """Whether `text` can name a task."""
    return _uuid.search(text) is not None


def is_queue(text: str) -> bool:
    """Whether `text` can name a queue: the pattern, and no channel infix inside `text-`."""
    return _queue.search(text) is not None


# Public channels


def request_channel(queue: str, uuid: str) -> str:
    """Where a task's doorbell rings."""
    return f"{queue}{REQUEST_INFIX}{uuid}"


def request_pattern(queue: str) -> str:
    """What a worker of `queue` listens to. Literal, since ACL rules compare patterns literally."""
    return f"{queue}{REQUEST_INFIX}*"


def response_channel(queue: str, uuid: str) -> str:
    """Where a task's outcome is published, once."""
    return f"{queue}{RESPONSE_INFIX}{uuid}"


# Internal channels: never match `*-request-*` or `*-response-*`


def probe_channel(instance: str) -> str:
    """A process publishes to itself here, to see that messages really arrive."""
    return f"broker:probe:{instance}"


def fence_channel() -> str:
    """Where fences are published; nobody listens."""
    return "broker:fence"


def worker_channel_prefix() -> str:
    """What a worker's name is appended to for its own channel."""
    return "broker:worker:"


def worker_channel(worker: str) -> str:
    """Where a worker hears that a task it runs was ended by somebody else."""
    return worker_channel_prefix() + worker


def events_channel_prefix() -> str:
    """What a uuid is appended to for its events, each `-` as `.`, which no uuid has."""
    return "broker:events:"


def events_channel(uuid: str) -> str:
    """Where it is said that a task has one event more. With its hyphens a uuid could hold an infix of above."""
    return events_channel_prefix() + uuid.replace("-", ".")


def published_channel() -> str:
    """Where every process hears which namespace has changed: one channel, since a namespace may contain an infix."""
    return "broker:published"


# Keys


def tasks_key() -> str:
    """Hash: the record of each task under its uuid, with its short values."""
    return KEY_PREFIX + "tasks"


def values_prefix() -> str:
    """What a uuid is appended to for the task's values."""
    return KEY_PREFIX + "values:"


def values_key(uuid: str) -> str:
    """Hash: those values that are too long for the record, as the bytes that were received."""
    return values_prefix() + uuid


def events_prefix() -> str:
    """What a uuid is appended to for the task's events."""
    return KEY_PREFIX + "events:"


def events_key(uuid: str) -> str:
    """List: the values of a task's progress as they were received, as many as are kept, oldest first."""
    return events_prefix() + uuid


def pending_prefix() -> str:
    """What a queue is appended to for its pending tasks."""
    return KEY_PREFIX + "pending:"


def pending_key(queue: str) -> str:
    """Sorted set: claimable tasks of a queue, by priority, then age."""
    return pending_prefix() + queue


def queue_prefix() -> str:
    """What a queue is appended to for its numbers."""
    return KEY_PREFIX + "queue:"


def queue_key(queue: str) -> str:
    """Hash: how many tasks of a queue are running, deferred and delayed, and when it was noted as known."""
    return queue_prefix() + queue


def queues_key() -> str:
    """Sorted set: the known queues, by when they were noted last, in milliseconds."""
    return KEY_PREFIX + "queues"


def limits_key() -> str:
    """Hash: the limits of those queues that have any."""
    return KEY_PREFIX + "limits"


def starts_prefix() -> str:
    """What a queue is appended to for what was started lately."""
    return KEY_PREFIX + "starts:"


def starts_key(queue: str) -> str:
    """Sorted set: how many tasks of a queue with a rate were started when, within the time that counts."""
    return starts_prefix() + queue


def workers_prefix() -> str:
    """What a queue is appended to for the workers that serve it."""
    return KEY_PREFIX + "workers:"


def workers_key(queue: str) -> str:
    """Sorted set: worker processes of a queue, by the time until which they count."""
    return workers_prefix() + queue


def waiters_prefix() -> str:
    """What a queue is appended to for the calls that are held for its tasks."""
    return KEY_PREFIX + "waiters:"


def waiters_key(queue: str) -> str:
    """Sorted set: processes that hold calls for a queue's tasks, by the time until which they count."""
    return waiters_prefix() + queue


def duty_prefix() -> str:
    """What a queue is appended to for the worker that listens to its doorbell."""
    return KEY_PREFIX + "duty:"


def duty_key(queue: str) -> str:
    """String, expires: which worker listens to the queue's doorbell."""
    return duty_prefix() + queue


def turn_prefix() -> str:
    """What a queue is appended to for the turn to ask it unrung."""
    return KEY_PREFIX + "turn:"


def turn_key(queue: str) -> str:
    """String, short-lived: some worker of the queue has asked unrung just now, so the others need not."""
    return turn_prefix() + queue


def wake_prefix() -> str:
    """What a queue is appended to for the tokens that wake its parked workers."""
    return KEY_PREFIX + "wake:"


def wake_key(queue: str) -> str:
    """List, short-lived: at most one token, which wakes a parked worker of the queue."""
    return wake_prefix() + queue


def created_key() -> str:
    """Sorted set: all tasks that have a record, by creation."""
    return KEY_PREFIX + "created"


def delayed_key() -> str:
    """Sorted set: tasks that become claimable later, by due time in milliseconds."""
    return KEY_PREFIX + "delayed"


def leases_key() -> str:
    """Sorted set: leased tasks, by the end of the lease in milliseconds."""
    return KEY_PREFIX + "leases"


def expiring_key() -> str:
    """Sorted set: open tasks, by when they expire, in milliseconds."""
    return KEY_PREFIX + "expiring"


def retained_key() -> str:
    """Sorted set: ended tasks, by when their record may go, in milliseconds."""
    return KEY_PREFIX + "retained"


def ended_key() -> str:
    """Sorted set: ended tasks, by when they ended, in milliseconds."""
    return KEY_PREFIX + "ended"


def retained_bytes_key() -> str:
    """String: about how many bytes the records of ended tasks take."""
    return KEY_PREFIX + "retained-bytes"


def sequence_key() -> str:
    """String: a counter that never repeats; gives tasks their age and leases their fence."""
    return KEY_PREFIX + "sequence"


def idempotency_prefix() -> str:
    """What an idempotency digest is appended to."""
    return KEY_PREFIX + "idempotency:"


def idempotency_key(digest: str) -> str:
    """String: the uuid that an Idempotency-Key stands for; the digest covers queue and key."""
    return idempotency_prefix() + digest


def published_prefix() -> str:
    """What a namespace is appended to for what it holds."""
    return KEY_PREFIX + "published:"


def published_key(namespace: str) -> str:
    """Hash: the published value as it was received, its version, and when it was published."""
    return published_prefix() + namespace


def publications_key() -> str:
    """Hash: how many changes of namespaces there were, in which epoch, and which are not remembered."""
    return KEY_PREFIX + "publications"


def namespaces_key() -> str:
    """Sorted set: namespaces that hold a value, by the number of their last change."""
    return KEY_PREFIX + "namespaces"


def deleted_namespaces_key() -> str:
    """Sorted set: namespaces that were deleted lately, by the number of that change."""
    return KEY_PREFIX + "namespaces-deleted"


def exclusive_prefix() -> str:
    """What a uuid is appended to for the marker of its exclusive caller."""
    return KEY_PREFIX + "exclusive:"


def exclusive_key(uuid: str) -> str:
    """String, short-lived: a caller was let in as the only one who waits for the task, and will be subscribed soon."""
    return exclusive_prefix() + uuid


def exclusive_idempotency_prefix() -> str:
    """What an idempotency digest is appended to for the same, while no task has the key yet."""
    return KEY_PREFIX + "exclusive-key:"


def sweep_turn_key() -> str:
    """String, short-lived: some process is sweeping just now, so the others need not."""
    return KEY_PREFIX + "sweep-turn"


def upload_turn_key() -> str:
    """String, short-lived: some process is looking for files that no task needs, so the others need not."""
    return KEY_PREFIX + "upload-turn"
