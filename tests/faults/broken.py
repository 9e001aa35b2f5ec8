"""Brokers with one defect each, to see that the checker finds it: `python -m tests.faults.broken VARIANT` is `broker`.

The defect is put into this process from outside; the product knows no such switch.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any, Final

from broker.store import scripts
from broker.subscriptions import Subscriptions
from broker_services.cli.main import main

GAP_S: Final = 1.0
"""Between the re-read and the subscription of the variant that has them in the wrong order."""


def announce_before_storing() -> None:
    """The outcome of a first attempt is published, and then lost before it is stored."""
    stored = "settle(uuid, record, now, state"
    announced = """
if lease ~= '' and record.attempt == 1 then
  record.state, record.finished = state, now
  announce_outcome(uuid, record, value_members(result, error_text, ''))
  error('the outcome was lost on its way into the store')
end
"""
    _patch_script("finish_tasks.lua", stored, announced + stored)


def settle_without_the_lease_check() -> None:
    """Whoever has run a task may end it, whatever has become of its lease."""
    _patch_script("finish_tasks.lua", "lease ~= '' and record.lease ~= lease", "false")


def read_before_subscribing() -> None:
    """After a reconnect every waited task is read again, and only then subscribed."""

    def subscribe_anew(subscriptions: Any) -> None:
        subscriptions._actual.clear()
        subscriptions._to_leave, subscriptions._to_join = [], []
        subscriptions._background.spawn(recover(subscriptions), "recovery of subscriptions")

    async def recover(subscriptions: Any) -> None:
        for callback in subscriptions._on_recovered:
            await callback()
        await asyncio.sleep(GAP_S)
        subscriptions._to_join = [*subscriptions._always, *subscriptions._topics]
        await subscriptions.confirm()
        subscriptions._probe.begin()

    setattr(Subscriptions, "_subscribe_anew", subscribe_anew)  # noqa: B010 - mypy knows that it is a method


VARIANTS: Final[dict[str, Callable[[], None]]] = {
    "announce-before-storing": announce_before_storing,
    "settle-without-the-lease-check": settle_without_the_lease_check,
    "read-before-subscribing": read_before_subscribing,
}


def command(variant: str) -> tuple[str, ...]:
    """What starts it in place of `broker`."""
    return (sys.executable, "-m", "tests.faults.broken", variant)


def _patch_script(path: str, old: str, new: str) -> None:
    read = scripts._read

    def patched(asked: str) -> str:
        text = read(asked)
        if asked != path:
            return text
        assert old in text, f"{path} no longer has {old!r}: the variant needs another way in"
        return text.replace(old, new)

    setattr(scripts, "_read", patched)  # noqa: B010 - mypy knows that it is a function


if __name__ == "__main__":
    VARIANTS[sys.argv.pop(1)]()
    main()
