"""The transport that joins an answer's head and body."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from broker_services.api.corked import CorkedTransport

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Writes:
    """Notes what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


@pytest.fixture
def below() -> Writes:
    return Writes()


@pytest.fixture
async def transport(below: Writes) -> CorkedTransport:
    return CorkedTransport(cast(asyncio.Transport, below), asyncio.get_running_loop())


async def test_head_and_body_leave_together(below: Writes, transport: CorkedTransport) -> None:
    transport.write(HEAD)
    transport.write(b"body")
    assert below.written == [HEAD + b"body"]
    await asyncio.sleep(0)
    assert below.written == [HEAD + b"body"]


async def test_a_head_without_a_body_leaves_in_the_same_turn(below: Writes, transport: CorkedTransport) -> None:
    transport.write(HEAD)
    assert below.written == []
    await asyncio.sleep(0)
    assert below.written == [HEAD]


async def test_later_parts_leave_at_once(below: Writes, transport: CorkedTransport) -> None:
    transport.write(HEAD)
    transport.write(b"1")
    transport.write(b"2")
    assert below.written == [HEAD + b"1", b"2"]


async def test_closing_writes_what_waits(below: Writes, transport: CorkedTransport) -> None:
    transport.write(HEAD)
    transport.close()
    assert (below.written, below.closed) == ([HEAD], True)
    await asyncio.sleep(0)
    assert below.written == [HEAD]


async def test_everything_else_is_the_transports_own(below: Writes, transport: CorkedTransport) -> None:
    assert not transport.is_closing()
    below.close()
    assert transport.is_closing()
