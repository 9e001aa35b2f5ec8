"""`broker dev`: everything starts, everything is shown, and nothing is left behind, however it ends.

Most tests put a small program in the place of the API and the worker, to see what is asked of them; the last ones run
the real ones.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import redis

from broker.errors import ConfigurationError
from broker.settings import Settings
from broker.store.embedded import free_port
from broker_services.cli import dev
from tests.support.processes import wait_until, wait_until_gone
from tests.support.server import OwnServer

# Runs `broker dev` with what the test puts in the place of some of its parts.
RUN = """
import json, sys
from pathlib import Path
from broker.settings import Settings
from broker_services.cli import dev

port, folder, replaced = int(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
for name, value in replaced.items():
    setattr(dev, name, value)
settings = Settings.from_environment(drain_s=1.0)
sys.exit(dev.run(settings, host="127.0.0.1", port=port, data_folder=folder))
"""

# Stands for the API and the worker. BEHAVIOUR, by service: what it does otherwise.
STUB = """
import http.server, json, os, signal, sys

service = sys.argv[1]
behaviour = json.loads(os.environ.get("BEHAVIOUR", "{}")).get(service)
names = ["BROKER_REDIS_URL", "BROKER_GIT_ROOT", "BROKER_DRAIN_S"]
print(json.dumps({"pid": os.getpid(), "arguments": sys.argv[1:], **{name: os.environ[name] for name in names}}))
signal.signal(signal.SIGTERM, signal.SIG_IGN if behaviour == "deaf" else lambda *_: (print("bye"), os._exit(0)))

class Api(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" and behaviour != "never ready" else 503)
        self.end_headers()

    def log_message(self, *_):
        pass

if behaviour == "ends":
    sys.exit(5)
if service == "api":
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[5])), Api).serve_forever()
while True:
    signal.pause()
"""

READY = "Ctrl-C stops everything."


class Run:
    """A `broker dev` in a process of its own, and what it has written so far."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def output(self) -> str:
        """All of it, as one text."""
        return "".join(self.lines)

    @property
    def services(self) -> dict[str, dict[str, Any]]:
        """What each stub said about itself, by its name in the output."""
        said = [re.match(r"(\S+) +\| (\{.*\})", line) for line in self.lines]
        return {match[1]: json.loads(match[2]) for match in said if match}

    def wait_for(self, text: str) -> None:
        """Waits until that was written; fails when it ends without."""
        wait_until(lambda: text in self.output or not self._reader.is_alive(), f"{text!r} in the output")
        assert text in self.output, self.output

    def end(self) -> int:
        """Waits for the end and returns the exit code."""
        exit_code = self.process.wait(30)
        self._reader.join(30)
        return exit_code

    def close(self) -> None:
        """Ends what still runs."""
        self.process.kill()
        self.end()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            self.lines.extend(output)


