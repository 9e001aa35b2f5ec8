"""What the broker has to be allowed to do in Redis, and which of that a user may not.

Rights are asked for, not tried out: `redis.acl_check_cmd` answers for the user that runs a script, inside which nothing
is changed. Only complete commands may be asked for: Redis 7.0 does not look at their arity there, and crashes on a
command that lacks its key. What is refused is then sent once, since only the refusal tells what is missing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Final, NamedTuple

from redis.exceptions import NoPermissionError

from broker import naming

SUBJECT: Final = "doctor"
"""Stands for a uuid in the names that rights are asked for."""

KEY: Final = naming.KEY_PREFIX + SUBJECT

COMPLETE: Final[dict[str, tuple[str, ...]]] = {
    "DECRBY": (KEY, "1"),
    "DEL": (KEY,),
    "EXISTS": (KEY,),
    "GET": (KEY,),
    "HDEL": (KEY, "field"),
    "HEXISTS": (KEY, "field"),
    "HGET": (KEY, "field"),
    "HGETALL": (KEY,),
    "HINCRBY": (KEY, "field", "1"),
    "HLEN": (KEY,),
    "HMGET": (KEY, "field"),
    "HSET": (KEY, "field", "value"),
    "HSETNX": (KEY, "field", "value"),
    "HSTRLEN": (KEY, "field"),
    "INCR": (KEY,),
    "INCRBY": (KEY, "1"),
    "LINDEX": (KEY, "0"),
    "LLEN": (KEY,),
    "LPOP": (KEY,),
    "LPUSH": (KEY, "value"),
    "LRANGE": (KEY, "0", "0"),
    "LTRIM": (KEY, "0", "0"),
    "PEXPIRE": (KEY, "1"),
    "PEXPIREAT": (KEY, "1"),
    "PTTL": (KEY,),
    "RPUSH": (KEY, "value"),
    "SADD": (KEY, "member"),
    "SCARD": (KEY,),
    "SET": (KEY, "value"),
    "SISMEMBER": (KEY, "member"),
    "SMEMBERS": (KEY,),
    "SREM": (KEY, "member"),
    "STRLEN": (KEY,),
    "UNLINK": (KEY,),
    "XADD": (KEY, "*", "field", "value"),
    "XLEN": (KEY,),
    "XRANGE": (KEY, "-", "+"),
    "XREVRANGE": (KEY, "+", "-"),
    "XTRIM": (KEY, "MAXLEN", "1"),
    "ZADD": (KEY, "0", "member"),
    "ZCARD": (KEY,),
    "ZCOUNT": (KEY, "0", "0"),
    "ZINCRBY": (KEY, "0", "member"),
    "ZPOPMIN": (KEY,),
    "ZRANGE": (KEY, "0", "0"),
    "ZRANGEBYSCORE": (KEY, "0", "0"),
    "ZRANK": (KEY, "member"),
    "ZREM": (KEY, "member"),
    "ZREMRANGEBYRANK": (KEY, "0", "0"),
    "ZREMRANGEBYSCORE": (KEY, "0", "0"),
    "ZREVRANGE": (KEY, "0", "0"),
    "ZREVRANGEBYSCORE": (KEY, "0", "0"),
    "ZSCORE": (KEY, "member"),
}
"""The arguments that make a command of the scripts complete, on a key of the broker's."""

_script: Final = """
local answers = {}
for index, text in ipairs(ARGV) do
  answers[index] = redis.acl_check_cmd(unpack(cjson.decode(text))) and 1 or 0
end
return answers
"""
_called = re.compile(r"""redis\.p?call\(\s*['"](\w+)['"]""")


class Right(NamedTuple):
    """A command that the broker runs.

    Args:
        name: The command, with its subcommand.
        arguments: What makes it complete.
        channel: The channel it is about, if it is about one.
    """

    name: str
    arguments: tuple[str, ...]
    channel: str | None = None

    @property
    def words(self) -> list[str]:
        """The whole command."""
        return [*self.name.split(), *self.arguments]


def script_commands() -> list[str]:
    """The commands that the packaged scripts call."""
    return sorted({name for text in _script_texts(resources.files("broker.store") / "lua") for name in _calls(text)})


