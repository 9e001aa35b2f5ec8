"""The proxy of the suite: frames are told apart however they arrive, and only messages are lost."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
import redis.asyncio as redis

from tests.faults.proxy import Drop, FaultyProxy, frame_end, is_message

FRAMES = (
    b"+OK\r\n",
    b":1\r\n",
    b"_\r\n",
    b"$5\r\nhe\r\no\r\n",
    b"$-1\r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"*2\r\n:1\r\n*1\r\n$1\r\nx\r\n",
    b"%1\r\n+a\r\n:1\r\n",
    b"|1\r\n+a\r\n:1\r\n+OK\r\n",
    b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n",
)


@pytest.mark.parametrize("frame", FRAMES)
def test_the_end_of_a_frame(frame: bytes) -> None:
    assert frame_end(b"+x\r\n" + frame + b"+y\r\n", 4) == 4 + len(frame)
    for cut in range(len(frame)):
        assert frame_end(frame[:cut], 0) is None


def test_which_frames_are_messages() -> None:
    assert is_message(b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n")
    assert is_message(b">4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$1\r\nc\r\n$1\r\nm\r\n")
    assert not is_message(b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
    assert not is_message(b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n")


async def heard(pubsub: redis.client.PubSub, timeout: float = 5) -> object:
    message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=timeout)
    return None if message is None else message["data"]


async def test_messages_are_lost_and_all_else_passes(redis_url: str) -> None:
    port = int(redis_url.rsplit(":", 1)[1].split("/")[0])
    async with (
        FaultyProxy(port) as proxy,
        redis.Redis.from_url(proxy.url, protocol=3) as client,
        aclosing(client.pubsub()) as pubsub,
    ):
        await pubsub.subscribe("c", "broker:probe:x")
        await pubsub.get_message(timeout=5)
        await client.publish("c", "first")
        assert await heard(pubsub) in (None, b"first")
        proxy.drop = Drop.QUIETLY
        await client.publish("c", "lost")
        await client.publish("broker:probe:x", "probe")
        assert await _next(pubsub) == b"probe"
        proxy.drop = Drop.NONE
        await client.publish("c", "last")
        assert await _next(pubsub) == b"last"
        assert proxy.dropped == 1


async def _next(pubsub: redis.client.PubSub) -> object:
    async with asyncio.timeout(5):
        while (data := await heard(pubsub, 0.1)) in (None, b"first"):
            pass
    return data


async def test_a_frozen_proxy_keeps_what_it_was_sent(redis_url: str) -> None:
    port = int(redis_url.rsplit(":", 1)[1].split("/")[0])
    async with FaultyProxy(port) as proxy, redis.Redis.from_url(proxy.url) as client:
        await client.set("k", 1)
        proxy.freeze()
        asked = asyncio.ensure_future(client.get("k"))
        done, _ = await asyncio.wait({asked}, timeout=0.1)
        assert not done
        proxy.thaw()
        assert await asked == b"1"