Runner = Callable[..., Run]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment that names no server."""
    monkeypatch.delenv("BROKER_REDIS_URL", raising=False)
    return dict(os.environ)


@pytest.fixture
def port() -> int:
    """A free port with a free one after it."""
    return next(port for port in iter(free_port, 0) if is_free(port + 1))


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """The program that stands for the services."""
    program = tmp_path / "stub.py"
    program.write_text(STUB)
    return program


@pytest.fixture
def run(tmp_path: Path, port: int, stub: Path, environment: dict[str, str]) -> Iterator[Runner]:
    """Starts `broker dev` with stubs; its data is in `tmp_path / "data"`."""
    with ExitStack() as stack:

        def start(*, behaviour: dict[str, str] | None = None, variables: dict[str, str] | None = None) -> Run:
            replaced = json.dumps({"CLI": [sys.executable, str(stub)], "STOP_MARGIN_S": 0.2})
            command = [sys.executable, "-c", RUN, str(port), str(tmp_path / "data"), replaced]
            extra = {"BEHAVIOUR": json.dumps(behaviour or {}), **(variables or {})}
            started = Run(command, environment | extra)
            stack.callback(started.close)
            return started

        yield start


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def server_pid(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        information = client.info("server")
    assert isinstance(information, dict)
    return int(information["process_id"])


def all_pids(run: Run) -> list[int]:
    services = run.services
    return [server_pid(services["worker"]["BROKER_REDIS_URL"]), *(service["pid"] for service in services.values())]


def started(run: Run) -> list[int]:
    """Waits until everything runs and has said so. Returns all process ids."""
    run.wait_for(READY)
    wait_until(lambda: len(run.services) == 3, "a line from each service")
    return all_pids(run)


# With stubs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_runs_until_it_is_asked_to_stop(run: Runner, number: signal.Signals) -> None:
    running = run()
    pids = started(running)
    running.process.send_signal(number)
    assert running.end() == 0
    wait_until_gone(*pids)
    assert running.output.count("| bye") == 3
    assert "unexpectedly" not in running.output


def test_each_service_is_told_what_it_needs(run: Runner, port: int, tmp_path: Path) -> None:
    running = run()
    started(running)
    services = running.services
    assert services["api-1"]["arguments"] == ["api", "--host", "127.0.0.1", "--port", str(port)]
    assert services["api-2"]["arguments"] == ["api", "--host", "127.0.0.1", "--port", str(port + 1)]
    assert services["worker"]["arguments"] == ["worker"]
    assert len({service["BROKER_REDIS_URL"] for service in services.values()}) == 1
    assert {service["BROKER_GIT_ROOT"] for service in services.values()} == {str(tmp_path / "data" / "repositories")}
    assert {service["BROKER_DRAIN_S"] for service in services.values()} == {"1.0"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_nothing_is_left_when_it_is_killed(run: Runner, number: signal.Signals) -> None:
    running = run()
    pids = started(running)
    running.process.send_signal(number)
    wait_until_gone(*pids)


def test_a_service_that_does_not_stop_is_killed(run: Runner) -> None:
    running = run(behaviour={"worker": "deaf"})
    pids = started(running)
    running.process.send_signal(signal.SIGTERM)
    assert running.end() == 0
    wait_until_gone(*pids)


def test_a_second_ctrl_c_ends_it_at_once(run: Runner) -> None:
    running = run(behaviour={"worker": "deaf"})
    pids = started(running)
    running.process.send_signal(signal.SIGINT)
    running.wait_for("stopping.")
    running.process.send_signal(signal.SIGINT)
    assert running.end() == -signal.SIGINT
    wait_until_gone(*pids)


def test_the_end_of_a_service_ends_everything(run: Runner) -> None:
    running = run()
    pids = started(running)
    os.kill(running.services["api-2"]["pid"], signal.SIGKILL)
    assert running.end() == 1
    assert "api-2 ended unexpectedly, with exit code -9. Stopping everything." in running.output
    wait_until_gone(*pids)


def test_the_end_of_the_server_ends_everything(run: Runner) -> None:
    running = run()
    server, *others = started(running)
    os.kill(server, signal.SIGKILL)
    assert running.end() == 1
    assert "the Redis server ended unexpectedly, with exit code -9." in running.output
    wait_until_gone(*others)


def test_data_and_repositories_are_kept_between_runs(run: Runner, tmp_path: Path) -> None:
    for expected in (None, b"kept"):
        running = run()
        started(running)
        with redis.Redis.from_url(running.services["worker"]["BROKER_REDIS_URL"]) as client:
            assert client.get("key") == expected
            client.set("key", "kept")
        running.process.send_signal(signal.SIGTERM)
        assert running.end() == 0
    branches = subprocess.run(
        ["git", "-C", tmp_path / "data" / "repositories" / "demo", "log", "--format=%D %s"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert branches.stdout == "HEAD -> main First commit\n"


def test_a_server_that_was_given_is_used(run: Runner, own_server: OwnServer, tmp_path: Path) -> None:
    server = own_server()
    running = run(variables={"BROKER_REDIS_URL": server.url})
    started(running)
    assert running.services["api-1"]["BROKER_REDIS_URL"] == server.url
    assert not (tmp_path / "data" / "server").exists()
    running.process.send_signal(signal.SIGTERM)
    assert running.end() == 0
    assert server.running


def test_two_of_them_do_not_share_a_folder(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running = run()
    started(running)
    monkeypatch.setattr("broker.store.embedded.LOCK_DEADLINE_S", 0.02)
    assert dev.run(Settings(), host="127.0.0.1", port=0, data_folder=tmp_path / "data") == 1
    assert capsys.readouterr().err.startswith("broker dev: Another server keeps its data in")


# In this process ------------------------------------------------------------------------------------------------------


@pytest.fixture
def stubbed(
    monkeypatch: pytest.MonkeyPatch, stub: Path, environment: dict[str, str]
) -> Callable[[dict[str, str]], None]:
    """Puts stubs of that behaviour in the place of the services of a `dev.run` in this process."""

    def put(behaviour: dict[str, str]) -> None:
        monkeypatch.setattr(dev, "CLI", (sys.executable, str(stub)))
        monkeypatch.setenv("BEHAVIOUR", json.dumps(behaviour))

    return put


def test_a_worker_that_cannot_start_is_told(
    stubbed: Callable[[dict[str, str]], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stubbed({"worker": "ends"})
    assert dev.run(Settings(), host="127.0.0.1", port=0, data_folder=tmp_path / "data") == 1
    assert "worker ended unexpectedly, with exit code 5. Stopping everything." in capsys.readouterr().out


def test_an_instance_that_never_gets_ready_is_told(
    stubbed: Callable[[dict[str, str]], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stubbed({"api": "never ready"})
    monkeypatch.setattr(dev, "READY_DEADLINE_S", 0.3)
    assert dev.run(Settings(), host="127.0.0.1", port=0, data_folder=tmp_path / "data") == 1
    assert re.search(r"broker dev: http://127\.0\.0\.1:\d+/readyz did not answer 200", capsys.readouterr().err)


@pytest.mark.parametrize("second", [False, True])
def test_a_taken_port_is_told_before_anything_starts(
    port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], second: bool
) -> None:
    taken = port + second
    with socket.create_server(("127.0.0.1", taken)):
        assert dev.run(Settings(), host="127.0.0.1", port=port, data_folder=tmp_path / "data") == 1
    message = capsys.readouterr().err
    assert message.startswith(f"broker dev: Port {taken} is already in use: stop what listens there, or choose")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("127.0.0.1", 65_535, "There is no port 65536"),
        ("192.0.2.1", 9_000, r"Nothing can listen on 192\.0\.2\.1:9000"),
    ],
)
def test_an_impossible_address_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str, port: int, message: str
) -> None:
    assert dev.run(Settings(), host=host, port=port, data_folder=tmp_path) == 1
    assert re.match(f"broker dev: {message}", capsys.readouterr().err)


def test_an_instance_on_every_address_is_reached_on_the_loopback() -> None:
    assert dev.Address("0.0.0.0", 80).url == "http://127.0.0.1:80"
    assert dev.Address("::", 80).url == "http://[::1]:80"
    assert dev.Address("::1", 80).url == "http://[::1]:80"
    assert dev.Address("localhost", 80).url == "http://localhost:80"


def test_the_demo_repository_is_not_the_one_that_git_variables_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "another"))
    dev.make_demo_repository(tmp_path / "demo")
    assert (tmp_path / "demo" / ".git" / "HEAD").read_text() == "ref: refs/heads/main\n"
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_git_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="there is no git: install it"):
        dev.make_demo_repository(tmp_path / "demo")


def test_what_git_says_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = tmp_path / "git"
    git.write_text("#!/bin/sh\necho 'fatal: no' >&2\nexit 128\n")
    git.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="fatal: no"):
        dev.make_demo_repository(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


def test_a_url_counts_as_given_in_the_environment_or_as_a_flag(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    assert not dev.redis_url_was_given(Settings())
    assert dev.redis_url_was_given(Settings(redis_url="redis://elsewhere/0"))
    monkeypatch.setenv("BROKER_REDIS_URL", Settings().redis_url)
    assert dev.redis_url_was_given(Settings())
    monkeypatch.setenv("BROKER_REDIS_URL", dev.OWN_REDIS_URL)
    assert not dev.redis_url_was_given(Settings(redis_url=dev.OWN_REDIS_URL))


def test_every_setting_reaches_the_children_unchanged(tmp_path: Path) -> None:
    settings = Settings(lease_s=12.5, finished_max=7, get_writes="off")
    variables = dev.child_environment(settings, redis_url="redis://here/0", git_root=tmp_path, upload_url="s3://bucket")
    read = Settings.from_environment(variables)
    assert read == msgspec.structs.replace(
        settings, redis_url="redis://here/0", git_root=str(tmp_path), upload_url="s3://bucket"
    )


def test_uploads_are_kept_with_the_rest_unless_the_user_names_a_place(tmp_path: Path) -> None:
    assert dev.upload_url(Settings(), tmp_path) == str(tmp_path / "uploads")
    assert dev.upload_url(Settings(upload_url="s3://bucket"), tmp_path) == "s3://bucket"


def test_commands_can_be_copied_even_from_a_folder_with_a_space() -> None:
    addresses = [dev.Address("127.0.0.1", 8080), dev.Address("127.0.0.1", 8081)]
    text = dev.what_to_try(addresses, Path("my data"), "084Tkjfh", "redis://127.0.0.1:8379/0")
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("  ")]
    assert [command[0] for command in commands] == ["curl", "git", "curl", "curl", "curl"]
    assert json.loads(commands[0][-1]) == {"payload": {"repository": "demo", "branch": "feature-1"}}
    assert commands[1][2] == "my data/repositories/demo"
    assert commands[2][-1] == "http://127.0.0.1:8080/createTask?uuid=084Tkjfh&queue=approval"
    assert commands[3][-1] == "http://127.0.0.1:8081/changeTaskState?uuid=084Tkjfh&state=succeeded"
    assert commands[4][-1] == "http://127.0.0.1:8080/queryTaskState?uuid=084Tkjfh"


# With the real services -----------------------------------------------------------------------------------------------


@pytest.fixture
def real(tmp_path: Path, port: int, environment: dict[str, str]) -> Iterator[Run]:
    """The real command."""
    arguments = ["dev", "--port", str(port), "--data-folder", str(tmp_path / "data")]
    running = Run([*dev.CLI, *arguments], environment)
    try:
        running.wait_for(READY)
        yield running
    finally:
        running.close()


def printed_commands(run: Run) -> list[list[str]]:
    """What it tells the user to try, word by word."""
    run.wait_for("queryTaskState")
    return [shlex.split(line) for line in run.lines if line.startswith(("  curl", "  git"))]


def test_what_it_tells_to_try_works(real: Run) -> None:
    make, look, hold, finish, ask = printed_commands(real)
    with httpx.Client(timeout=30) as client:
        made = client.post(make[4], content=make[-1], headers={"Content-Type": "application/json"})
        assert made.status_code == 200, made.text
        assert made.json()["state"] == "succeeded"
        branches = subprocess.run(look, capture_output=True, text=True, check=True)
        assert branches.stdout.split() == ["feature-1", "*", "main"]

        answers: list[httpx.Response] = []
        caller = threading.Thread(target=lambda: answers.append(httpx.get(hold[-1], timeout=30)))
        caller.start()
        wait_until(lambda: client.get(ask[-1]).status_code == 200, "the task is known")
        assert not answers
        finished = client.get(finish[-1])
        caller.join(30)
        assert finished.json()["changed"] is True
        assert answers[0].json()["state"] == "succeeded"
        assert client.get(ask[-1]).json()["state"] == "succeeded"


def test_the_real_services_stop_when_asked(real: Run, port: int) -> None:
    real.process.send_signal(signal.SIGINT)
    assert real.end() == 0
    assert is_free(port)
    assert is_free(port + 1)


def test_the_real_services_end_when_it_is_killed(real: Run, port: int) -> None:
    real.process.kill()
    wait_until(lambda: is_free(port) and is_free(port + 1), "both instances are gone")
