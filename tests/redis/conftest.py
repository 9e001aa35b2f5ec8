"""Fixtures of the script tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.store import Store, open_store


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    """An empty store."""
    async with open_store(redis_url) as store:
        yield store
