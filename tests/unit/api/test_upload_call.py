"""When the call that took a file removes it, and when it may not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from broker.errors import (
    BrokerError,
    QueueFullError,
    StoreError,
    StoreUnavailableError,
    TaskConflictError,
    TooManyWaitersError,
)
from broker_services.api.calls import uploads
from tests.support.store import new_task


async def creating(error: BrokerError) -> list[str]:
    """Which files are removed when the create ends so."""

    async def create(*_: Any) -> Any:
        raise error

    async def remove(uuid: str) -> None:
        removed.append(uuid)

    removed: list[str] = []
    api: Any = SimpleNamespace(
        uploads=SimpleNamespace(remove=remove), broker=SimpleNamespace(holding=SimpleNamespace(create=create))
    )
    with pytest.raises(type(error)):
        await uploads._create(api, None, new_task("t"), 0)  # type: ignore[arg-type]  # nothing is held
    return removed


@pytest.mark.parametrize(
    "error",
    [
        QueueFullError("Full."),
        TooManyWaitersError("Too many."),
        TaskConflictError("Taken."),
        StoreUnavailableError("Never sent."),
    ],
)
async def test_a_create_that_did_not_happen_leaves_no_file(error: BrokerError) -> None:
    assert await creating(error) == ["t"]


@pytest.mark.parametrize("error", [StoreUnavailableError("Lost.", may_have_run=True), StoreError("Broke off.")])
async def test_a_create_that_may_have_happened_keeps_its_file(error: BrokerError) -> None:
    assert await creating(error) == []
