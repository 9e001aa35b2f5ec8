"""Loads `lua/`: joins shared fragments in, gives scripts their key names and codes, and builds typed commands.

A file names its fragments with `-- @include a b`; a fragment may include others; each is joined in once. A function may
include for itself what is rarely needed: a run makes all functions anew, and those only when it calls this one.

Key prefixes and codes come from `naming.py` and `codes.py` as literals, so no script spells a name and no call carries
one; the parts of a list become numbers. Locals instead would cost each run an upvalue a function that uses them.
"""

from __future__ import annotations

import hashlib
import pkgutil
import re
import struct
from collections.abc import Mapping
from functools import cache, cached_property
from textwrap import indent
from typing import Final

from broker import naming
from broker.store.codes import Code
from broker.store.commands import Argument, Batch, Command

_include = re.compile(r"^-- @include ([a-z0-9_ ]+)$", re.MULTILINE)
_inner_include = re.compile(r"^( +)-- @include ([a-z0-9_ ]+)$", re.MULTILINE)
# Comments and strings are matched so that they are passed over.
_word = re.compile(r"--.*|'[^'\n]*'|\b(?P<list>record|old|terms)\.(?P<field>\w+)|\b(?P<name>[A-Z][A-Z_]*)\b")

# How `struct` writes a part; a byte is a number from 0 to 255.
_BYTE: Final = "B"
_NUMBER: Final = "d"
_TEXT: Final = "s"
_ABSENT: Final = {_BYTE: "0", _NUMBER: "0", _TEXT: "''"}
_COMMON_PARTS: Final[Mapping[str, str]] = {
    "format": _BYTE,
    **dict.fromkeys(("queue", "state"), _TEXT),
    "attempt": _NUMBER,
    "priority": _BYTE,
    **dict.fromkeys(("seq", "created", "expires", "retention"), _NUMBER),
    **dict.fromkeys(("seal", "fingerprint"), _TEXT),
    **dict.fromkeys(("size", "max_attempts"), _NUMBER),
    "payload": _TEXT,
    "started": _NUMBER,
    **dict.fromkeys(("lease", "worker"), _TEXT),
    **dict.fromkeys(("finished", "kept"), _NUMBER),
    "result": _TEXT,
}
"""The parts that each task's record is written with, in their order, each as Lua's `struct` writes it."""
_RARE_PARTS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("error", "progress", "last_error"), _TEXT),
    "large": _BYTE,
    "due": _NUMBER,
    **dict.fromkeys(("idempotency", "retry_of", "events"), _TEXT),
    "limited": _BYTE,
}
"""Those that stand behind them where the record has any of these. A new part goes to the end."""
RECORD_FIELDS: Final = (*_COMMON_PARTS, *_RARE_PARTS)
CLAIM_NUMBERS: Final = struct.Struct("<IQQQ")
"""The numbers of a claim's answer: attempt; lease end, created and expires in ms."""
CREATE_TERMS: Final = (
    *("queue", "priority", "delay", "ttl", "retention", "max_attempts"),
    *("is_chosen", "wants_document", "idempotency"),
)
"""The terms of a create in their order."""

