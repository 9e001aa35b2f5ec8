"""Fixtures for all tests. A server starts in some 40 ms, and only when a test asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

from broker.store.embedded import EmbeddedServer
from tests.support.server import OwnServer, ServerStarter, make_empty

# `--hypothesis-profile=long`: for a search by hand, where no other test decides how long it looks.
settings.register_profile(
    "long", max_examples=5_000, stateful_step_count=80, deadline=None, suppress_health_check=list(HealthCheck)
)


# How many more processes than processors share the tests: about that many wait at any time for something that takes
# its time, such as a lease to run out or a process to end.
WAITING: Final = 2


def pytest_xdist_auto_num_workers() -> int:
    """What `--numprocesses=auto` is."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return usable + WAITING


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest test halfway: processes start with equal shares, and its folder is most of one already."""
    longest = [item for item in items if item.path.match("tests/faults/test_suite.py")]
    others = [item for item in items if item not in longest]
    half = len(others) // 2
    items[:] = [*others[:half], *longest, *others[half:]]


@pytest.fixture(scope="session")
def shared_server() -> Iterator[EmbeddedServer]:
    """One server for all tests of this process. Nobody stops it: `own_server` gives servers for that."""
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def redis_url(shared_server: EmbeddedServer) -> str:
    """The URL of an empty server."""
    make_empty(shared_server.url)
    return shared_server.url


@pytest.fixture
def own_server() -> Iterator[OwnServer]:
    """Starts servers of the test's own, to be killed, stopped and started again."""
    with ExitStack() as stack:
        yield ServerStarter(stack)
