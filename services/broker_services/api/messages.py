"""What a task's `message` says to people, in English or Chinese."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from functools import lru_cache
from typing import Final

from broker.task import TaskState


class Language(IntEnum):
    """The languages that messages exist in, by their place in each pair of words below."""

    ENGLISH = 0
    CHINESE = 1


def _encoded(*words: str) -> tuple[bytes, ...]:
    return tuple(word.encode() for word in words)


_STATES: Final[Mapping[TaskState, tuple[bytes, ...]]] = {
    TaskState.PENDING: _encoded("in progress", "进行中"),
    TaskState.RUNNING: _encoded("in progress", "进行中"),
    TaskState.SUCCEEDED: _encoded("completed", "已完成"),
    TaskState.FAILED: _encoded("failed", "失败"),
    TaskState.CANCELLED: _encoded("cancelled", "已取消"),
    TaskState.EXPIRED: _encoded("timed out", "已超时"),
}
_REPEATED: Final = _encoded("already completed, nothing to set again", "已完成，无需再次设置")
_UNKNOWN: Final = (
    "There is no task of this uuid: it was never created, or its record is no longer kept.",
    "未查询到任务",
)


def state_message(state: TaskState, language: Language) -> bytes:
    """For a task in `state`, as it stands in JSON."""
    return _STATES[state][language]


def repeated_message(language: Language) -> bytes:
    """For a completion that repeats what has happened already, as it stands in JSON."""
    return _REPEATED[language]


def unknown_task(language: Language) -> str:
    """For a uuid without a task."""
    return _UNKNOWN[language]


@lru_cache(maxsize=256)
def preferred_language(accept_language: str) -> Language:
    """Chinese when the header prefers it to everything else (RFC 9110 section 12.5.4), else English."""
    best, best_quality = "", 0.0
    for item in accept_language[:256].split(","):
        tag, _, parameters = item.strip().partition(";")
        quality = _quality(parameters)
        if quality > best_quality:
            best, best_quality = tag.strip().lower(), quality
    return Language.CHINESE if best == "zh" or best.startswith("zh-") else Language.ENGLISH


def _quality(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    if name.strip().lower() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0
