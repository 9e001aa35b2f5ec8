"""Several tasks in one call: batches to create, tasks to wait for together, and the lists that answer both."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import httpx
import msgspec
import orjson

from broker.client.answers import Answer, RemoteTask, error_of, task_of, unexpected
from broker.client.calls import Call, dump, value
from broker.errors import BrokerError
from broker.task import TaskActions

MOST_TASKS: Final = 1_000
"""In one call; the API takes no more."""
MOST_BATCH_BYTES: Final = 12 * 2**20
"""Bytes of tasks after which another call is begun: less than the API's own limit, unless that was lowered."""

RemoteItem = RemoteTask | BrokerError


class _Item(msgspec.Struct):
    status: int
    task: msgspec.Raw = msgspec.Raw(b"")
    problem: msgspec.Raw = msgspec.Raw(b"")


class _Items(msgspec.Struct):
    items: list[_Item]


_decoder: Final = msgspec.json.Decoder(_Items)


def batch_calls(tasks: Iterable[Mapping[str, Any]]) -> Iterator[tuple[list[str], Call]]:
    """`POST /createTasks`, as often as it takes, and the uuids of each call's tasks: those that have none get one, so
    that a repeated call attaches to them.

    Raises:
        InvalidRequestError: A value has no word in JSON.
        MalformedJsonError: A `payload_json` is not JSON.
    """
    uuids: list[str] = []
    bodies: list[orjson.Fragment] = []
    length = 0
    for given in tasks:
        uuid = given.get("uuid") or secrets.token_hex(16)
        body = dump(_fields(given, uuid), f"`tasks[{len(uuids)}]`")
        if len(bodies) == MOST_TASKS or length + len(body) > MOST_BATCH_BYTES > 0 < length:
            yield uuids, _batch(bodies)
            uuids, bodies, length = [], [], 0
        uuids.append(uuid)
        bodies.append(orjson.Fragment(body))
        length += len(body)
    if bodies:
        yield uuids, _batch(bodies)


def several_call(uuids: Sequence[str], until: str) -> Call:
    """`GET /queryTaskState` of several tasks."""
    query = httpx.QueryParams([*[("uuid", uuid) for uuid in uuids], ("until", until)])
    return Call(method="GET", target=f"/queryTaskState?{query}", uuid="", holds=True)


def items_of(answer: Answer, uuids: Sequence[str], actions: TaskActions) -> list[RemoteItem]:
    """What a list says of each task: how it stands, or the error that a call for it alone would raise.

    Raises:
        ApiError: The answer is no list of so many items.
    """
    try:
        items = _decoder.decode(answer.body).items
    except (msgspec.MsgspecError, RecursionError):
        raise unexpected(answer) from None
    if len(items) != len(uuids):
        raise unexpected(answer)
    return [_read(item, uuid, actions) for item, uuid in zip(items, uuids, strict=True)]


def enough(uuids: Sequence[str], until: str, actions: TaskActions) -> Callable[[Answer], bool]:
    """Whether an answer ends the wait: of all tasks, or of any."""

    def is_enough(answer: Answer) -> bool:
        ended = [isinstance(item, BrokerError) or item.state.is_terminal for item in items_of(answer, uuids, actions)]
        return all(ended) if until == "all" else any(ended)

    return is_enough


def _fields(given: Mapping[str, Any], uuid: str) -> dict[str, Any]:
    fields = {name: member for name, member in given.items() if member is not None and name != "payload_json"}
    payload = value(given.get("payload"), given.get("payload_json"), "payload")
    return {**fields, "uuid": uuid, **({} if payload is None else {"payload": payload})}


def _batch(bodies: list[orjson.Fragment]) -> Call:
    return Call(method="POST", target="/createTasks", uuid="", fields={"tasks": bodies})


def _read(item: _Item, uuid: str, actions: TaskActions) -> RemoteItem:
    if item.status < 300:
        return task_of(Answer(status=item.status, body=bytes(item.task)), actions)
    return error_of(Answer(status=item.status, body=bytes(item.problem)), uuid=uuid, may_have_run=False)
