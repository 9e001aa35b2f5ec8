"""How the command line prints: the document byte for byte for programs, something readable for people."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Final

import click
import msgspec

from broker.task_event import EventKind, TaskEvent

COLOURS: Final = {
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "expired": "yellow",
    "running": "cyan",
    "pending": "cyan",
    "ok": "green",
    "warn": "yellow",
    "fail": "red",
}

_STATE_WIDTH: Final = len("succeeded")

# `uuid`, `state` and `message` are the headline; `links` are for programs.
_headline: Final = ("uuid", "state", "message", "links")


def for_people(as_json: bool) -> bool:
    """Whether to print for people: on a terminal, unless JSON was asked for."""
    return not as_json and sys.stdout.isatty()


def document(raw: bytes) -> None:
    """Prints a JSON document on one line; its values stay the bytes they are."""
    # Between the tokens of JSON a line break means a space, and inside a string it cannot stand.
    click.echo(raw.replace(b"\r", b" ").replace(b"\n", b" "))


def task(raw: bytes) -> None:
    """Prints a task JSON for people: a headline, then one line a member."""
    members = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    state = _text(members, "state")
    echo(f"{bold(_text(members, 'uuid'))}  {coloured(state)}  {_text(members, 'message')}".rstrip())
    shown = [name for name in members if name not in _headline]
    width = max((len(name) for name in shown), default=0)
    for name in shown:
        echo(f"  {name.ljust(width)}  {_text(members, name)}")


def task_line(raw: bytes) -> None:
    """Prints a task of a list for people: what tells it from others, on one line."""
    members = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    state = _text(members, "state")
    shown = (_text(members, "created_at"), coloured(state, state.ljust(_STATE_WIDTH)), _text(members, "queue"))
    echo("  ".join((*shown, bold(_text(members, "uuid")), _text(members, "error"))).rstrip())


def published_line(raw: bytes) -> None:
    """Prints a published value for people: when, which version, and the value, on one line."""
    members = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    if "value" not in members:
        echo("nothing is published")
        return
    value = harmless(bytes(members["value"]).decode("utf-8", "replace"))
    echo("  ".join((_text(members, "changed_at"), bold(_text(members, "version")), value)))


def event(told: TaskEvent) -> None:
    """Prints an event for people: a value on one line, the task as a whole."""
    if told.kind is EventKind.PROGRESS:
        echo(f"{coloured('running', told.kind)}  {harmless(told.raw.decode('utf-8', 'replace'))}")
    else:
        task(told.raw)


def echo(line: str) -> None:
    """Prints a line, without colours where nobody can see or wants them (https://no-color.org)."""
    click.echo(line, color=False if os.environ.get("NO_COLOR") else None)


def bold(text: str) -> str:
    """Bold text."""
    return click.style(text, bold=True)


def coloured(word: str, text: str | None = None) -> str:
    """`text` in the colour that `word` stands for: a state, or the outcome of a check."""
    return click.style(text or word, fg=COLOURS.get(word))


def harmless(text: str) -> str:
    """Text without the control characters that would steer a terminal."""
    return "".join(_visible(text))


def _visible(text: str) -> Iterable[str]:
    for character in text:
        if character.isprintable():
            yield character
        else:
            yield " " if character in "\r\n\t" else "�"


def _text(members: dict[str, msgspec.Raw], name: str) -> str:
    raw = bytes(members.get(name, msgspec.Raw(b"")))
    # A string stands there without its quotes; anything else as the JSON text that was sent.
    text = msgspec.json.decode(raw, type=str) if raw.startswith(b'"') else raw.decode("utf-8", "replace")
    return harmless(text)
