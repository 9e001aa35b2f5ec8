"""The link against real servers, a proxy that fails like a network, and servers on a bad day."""

from __future__ import annotations

import asyncio
import gc
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import redis

from broker.errors import BrokerError, ConfigurationError, StoreError, StoreUnavailableError
from broker.store import link as link_module
from broker.store import scripts
from broker.store.commands import Command, send_all
from broker.store.link import Link
from broker.store.server import Server
from broker.store.topology import Topology
from tests.support.fake_server import OK, Answer, fake_server, hello, polite
from tests.support.proxy import Proxy
from tests.support.server import OwnServer
from tests.support.store import until

OpenLink = Callable[..., Awaitable[Link]]


@pytest.fixture
async def closing() -> AsyncIterator[AsyncExitStack]:
    """Closes at the end what the test opened, latest first."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def open_link(closing: AsyncExitStack) -> OpenLink:
    """`open_link(url)`: a link that closes with the test."""

    async def opened(url: str, **options: Any) -> Link:
        link = Link(Topology.from_url(url), name="test", **options)
        closing.push_async_callback(link.close)
        await link.open()
        return link

    return opened


@pytest.fixture
async def proxy(redis_url: str, closing: AsyncExitStack) -> Proxy:
    """A proxy in front of the empty server."""
    return await closing.enter_async_context(Proxy(redis_url))


@pytest.fixture
async def pretend(closing: AsyncExitStack) -> Callable[[Answer], Awaitable[str]]:
    """`pretend(answer)`: the URL of a fake server."""

    async def started(answer: Answer) -> str:
        return await closing.enter_async_context(fake_server(answer))

    return started


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines of a fraction of a second."""
    for name, seconds in {
        "COMMAND_DEADLINE_S": 0.6,
        "REPLY_DEADLINE_S": 0.2,
        "PING_AFTER_S": 0.1,
        "CONNECT_DEADLINE_S": 0.4,
        "WATCH_EVERY_S": 0.02,
    }.items():
        monkeypatch.setattr(link_module, name, seconds)


Pretend = Callable[[Answer], Awaitable[str]]

ECHO = Command(("ECHO", "x"), repeatable=True)


def command(*words: str, repeatable: bool = False) -> Command:
    return Command(words, repeatable=repeatable)


async def works(link: Link) -> bool:
    """Whether the link answers now."""
    try:
        return bool(await link.send(ECHO) == b"x")
    except StoreUnavailableError:
        return False


# The ordinary day


async def test_replies_reach_their_callers(redis_url: str, open_link: OpenLink) -> None:
    link = await open_link(redis_url)
    replies = await asyncio.gather(*[link.send(command("ECHO", str(number))) for number in range(2_000)])
    assert replies == [str(number).encode() for number in range(2_000)]


async def test_the_commands_of_one_tick_leave_in_writes_of_a_few(proxy: Proxy, open_link: OpenLink) -> None:
    link = await open_link(proxy.url)
    await link.send(ECHO)
    proxy.received.clear()
    await asyncio.gather(*[link.send(command("ECHO", str(number))) for number in range(100)])
    assert len(proxy.received) <= math.ceil(100 / link_module.BATCH)


async def test_a_few_commands_leave_in_one_write(proxy: Proxy, open_link: OpenLink) -> None:
    link = await open_link(proxy.url)
    await link.send(ECHO)
    proxy.received.clear()
    await asyncio.gather(*[link.send(ECHO) for _ in range(link_module.BATCH - 1)])
    assert len(proxy.received) == 1


async def test_what_is_handed_over_together_leaves_in_one_write(proxy: Proxy, open_link: OpenLink) -> None:
    link = await open_link(proxy.url)
    await link.send(ECHO)
    proxy.received.clear()
    replies = await asyncio.gather(*send_all(link, [command("ECHO", str(number)) for number in range(100)]))
    assert replies == [str(number).encode() for number in range(100)]
    assert len(proxy.received) == 1