def common_rights(queues: Sequence[str]) -> Iterator[Right]:
    """What every process needs: the scripts, with all that they call and publish, and to hear its own probe."""
    yield Right("EVALSHA", ("0" * 40, "0"))
    yield Right("SCRIPT LOAD", ("return 1",))
    yield Right("TIME", ())
    yield from (Right(name, COMPLETE[name]) for name in script_commands() if name in COMPLETE)
    yield _channel_right("PUBLISH", naming.probe_channel(SUBJECT), "")
    yield _channel_right("PUBLISH", naming.worker_channel(SUBJECT), "")
    yield _channel_right("PUBLISH", naming.events_channel(SUBJECT), "")
    yield _channel_right("PUBLISH", naming.published_channel(), "")
    yield _channel_right("SUBSCRIBE", naming.probe_channel(SUBJECT))
    for queue in queues:
        yield _channel_right("PUBLISH", naming.request_channel(queue, SUBJECT), "")
        yield _channel_right("PUBLISH", naming.response_channel(queue, SUBJECT), "")


def confirmation_rights() -> Iterator[Right]:
    """What every process needs besides where replicas have to confirm: to know the server, and to ask them."""
    yield Right("INFO", ("replication",))
    yield Right("WAIT", ("0", "1"))
    yield _channel_right("PUBLISH", naming.fence_channel(), "")


def api_rights(queues: Sequence[str]) -> Iterator[Right]:
    """What API instances need besides: to hear single outcomes, events and what was published, and to see who hears."""
    yield _channel_right("SUBSCRIBE", naming.published_channel())
    yield Right("PUBSUB NUMSUB", (SUBJECT,))
    yield _channel_right("SUBSCRIBE", naming.events_channel(SUBJECT))
    for queue in queues:
        yield _channel_right("SUBSCRIBE", naming.response_channel(queue, SUBJECT))


def worker_rights(queues: Sequence[str]) -> Iterator[Right]:
    """What workers need besides: to hear their queues' requests, and what is meant for them alone."""
    yield _channel_right("SUBSCRIBE", naming.worker_channel(SUBJECT))
    yield Right("BLPOP", (KEY, "0"))
    for queue in queues:
        yield _channel_right("PSUBSCRIBE", naming.request_pattern(queue))


def missing(client: Any, user: str, rights: Iterator[Right]) -> list[str]:
    """What `user`, who is logged in, may not do, each with the rule that would allow it; empty when nothing is missing.

    Args:
        client: A redis-py client.
        user: Its name, for the rules.
        rights: What must be allowed.

    Raises:
        redis.RedisError: The server cannot be asked.
    """
    commands, keys, channels = list[str](), list[str](), list[Right]()
    for right in _refused(client, list(rights)):
        if _is_command_refused(client, right):
            commands.append(right.name)
        elif right.channel is None:
            keys.append(right.name)
        else:
            channels.append(right)
    return [
        *_commands_sentence(user, list(dict.fromkeys(commands))),
        *_keys_sentence(user, keys),
        *(_channel_sentence(user, right.name, str(right.channel)) for right in channels),
    ]


def _channel_right(command: str, channel: str, *rest: str) -> Right:
    return Right(command, (channel, *rest), channel)


def _refused(client: Any, rights: Sequence[Right]) -> list[Right]:
    answers = client.execute_command("EVAL", _script, 0, *(json.dumps(right.words) for right in rights))
    return [right for right, allowed in zip(rights, answers, strict=True) if not allowed]


def _is_command_refused(client: Any, right: Right) -> bool:
    """Whether the command itself is refused, rather than its key or channel."""
    try:
        client.execute_command(*right.words)
    except NoPermissionError as error:
        return " command" in str(error)
    return False


def _commands_sentence(user: str, names: Sequence[str]) -> Iterator[str]:
    if names:
        rules = ["+" + name.lower().replace(" ", "|") for name in names]
        yield f"may not run {', '.join(names)} ({_rule(user, *rules)})"


def _keys_sentence(user: str, names: Sequence[str]) -> Iterator[str]:
    if names:
        prefix = naming.KEY_PREFIX
        yield f"may not use the keys {prefix}* in {', '.join(names)} ({_rule(user, f'~{prefix}*')})"


def _channel_sentence(user: str, command: str, channel: str) -> str:
    if command == "PSUBSCRIBE":
        rule = _rule(user, "&" + channel)
        return f"may not PSUBSCRIBE {channel} ({rule}, letter for letter: a wider pattern does not help)"
    channels = channel.removesuffix(SUBJECT) + "*"
    return f"may not {command} {channels} ({_rule(user, '&' + channels)})"


def _rule(user: str, *rules: str) -> str:
    return " ".join(["ACL SETUSER", user, *rules])


def _script_texts(folder: Traversable) -> Iterator[str]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _script_texts(entry)
        elif entry.name.endswith(".lua"):
            yield entry.read_text()


def _calls(text: str) -> list[str]:
    return [name.upper() for name in _called.findall(text)]