_NAMES: Final[Mapping[str, str]] = {
    "TASKS": naming.tasks_key(),
    "VALUES": naming.values_prefix(),
    "EVENTS": naming.events_prefix(),
    "EVENTS_CHANNEL": naming.events_channel_prefix(),
    "PENDING": naming.pending_prefix(),
    "QUEUE": naming.queue_prefix(),
    "QUEUES": naming.queues_key(),
    "LIMITS": naming.limits_key(),
    "STARTS": naming.starts_prefix(),
    "WORKERS": naming.workers_prefix(),
    "WAITERS": naming.waiters_prefix(),
    "DUTY": naming.duty_prefix(),
    "TURN": naming.turn_prefix(),
    "WAKE": naming.wake_prefix(),
    "CREATED_INDEX": naming.created_key(),
    "DELAYED": naming.delayed_key(),
    "LEASES": naming.leases_key(),
    "EXPIRING": naming.expiring_key(),
    "RETAINED": naming.retained_key(),
    "ENDED": naming.ended_key(),
    "RETAINED_BYTES": naming.retained_bytes_key(),
    "SEQUENCE": naming.sequence_key(),
    "IDEMPOTENCY": naming.idempotency_prefix(),
    "PUBLISHED": naming.published_prefix(),
    "PUBLICATIONS": naming.publications_key(),
    "NAMESPACES": naming.namespaces_key(),
    "DELETED_NAMESPACES": naming.deleted_namespaces_key(),
    "PUBLISHED_CHANNEL": naming.published_channel(),
    "EXCLUSIVE": naming.exclusive_prefix(),
    "EXCLUSIVE_KEY": naming.exclusive_idempotency_prefix(),
    "REQUEST": naming.REQUEST_INFIX,
    "RESPONSE": naming.RESPONSE_INFIX,
    "WORKER": naming.worker_channel_prefix(),
}
_RECORD_PLACES: Final = {name: place for place, name in enumerate(RECORD_FIELDS, 1)}
_PLACES: Final[Mapping[str, Mapping[str, int]]] = {
    "record": _RECORD_PLACES,
    "old": _RECORD_PLACES,
    "terms": {name: place for place, name in enumerate(CREATE_TERMS, 1)},
}
"""The lists of which scripts speak by names, by the names of their variables."""
_LITERALS: Final[Mapping[str, str]] = {
    **{name: f"'{value}'" for name, value in _NAMES.items()},
    **{code.name: str(code.value) for code in Code},
    "COMMON_LENGTH": str(len(_COMMON_PARTS)),
    "RARE_LENGTH": str(len(_RARE_PARTS)),
    "COMMON_LAYOUT": f"'<{''.join(_COMMON_PARTS.values())}'",
    "RARE_LAYOUT": f"'<{''.join(_RARE_PARTS.values())}'",
    "RARE_PARTS": ", ".join(f"record[{_RECORD_PLACES[name]}] or {_ABSENT[kind]}" for name, kind in _RARE_PARTS.items()),
    "CLAIM_NUMBERS": "'<I4I8I8I8'",
}


class Script:
    """One file of `lua/`, ready to be called by its digest."""

    def __init__(self, name: str) -> None:
        self.name = name

    @cached_property
    def source(self) -> str:
        """The whole text that Redis runs: shebang, names, fragments, body."""
        shebang, _, body = _read(f"{self.name}.lua").partition("\n")
        fragments: dict[str, str] = {}
        _collect(body, fragments)
        texts = [*fragments.values(), _with_inner_fragments(body, fragments)]
        return "\n".join([shebang, *map(with_literals, texts)])

    @cached_property
    def digest(self) -> str:
        """What EVALSHA calls it by."""
        return hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def command(self, key: str, *arguments: str | bytes | int, repeatable: bool) -> Command:
        """One call. `repeatable` says that a second run of the very same call changes nothing more.

        Empty arguments at the end stay away, and a script takes a missing one for empty: each costs the server a
        quarter of a microsecond.
        """
        given = len(arguments)
        while given and arguments[given - 1] == "":
            given -= 1
        tail = (1, key, *arguments[:given])
        return Command(
            ("EVALSHA", self.digest, *tail),
            repeatable=repeatable,
            # NOSCRIPT says that nothing ran, so the whole text may be sent.
            if_unknown=lambda: ("EVAL", self.source, *tail),
        )

    def batch(self, key: str, *shared: Argument) -> Batch:
        """Calls that may be joined: what all of them share; each command has its own arguments besides."""
        return Batch(self, key, shared)


def fragment(name: str) -> str:
    """A fragment with those that it includes, as scripts have it in front; for tests that look into the store."""
    fragments: dict[str, str] = {}
    _collect(f"-- @include {name}", fragments)
    return "\n".join(map(with_literals, fragments.values()))


@cache
def _read(path: str) -> str:
    """A file of `lua/`; fragments are asked for by many scripts, at the start of every process."""
    # Not by importlib.resources, whose import takes longer than reading all files.
    data = pkgutil.get_data("broker.store", f"lua/{path}")
    assert data is not None  # noqa: S101  only loaders that cannot read data give none
    return data.decode("utf-8")


