"""The settings as command line flags: made from the fields of `Settings`, with the help texts that belong to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple, TypeVar

import click
import msgspec.inspect

from broker.settings import ENVIRONMENT_PREFIX, Settings

Function = TypeVar("Function", bound=Callable[..., Any])
Process = Literal["api", "worker", "dev"]

EVERY: Final[tuple[Process, ...]] = ("api", "worker", "dev")
API: Final[tuple[Process, ...]] = ("api", "dev")
WORKER: Final[tuple[Process, ...]] = ("worker", "dev")
DEPLOYED: Final[tuple[Process, ...]] = ("api", "worker")


class Flag(NamedTuple):
    """What a setting's flag says about itself, and which processes read the setting."""

    help: str
    processes: tuple[Process, ...] = API


FLAGS: Final = {
    "redis_url": Flag("redis://, rediss://, unix:// or redis+sentinel://host:port,host:port/service/db.", DEPLOYED),
    "wait_default_s": Flag("How long createTask holds when the caller names no wait."),
    "wait_max_s": Flag("The longest hold; longer waits are shortened to it."),
    "lease_s": Flag("How long a claimed task stays its worker's without a sign of life.", EVERY),
    "task_ttl_s": Flag("When an unfinished task expires, unless its caller says otherwise.", EVERY),
    "retention_s": Flag("How long the record of an ended task is kept.", EVERY),
    "finished_max": Flag("The most records of ended tasks; the oldest go first.", EVERY),
    "finished_max_mb": Flag("The most MiB of records of ended tasks; the oldest go first.", EVERY),
    "events_kept": Flag("How many events of one task are kept.", EVERY),
    "max_waiters": Flag("The most held calls of one instance; more are answered 503."),
    "queue_max_pending": Flag("The most pending tasks of one queue, delayed ones included."),
    "queue_full": Flag("Whether a full queue refuses a new task, or drops its oldest of the lowest priority."),
    "namespaces_max": Flag("The most namespaces that can be watched."),
    "max_body_bytes": Flag("The longest task, payload or result.", EVERY),
    "max_batch_bytes": Flag("The longest body of createTasks."),
    "body_timeout_s": Flag("How long a request's head may take to arrive, and then its body."),
    "max_header_bytes": Flag("The longest request head."),
    "upload_max_bytes": Flag("The longest uploaded file."),
    "upload_url": Flag("Where uploaded files are kept: a folder, or a URL of fsspec's.", EVERY),
    "upload_threads": Flag("How many uploaded files one process handles at the same time.", EVERY),
    "upload_queue": Flag("How many uploaded files may wait to be processed."),
    "drain_s": Flag("How long a process may take to end after SIGTERM.", EVERY),
    "wait_replicas": Flag("How many replicas must have what is told to anybody.", DEPLOYED),
    "get_writes": Flag("Whether createTask, changeTaskState and publish also take GET."),
    "api_keys_file": Flag("The file of hashed bearer keys and their scopes; without it everybody may call."),
    "git_root": Flag("The folder of the git repositories that createbranch works on.", WORKER),
}
"""By the name of the setting. A setting without an entry is a flag of every process, without a help text."""


def settings_flags(process: Process) -> Callable[[Function], Function]:
    """A decorator that gives a command a flag for each setting that `process` reads; unset ones arrive as None."""

    def decorate(function: Function) -> Function:
        for field in reversed(_fields()):
            flag = FLAGS.get(field.name, Flag("", EVERY))
            if process in flag.processes:
                function = _option(field, flag)(function)
        return function

    return decorate


def _fields() -> tuple[msgspec.inspect.Field, ...]:
    inspected = msgspec.inspect.type_info(Settings)
    assert isinstance(inspected, msgspec.inspect.StructType)  # noqa: S101  what Settings is
    return inspected.fields


def _option(field: msgspec.inspect.Field, flag: Flag) -> Callable[[Function], Function]:
    # The default is only shown: None lets Settings read the environment and apply its own.
    return click.option(
        "--" + field.name.replace("_", "-"),
        field.name,
        type=_parameter_type(field.type),
        envvar=ENVIRONMENT_PREFIX + field.name.upper(),
        default=None,
        show_default=_shown(field.default),
        show_envvar=True,
        help=flag.help,
    )


def _parameter_type(kind: msgspec.inspect.Type) -> click.ParamType[Any]:
    match kind:
        case msgspec.inspect.FloatType():
            return click.FLOAT
        case msgspec.inspect.IntType():
            return click.INT
        case msgspec.inspect.LiteralType(values=values):
            return click.Choice([str(value) for value in values])
        case msgspec.inspect.Metadata(type=inner):
            return _parameter_type(inner)
        case msgspec.inspect.UnionType(types=types):
            return _parameter_type(next(member for member in types if not isinstance(member, msgspec.inspect.NoneType)))
        case _:
            return click.STRING


def _shown(default: Any) -> str | bool:
    if default is None or default is msgspec.NODEFAULT or default == "":
        return False
    return f"{default:g}" if isinstance(default, float) and default < 1e6 else str(default)
