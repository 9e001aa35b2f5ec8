"""The proxy that cuts a server off from its peers, and not from its clients."""

from __future__ import annotations

import asyncio
import socket

import pytest

from broker.store.embedded import EmbeddedServer
from tests.faults.node_proxy import ADDRESS, PEERS, NodeProxy


async def ping(port: int, source: str) -> bytes:
    """What comes back to a PING from that address, within a moment; nothing for silence or a cut."""
    writer = None
    try:
        async with asyncio.timeout(0.3):
            reader, writer = await asyncio.open_connection(ADDRESS, port, local_addr=(source, 0))
            writer.write(b"PING\r\n")
            return await reader.readline()
    except (OSError, TimeoutError):
        return b""
    finally:
        if writer is not None:
            writer.transport.abort()


def can_be_a_peer() -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((PEERS, 0))
        except OSError:
            return False
    return True


@pytest.mark.skipif(not can_be_a_peer(), reason=f"{PEERS} is no address of this machine")
async def test_only_peers_are_cut_off() -> None:
    with EmbeddedServer() as server:
        async with NodeProxy(server.port) as proxy:
            both = (ADDRESS, PEERS)
            assert [await ping(proxy.port, source) for source in both] == [b"+PONG\r\n", b"+PONG\r\n"]
            proxy.isolate()
            assert [await ping(proxy.port, source) for source in both] == [b"+PONG\r\n", b""]
            proxy.heal()
            assert [await ping(proxy.port, source) for source in both] == [b"+PONG\r\n", b"+PONG\r\n"]