async def test_of_several_those_beyond_the_limit_are_refused(
    redis_url: str, open_link: OpenLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "MOST_OUTSTANDING", 2)
    link = await open_link(redis_url)
    replies = await asyncio.gather(*send_all(link, [ECHO, ECHO, ECHO]), return_exceptions=True)
    assert replies[:2] == [b"x", b"x"]
    assert isinstance(replies[2], StoreUnavailableError)
    await link.close()
    (closed,) = await asyncio.gather(*send_all(link, [ECHO]), return_exceptions=True)
    assert isinstance(closed, StoreUnavailableError)


async def test_the_link_has_a_name(redis_url: str, open_link: OpenLink) -> None:
    await open_link(redis_url)
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        assert "test" in [connection["name"] for connection in client.client_list()]


async def test_an_error_reply_is_the_callers_and_nobody_elses(redis_url: str, open_link: OpenLink) -> None:
    link = await open_link(redis_url)
    wrong, right = link.send(command("NOSUCH")), link.send(ECHO)
    with pytest.raises(StoreError, match="NOSUCH"):
        await wrong
    assert await right == b"x"
    assert link.connections_made == 1


async def test_a_caller_that_goes_away_shifts_no_reply(redis_url: str, open_link: OpenLink) -> None:
    link = await open_link(redis_url)
    gone_before_the_write = link.send(command("SET", "never", "1"))
    gone_before_the_write.cancel()
    after = link.send(ECHO)
    gone_after_the_write = link.send(command("SET", "written", "1"))
    await asyncio.sleep(0)
    gone_after_the_write.cancel()
    assert await after == b"x"
    assert await link.send(command("MGET", "never", "written")) == [None, b"1"]


# Scripts


async def test_scripts_are_there_from_the_first_call_on(redis_url: str, open_link: OpenLink) -> None:
    await open_link(redis_url, scripts=(scripts.READ_TASK.source,))
    with redis.Redis.from_url(redis_url) as client:
        assert client.script_exists(scripts.READ_TASK.digest) == [True]


async def test_a_script_that_the_server_forgot_is_sent_whole(redis_url: str, open_link: OpenLink) -> None:
    link = await open_link(redis_url, scripts=(scripts.FIND_ENDED.source,))
    with redis.Redis.from_url(redis_url) as client:
        client.script_flush()
    calls = [link.send(scripts.FIND_ENDED.command("k", f"t{number}", repeatable=False)) for number in range(3)]
    assert await asyncio.gather(*calls) == [[b"t0"], [b"t1"], [b"t2"]]


async def test_an_unknown_script_without_a_text_is_an_error(redis_url: str, open_link: OpenLink) -> None:
    link = await open_link(redis_url)
    with pytest.raises(StoreError, match="NOSCRIPT"):
        await link.send(command("EVALSHA", "0" * 40, "0"))


# A connection that ends


async def test_what_may_have_run_is_not_repeated(proxy: Proxy, redis_url: str, open_link: OpenLink) -> None:
    link = await open_link(proxy.url)
    proxy.keep_replies()
    call = link.send(command("INCR", "runs"))
    with redis.Redis.from_url(redis_url) as client:
        await until(lambda: client.get("runs") == b"1", "the command has run")
        proxy.cut()
        proxy.thaw()
        with pytest.raises(StoreUnavailableError) as lost:
            await call
        assert lost.value.may_have_run
        assert await link.send(ECHO) == b"x"
        assert client.get("runs") == b"1"


async def test_what_is_repeatable_is_repeated(proxy: Proxy, redis_url: str, open_link: OpenLink) -> None:
    link = await open_link(proxy.url)
    proxy.keep_replies()
    call = link.send(command("INCR", "runs", repeatable=True))
    with redis.Redis.from_url(redis_url) as client:
        await until(lambda: client.get("runs") == b"1", "the command has run")
    proxy.cut()
    proxy.thaw()
    assert await call == 2


async def test_repeated_commands_keep_their_order(proxy: Proxy, open_link: OpenLink) -> None:
    link = await open_link(proxy.url)
    proxy.freeze()
    calls = [link.send(command("RPUSH", "list", str(number), repeatable=True)) for number in range(5)]
    await until(lambda: len(proxy.received) > 1, "they are on their way")
    proxy.cut()
    await until(lambda: not link.is_connected, "the loss was noticed")
    proxy.thaw()
    later = link.send(command("RPUSH", "list", "later"))
    await asyncio.gather(*calls, later)
    assert await link.send(command("LRANGE", "list", "0", "-1")) == [b"0", b"1", b"2", b"3", b"4", b"later"]