def _collect(text: str, fragments: dict[str, str]) -> None:
    """Gathers the fragments that `text` includes, each after those that it includes itself."""
    for line in _include.findall(text):
        for name in line.split():
            if name not in fragments:
                fragment = _read(f"fragments/{name}.lua")
                _collect(fragment, fragments)
                fragments[name] = _with_inner_fragments(fragment, fragments)


def _with_inner_fragments(text: str, known: Mapping[str, str]) -> str:
    """Joins in what functions include for themselves, without what stands before them in the script."""

    def fragments_of(line: re.Match[str]) -> str:
        found = dict(known)
        _collect(f"-- @include {line[2]}", found)
        return indent("\n".join(text for name, text in found.items() if name not in known), line[1])

    return _inner_include.sub(fragments_of, text)


@cache
def with_literals(text: str) -> str:
    """Lua as Redis runs it: names, codes and the fields of records as literals."""
    return _word.sub(_literal, text)


def _literal(word: re.Match[str]) -> str:
    if field := word["field"]:
        return f"{word['list']}[{_PLACES[word['list']][field]}]"
    return _LITERALS.get(word["name"] or "", word[0])


CREATE_TASKS: Final = Script("create_tasks")
TAKE_EXCLUSIVE_WAIT: Final = Script("take_exclusive_wait")
RELEASE_EXCLUSIVE_WAIT: Final = Script("release_exclusive_wait")
RETRY_TASK: Final = Script("retry_task")
CLAIM_TASKS: Final = Script("claim_tasks")
EXTEND_LEASE: Final = Script("extend_lease")
FINISH_TASKS: Final = Script("finish_tasks")
REQUEUE_TASK: Final = Script("requeue_task")
DEFER_TASK: Final = Script("defer_task")
READ_TASK: Final = Script("read_task")
READ_TASKS: Final = Script("read_tasks")
FIND_ENDED: Final = Script("find_ended")
FIND_FILELESS: Final = Script("find_fileless")
READ_EVENTS: Final = Script("read_events")
FIND_EVENTS: Final = Script("find_events")
MAY_HEAR: Final = Script("may_hear")
LIST_TASKS: Final = Script("list_tasks")
READ_QUEUES: Final = Script("read_queues")
SET_LIMITS: Final = Script("set_limits")
REPORT_PRESENCE: Final = Script("report_presence")
TAKE_DUTIES: Final = Script("take_duties")
LEAVE_DUTIES: Final = Script("leave_duties")
PASS_BELL: Final = Script("pass_bell")
TAKE_TURN: Final = Script("take_turn")
SWEEP_LEASES: Final = Script("sweep_leases")
SWEEP_DELAYED: Final = Script("sweep_delayed")
SWEEP_EXPIRED: Final = Script("sweep_expired")
SWEEP_RETAINED: Final = Script("sweep_retained")
SWEEP_QUEUES: Final = Script("sweep_queues")
PUBLISH_VALUE: Final = Script("publish_value")
DELETE_VALUE: Final = Script("delete_value")
READ_VALUES: Final = Script("read_values")
READ_CHANGES: Final = Script("read_changes")

ALL: Final = (
    CREATE_TASKS,
    TAKE_EXCLUSIVE_WAIT,
    RELEASE_EXCLUSIVE_WAIT,
    RETRY_TASK,
    CLAIM_TASKS,
    EXTEND_LEASE,
    FINISH_TASKS,
    REQUEUE_TASK,
    DEFER_TASK,
    READ_TASK,
    READ_TASKS,
    FIND_ENDED,
    FIND_FILELESS,
    READ_EVENTS,
    FIND_EVENTS,
    MAY_HEAR,
    LIST_TASKS,
    READ_QUEUES,
    SET_LIMITS,
    REPORT_PRESENCE,
    TAKE_DUTIES,
    LEAVE_DUTIES,
    PASS_BELL,
    TAKE_TURN,
    SWEEP_LEASES,
    SWEEP_DELAYED,
    SWEEP_EXPIRED,
    SWEEP_RETAINED,
    SWEEP_QUEUES,
    PUBLISH_VALUE,
    DELETE_VALUE,
    READ_VALUES,
    READ_CHANGES,
)
