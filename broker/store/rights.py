"""What the broker has to be allowed to do in Redis, and which of that a user may not.

Rights are asked for, not tried out: `redis.acl_check_cmd` answers for the user that runs a script, inside which nothing
is changed. A command by itself tells whether `+command` is missing; the same with a name, whether the name is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Final, NamedTuple

from broker import naming

SUBJECT: Final = "doctor"
"""Stands for a uuid in the names that rights are asked for; nothing is stored or published under it."""

_rights_script: Final = """
local answers = {}
for index, text in ipairs(ARGV) do
  answers[index] = redis.acl_check_cmd(unpack(cjson.decode(text))) and 1 or 0
end
return answers
"""
_script_command = re.compile(r"""redis\.p?call\(\s*['"](\w+)['"]""")


class Right(NamedTuple):
    """A command that the broker runs, with the key or channel it runs it on, if it has one."""

    command: tuple[str, ...]
    on: str | None = None
    is_key: bool = False


def script_commands() -> list[str]:
    """The commands that the packaged scripts call."""
    return sorted({name for text in _script_texts(resources.files("broker.store") / "lua") for name in _calls(text)})


def common_rights(queues: Sequence[str]) -> Iterator[Right]:
    yield from (Right(("EVALSHA",)), Right(("SCRIPT", "LOAD")), Right(("TIME",)))
    for command in script_commands():
        if command not in ("TIME", "PUBLISH"):
            yield Right((command,), naming.KEY_PREFIX + SUBJECT, is_key=True)
    for channel in (naming.probe_channel(SUBJECT), naming.worker_channel(SUBJECT)):
        yield Right(("PUBLISH",), channel)
    yield Right(("SUBSCRIBE",), naming.probe_channel(SUBJECT))
    for queue in queues:
        yield Right(("PUBLISH",), naming.request_channel(queue, SUBJECT))
        yield Right(("PUBLISH",), naming.response_channel(queue, SUBJECT))


def api_rights(queues: Sequence[str]) -> Iterator[Right]:
    for queue in queues:
        yield Right(("SUBSCRIBE",), naming.response_channel(queue, SUBJECT))


def worker_rights(queues: Sequence[str]) -> Iterator[Right]:
    yield Right(("SUBSCRIBE",), naming.worker_channel(SUBJECT))
    for queue in queues:
        yield Right(("PSUBSCRIBE",), naming.request_pattern(queue))


def missing(client: Any, user: str, rights: Iterator[Right]) -> Iterator[str]:
    """A sentence for each right that the user doesn't have; no sentence twice."""
    wanted = list(rights)
    alone = _allowed(client, [right.command for right in wanted])
    complete = _allowed(
        patient, [right.command if right.on is None else (*right.command, right.on) for right in wanted]
    )
    sentences = (
        _sentence(user, right, command_allowed)
        for right, command_allowed, allowed in zip(wanted, alone, complete, strict=True)
        if not allowed
    )
    yield from dict.fromkeys(sentences)


def _allowed(client: Any, commands: Sequence[tuple[str, ...]]) -> list[bool]:
    texts = [json.dumps(command) for command in commands]
    return [answer == 1 for answer in client.execute_command("EVAL", _rights_script, 0, *texts)]


def _sentence(user: str, right: Right, command_allowed: bool) -> str:
    name = " ".join(right.command)
    if not command_allowed:
        rule = "|".join(right.command).lower()
        return f"may not run {name} (ACL SETUSER {user} +{rule})"
    if right.is_key:
        return f"may not run {name} on the keys {naming.KEY_PREFIX}* (ACL SETUSER {user} ~{naming.KEY_PREFIX}*)"
    channel = _channel_rule(str(right.on))
    hint = ", letter for letter: patterns are compared as they stand" if right.command == ("PSUBSCRIBE",) else ""
    return f"may not {name} {channel} (ACL SETUSER {user} &{channel}{hint})"


def _channel_rule(channel: str) -> str:
    return channel.removesuffix(SUBJECT) + "*" if channel.endswith(SUBJECT) else channel


def _verdict(name: str, missing: list[str], severity: Status, good: str) -> Iterator[Finding]:
    if missing:
        yield Finding(name, severity, f"The user {'; '.join(missing)}.")
    else:
        yield Finding(name, "ok", good)


def _script_texts(folder: Traversable) -> Iterator[str]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _script_texts(entry)
        elif entry.name.endswith(".lua"):
            yield entry.read_text()


def _calls(text: str) -> list[str]:
    return [name.upper() for name in _script_command.findall(text)]