async def test_what_was_never_written_waits_for_the_next_connection(proxy: Proxy, open_link: OpenLink) -> None:
    link = await open_link(proxy.url)
    await proxy.refuse()
    await until(lambda: not link.is_connected, "the loss was noticed")
    call = link.send(command("INCR", "runs"))
    await proxy.listen()
    assert await call == 1
    assert link.connections_made == 2


@pytest.mark.usefixtures("quick")
async def test_what_was_never_written_fails_as_never_run(proxy: Proxy, open_link: OpenLink) -> None:
    link = await open_link(proxy.url)
    await proxy.refuse()
    await until(lambda: not link.is_connected, "the loss was noticed")
    with pytest.raises(StoreUnavailableError) as failed:
        await link.send(command("INCR", "runs"))
    assert not failed.value.may_have_run


async def test_what_comes_while_a_connection_closes_waits_for_the_next(redis_url: str, open_link: OpenLink) -> None:
    link = await open_link(redis_url)
    link.drop("the test says so")
    many = [link.send(Command(("INCR", "n"))) for _ in range(2 * link_module.BATCH)]
    assert await asyncio.gather(*many) == list(range(1, len(many) + 1))


def test_a_connection_that_closes_before_it_is_greeted(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write to a transport that is closed raises on uvloop, and must not end the reconnecting."""
    uvloop = pytest.importorskip("uvloop")
    open_transport = Server.open
    openings = 0

    async def open_and_lose_the_second(server: Server, factory: Callable[[], Any]) -> None:
        nonlocal openings
        openings += 1
        await open_transport(server, factory)
        if openings == 2:
            connection = factory()
            connection.abort()
            await connection.lost

    async def reconnect() -> None:
        link = Link(Topology.from_url(redis_url), name="test")
        await link.open()
        link.drop("the test says so")
        assert await link.send(Command(("PING",), repeatable=True)) == b"PONG"
        await link.close()

    monkeypatch.setattr(Server, "open", open_and_lose_the_second)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(reconnect())
    assert openings == 3


async def test_gains_and_losses_are_told(proxy: Proxy, open_link: OpenLink) -> None:
    told: list[str] = []
    link = await open_link(
        proxy.url, on_connected=lambda: told.append("connected"), on_lost=lambda: told.append("lost")
    )
    proxy.cut()
    await until(lambda: link.connections_made == 2, "connected again")
    assert told == ["connected", "lost", "connected"]


async def test_a_dropped_connection_is_opened_anew(redis_url: str, open_link: OpenLink) -> None:
    link = await open_link(redis_url)
    link.drop("a test wants it")
    await until(lambda: link.connections_made == 2, "connected again")
    assert await works(link)


# A connection that falls silent


@pytest.mark.usefixtures("quick")
async def test_a_frozen_server_fails_calls_in_bounded_time_and_is_found_again(
    proxy: Proxy, open_link: OpenLink
) -> None:
    link = await open_link(proxy.url)
    proxy.freeze()
    started = time.monotonic()
    calls = [link.send(ECHO), link.send(command("INCR", "runs"))]
    lost = await asyncio.gather(*calls, return_exceptions=True)
    assert time.monotonic() - started < 3
    assert [type(error) for error in lost] == [StoreUnavailableError, StoreUnavailableError]
    assert [getattr(error, "may_have_run", None) for error in lost] == [True, True]
    proxy.thaw()
    await until(lambda: works(link), "the link works again")


@pytest.mark.usefixtures("quick")
async def test_an_idle_connection_that_went_silent_is_noticed(proxy: Proxy, open_link: OpenLink) -> None:
    link = await open_link(proxy.url)
    proxy.freeze()
    await until(lambda: not link.is_connected, "nobody asked, and still it was noticed")
    proxy.thaw()
    await until(lambda: works(link), "the link works again")


@pytest.mark.usefixtures("quick")
async def test_an_idle_connection_that_answers_is_kept(redis_url: str, open_link: OpenLink) -> None:
    link = await open_link(redis_url)
    with redis.Redis.from_url(redis_url) as client:
        before = client.info("commandstats").get("cmdstat_ping", {"calls": 0})["calls"]
        await until(lambda: client.info("commandstats")["cmdstat_ping"]["calls"] >= before + 3, "three more PINGs")
    assert link.connections_made == 1


async def test_beyond_the_limit_callers_are_refused_at_once(
    proxy: Proxy, open_link: OpenLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "MOST_OUTSTANDING", 3)
    link = await open_link(proxy.url)
    proxy.freeze()
    kept = [link.send(ECHO) for _ in range(3)]
    refused = link.send(ECHO)
    assert isinstance(refused.exception(), StoreUnavailableError)
    proxy.thaw()
    assert await asyncio.gather(*kept) == [b"x"] * 3
    assert await works(link)


# Servers that refuse


async def test_nobody_listens(proxy: Proxy, open_link: OpenLink) -> None:
    await proxy.refuse()
    link = Link(Topology.from_url(proxy.url), name="test")
    with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1"):
        await link.open(timeout=0.2)


async def test_a_server_that_never_greets(proxy: Proxy) -> None:
    proxy.freeze()
    started = time.monotonic()
    with pytest.raises(StoreUnavailableError):
        await Link(Topology.from_url(proxy.url), name="test").open(timeout=0.2)
    assert time.monotonic() - started < 2


async def test_a_connection_that_is_lost_during_the_greeting_is_no_defect(
    proxy: Proxy, open_link: OpenLink, caplog: pytest.LogCaptureFixture
) -> None:
    link = await open_link(proxy.url)
    proxy.keep_replies()
    proxy.cut()
    proxy.received.clear()
    await until(lambda: proxy.received, "the next connection waits to be greeted")
    proxy.cut()
    proxy.thaw()
    assert await link.send(Command(("PING",), repeatable=True)) == b"PONG"
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_a_wrong_password_is_for_the_operator(own_server: OwnServer, open_link: OpenLink) -> None:
    server = own_server(options={"requirepass": "se:cret/@"})
    assert await works(await open_link(server.url))
    for url in (server.url.replace("se%3Acret", "guess"), f"redis://127.0.0.1:{server.port}"):
        with pytest.raises(ConfigurationError) as refused:
            await open_link(url)
        assert "guess" not in str(refused.value)


async def test_a_user_without_rights_is_for_the_operator(redis_url: str, open_link: OpenLink) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.execute_command("ACL", "SETUSER", "poor", "reset", "on", ">pw", "-@all", "+hello")
        try:
            with pytest.raises(ConfigurationError, match="broker doctor"):
                await open_link(redis_url.replace("redis://", "redis://poor:pw@"))
        finally:
            client.acl_deluser("poor")


async def test_a_password_that_changes_later_is_waited_for(own_server: OwnServer, open_link: OpenLink) -> None:
    server = own_server(options={"requirepass": "old"})
    link = await open_link(server.url)
    with redis.Redis.from_url(server.url) as client:
        client.config_set("requirepass", "new")
        link.drop("a test wants it")
        await until(lambda: not link.is_connected, "the old password is of no use")
        client.config_set("requirepass", "old")
        await until(lambda: works(link), "the link works again")


@pytest.mark.parametrize(
    ("kind", "version", "works_here"),
    [
        ("redis", "6.2.14", False),
        ("redis", "7.0.0", True),
        ("redis", "8.2.1", True),
        ("valkey", "7.1.0", False),
        ("valkey", "7.2.4", True),
        ("dragonfly", "7.4.0", True),
    ],
)
async def test_the_oldest_servers(
    pretend: Pretend, open_link: OpenLink, kind: str, version: str, works_here: bool
) -> None:
    greeting = hello(kind=kind, version=version)
    url = await pretend(lambda words: greeting if words[0] == b"HELLO" else OK)
    if works_here:
        assert (await open_link(url)).is_connected
    else:
        with pytest.raises(ConfigurationError, match=version):
            await open_link(url)


async def test_a_server_that_knows_no_hello(pretend: Pretend, open_link: OpenLink) -> None:
    with pytest.raises(ConfigurationError):
        await open_link(await pretend(lambda _: b"-ERR unknown command 'HELLO'\r\n"))


async def test_a_replica_is_refused(own_server: OwnServer) -> None:
    server = own_server()
    with redis.Redis.from_url(server.url) as client:
        client.replicaof("127.0.0.1", "1")
    with pytest.raises(StoreUnavailableError, match="replica"):
        await Link(Topology.from_url(server.url), name="test").open(timeout=0.3)


async def test_a_replica_that_is_promoted_meanwhile_is_taken(own_server: OwnServer) -> None:
    server = own_server()
    link = Link(Topology.from_url(server.url), name="test")
    with redis.Redis.from_url(server.url) as client:
        client.replicaof("127.0.0.1", "1")
        opening = asyncio.create_task(link.open())
        await until(lambda: client.info("commandstats").get("cmdstat_hello"), "it was asked once")
        client.replicaof("NO", "ONE")
    await opening
    assert await link.send(command("SET", "k", "v")) == b"OK"
    await link.close()


async def test_a_demoted_master_is_left_until_it_is_promoted_again(own_server: OwnServer, open_link: OpenLink) -> None:
    server = own_server()
    link = await open_link(server.url)
    with redis.Redis.from_url(server.url) as client:
        client.replicaof("127.0.0.1", "1")
        with pytest.raises(StoreUnavailableError) as refused:
            await link.send(command("SET", "k", "v"))
        assert not refused.value.may_have_run
        await until(lambda: not link.is_connected, "the link has left")
        client.replicaof("NO", "ONE")
    assert await link.send(command("SET", "k", "v")) == b"OK"


async def test_a_server_that_loads_its_data_is_waited_for(pretend: Pretend, open_link: OpenLink) -> None:
    pings = 0

    def loading_at_first(words: list[bytes]) -> bytes:
        nonlocal pings
        pings += words[0] == b"PING"
        return b"-LOADING Redis is loading the dataset in memory\r\n" if pings in (1, 2) else polite(words)

    link = await open_link(await pretend(loading_at_first))
    assert await link.send(ECHO) == b"OK"


@pytest.mark.parametrize("word", ["BUSY", "OOM", "MISCONF", "NOREPLICAS", "CLUSTERDOWN", "LOADING", "MASTERDOWN"])
async def test_not_now_is_unavailability(pretend: Pretend, open_link: OpenLink, word: str) -> None:
    refusals = [f"-{word} not now\r\n".encode()]

    def once(words: list[bytes]) -> bytes:
        return refusals.pop() if words[0] == b"GET" and refusals else polite(words)

    link = await open_link(await pretend(once))
    with pytest.raises(StoreUnavailableError) as refused:
        await link.send(command("GET", "k", repeatable=True))
    assert not refused.value.may_have_run
    assert await link.send(command("GET", "k", repeatable=True)) == b"OK"


async def test_a_server_that_has_no_place_left_may_have_one_later(pretend: Pretend, open_link: OpenLink) -> None:
    """A fleet that starts at once must not take it for a wrong setting and give up."""
    refusals = [b"-ERR max number of clients reached\r\n"] * 2

    def crowded(words: list[bytes]) -> bytes:
        return refusals.pop() if words[0] == b"HELLO" and refusals else polite(words)

    assert (await open_link(await pretend(crowded))).is_connected


# Servers that are none


@pytest.mark.parametrize(
    "garbage",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+OK\r\n", b":1\r\n", b"$-1\r\n", b"*0\r\n", b"%0\r\n", b"\x00\xff\x00\xff"],
)
async def test_what_is_no_redis_is_refused_with_a_sentence(pretend: Pretend, garbage: bytes) -> None:
    link = Link(Topology.from_url(await pretend(lambda _: garbage)), name="test")
    with pytest.raises(BrokerError) as refused:
        await link.open(timeout=0.2)
    assert "127.0.0.1" in str(refused.value)


@pytest.mark.parametrize("garbage", [b"!!garbage\r\n", b"\x00\x01\x02", b"HTTP/1.1 500\r\n", b"*99999999999999\r\n"])
async def test_garbage_in_between_costs_a_reconnect(proxy: Proxy, open_link: OpenLink, garbage: bytes) -> None:
    link = await open_link(proxy.url)
    proxy.say(garbage)
    await until(lambda: link.connections_made == 2, "connected again")
    assert await works(link)


async def test_a_reply_that_nobody_asked_for_costs_a_reconnect(proxy: Proxy, open_link: OpenLink) -> None:
    """After it no reply could be trusted to be the right caller's."""
    heard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
    link = await open_link(proxy.url)
    proxy.say(b"+surplus\r\n")
    await until(lambda: link.connections_made == 2, "connected again")
    assert await works(link)
    assert heard == []


async def test_a_server_that_becomes_something_else_is_waited_for(pretend: Pretend, open_link: OpenLink) -> None:
    """Behind one address stands whatever a balancer or an operator puts there for a moment."""
    greetings = [b"+who are you\r\n", hello()]

    def changing(words: list[bytes]) -> bytes:
        return greetings.pop() if words[0] == b"HELLO" and greetings else polite(words)

    link = await open_link(await pretend(changing))
    link.drop("a test wants it")
    await until(lambda: link.connections_made == 2, "the link found its server again")


# The end


async def test_closing_fails_what_is_outstanding(proxy: Proxy, open_link: OpenLink) -> None:
    link = await open_link(proxy.url)
    proxy.freeze()
    written, queued = link.send(ECHO), link.send(command("INCR", "runs"))
    await until(lambda: len(proxy.received) > 1, "they are on their way")
    await link.close()
    for call in (written, queued):
        with pytest.raises(StoreUnavailableError):
            await call


async def test_a_closed_link_refuses_at_once(redis_url: str, open_link: OpenLink) -> None:
    link = await open_link(redis_url)
    await link.close()
    async with asyncio.timeout(2):
        with pytest.raises(StoreUnavailableError):
            await link.send(ECHO)


async def test_closing_leaves_no_connection(proxy: Proxy, open_link: OpenLink) -> None:
    link = await open_link(proxy.url)
    await link.close()
    await until(lambda: proxy.connections == 0, "the connection is gone")
    await link.close()


# Measures


async def test_replies_are_timed_by_sample(redis_url: str, open_link: OpenLink) -> None:
    link = await open_link(redis_url)
    assert link.outstanding == 0

    sent = [link.send(ECHO) for _ in range(link_module.MEASURED_ONE_IN * 4)]
    assert link.outstanding == len(sent)
    await asyncio.gather(*sent)

    assert link.outstanding == 0
    assert 3 <= sum(link.latency.counts) <= 5
    assert 0 < link.latency.sum_s < 5
    assert link.commands_unavailable == 0


@pytest.mark.usefixtures("quick")
async def test_commands_that_found_no_server_are_counted(proxy: Proxy, open_link: OpenLink) -> None:
    link = await open_link(proxy.url)
    await proxy.refuse()
    calls = [link.send(ECHO) for _ in range(3)]

    await asyncio.wait(calls)

    assert all(isinstance(call.exception(), StoreUnavailableError) for call in calls)
    assert link.commands_unavailable >= 3


class Broken:
    """A receiver with a defect."""

    is_abandoned = False

    def succeed(self, reply: object) -> None:
        raise ZeroDivisionError

    def fail(self, error: Exception) -> None:
        raise ZeroDivisionError


async def test_a_receiver_that_breaks_costs_nobody_the_connection(
    redis_url: str, open_link: OpenLink, caplog: pytest.LogCaptureFixture
) -> None:
    link = await open_link(redis_url)
    link.hand(command("ECHO", "x"), Broken())
    assert await link.send(command("ECHO", "y")) == b"y"
    assert link.connections_made == 1
    assert "could not be handled" in caplog.text


async def test_what_cannot_be_written_fails_its_own_command_only(redis_url: str, open_link: OpenLink) -> None:
    link = await open_link(redis_url)
    poisoned, fine = link.send(command("ECHO", "\ud800")), link.send(command("ECHO", "x"))
    assert await fine == b"x"
    with pytest.raises(StoreError, match="cannot be written"):
        await poisoned
