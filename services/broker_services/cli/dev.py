"""`broker dev`: a whole deployment in one terminal. A Redis server, two API instances, a worker, a demo repository."""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import os
import queue
import secrets
import shlex
import shutil
import signal
import socket
import string
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final, NamedTuple, TypeAlias

from broker.child_process import ChildProcess
from broker.errors import ConfigurationError
from broker.settings import ENVIRONMENT_PREFIX, Settings
from broker.store.embedded import EmbeddedServer, free_port

CLI: Final = (sys.executable, "-m", "broker_services.cli.main")
API_INSTANCES: Final = 2
PORT_MAX: Final = 65_535
READY_DEADLINE_S: Final = 30.0
READY_POLL_S: Final = 0.05
READY_ANSWER_S: Final = 2.0
# What a process gets beyond the time it allows itself, before it is killed.
STOP_MARGIN_S: Final = 3.0
RELAY_END_S: Final = 1.0  # for the last lines, unless a process that left its group still writes

DEMO_REPOSITORY: Final = "demo"
REDIS_PORT: Final = 8379
OWN_REDIS_URL: Final = f"redis://127.0.0.1:{REDIS_PORT}/0"
# No worker serves it, so a task of this queue is held until somebody finishes it by hand.
UNSERVED_QUEUE: Final = "approval"

REACHABLE_BY: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read, not bound

_output_lock = threading.Lock()


class Address(NamedTuple):
    """Where one API instance listens."""

    host: str
    port: int

    @property
    def reachable_host(self) -> str:
        """A host to connect to, also when it listens on all of them."""
        return REACHABLE_BY.get(self.host, self.host)

    @property
    def url(self) -> str:
        """What to type into a browser."""
        host = self.reachable_host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


class StopAsked(NamedTuple):
    """The user wants it to end."""


class Ended(NamedTuple):
    """A process ended that should not have."""

    name: str
    exit_code: int


Event: TypeAlias = StopAsked | Ended
# A SimpleQueue, since its put() may be called from a signal handler.
Events: TypeAlias = "queue.SimpleQueue[Event]"


def run(settings: Settings, *, host: str, port: int, data_folder: Path) -> int:
    """Runs everything until Ctrl-C, SIGTERM or the unexpected end of one of the processes.

    Args:
        settings: For all processes. The embedded server is used unless `redis_url` was given.
        host: Where the API instances listen.
        port: The first instance's port; the second one takes the next. 0: two free ones.
        data_folder: Keeps the server's data and the repositories between runs.

    Returns:
        The exit code: 0 when it was asked to stop, 1 when it could not start or something ended.
    """
    events: Events = queue.SimpleQueue()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a child may write what this terminal cannot show
    try:
        with _stop_signals(events), contextlib.ExitStack() as running:
            event = _serve(settings, _addresses(host, port), data_folder, events, running)
            _say(_farewell(event))
    except ConfigurationError as error:
        sys.stderr.write(f"broker dev: {error}\n")
        return 1
    return 0 if isinstance(event, StopAsked) else 1


def _serve(
    settings: Settings,
    addresses: Sequence[Address],
    data_folder: Path,
    events: Events,
    running: contextlib.ExitStack,
) -> Event:
    """Starts everything into `running`, which stops it in reverse order. Returns what ended it."""
    repositories = data_folder / "repositories"
    make_demo_repository(repositories / DEMO_REPOSITORY)
    redis_url = _redis_url(settings, data_folder / "server", events, running)
    children = running.enter_context(_Children(settings.drain_s + STOP_MARGIN_S, events))
    uploads = upload_url(settings, data_folder)
    environment = child_environment(settings, redis_url=redis_url, git_root=repositories, upload_url=uploads)
    for number, (address_host, address_port) in enumerate(addresses, start=1):
        command = (*CLI, "api", "--host", address_host, "--port", str(address_port))
        children.start(f"api-{number}", command, environment)
    children.start("worker", (*CLI, "worker"), environment)
    event = _wait_until_ready(addresses, events)
    if event is None:
        _say(what_to_try(addresses, data_folder, new_task_name(), redis_url))
        event = events.get()
    return event


def _farewell(event: Event) -> str:
    if isinstance(event, Ended):
        return f"\nbroker dev: {event.name} ended unexpectedly, with exit code {event.exit_code}. Stopping everything."
    return "\nbroker dev: stopping. (Again: at once.)"


# Before the start -----------------------------------------------------------------------------------------------------


def _addresses(host: str, port: int) -> list[Address]:
    addresses = [Address(host, port + number if port else free_port()) for number in range(API_INSTANCES)]
    for address in addresses:
        _check_free(address)
    return addresses


def _check_free(address: Address) -> None:
    if address.port > PORT_MAX:  # getaddrinfo would take it, modulo 2^16
        raise ConfigurationError(f"There is no port {address.port}: choose a lower one with --port.")
    try:
        family, kind, protocol, _, name = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # as the API does: closed connections don't count
            probe.bind(name)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(
                f"Port {address.port} is already in use: stop what listens there, or choose another pair of ports "
                f"with --port (it takes that one and the next)."
            ) from None
        raise ConfigurationError(f"Nothing can listen on {address.host}:{address.port}: {error.strerror}.") from None


def make_demo_repository(folder: Path) -> None:
    """Makes a git repository with one commit on `main`, unless it is there already.

    Raises:
        ConfigurationError: git is missing or fails; with its own words.
    """
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Made elsewhere, then moved: who is interrupted leaves no half of a repository.
    with tempfile.TemporaryDirectory(prefix=".demo-", dir=folder.parent) as name:
        draft = Path(name, DEMO_REPOSITORY)
        _git("init", "--quiet", "--template=", "--initial-branch=main", str(draft))
        Path(draft, "README.md").write_text("# demo\n\nThe worker of `broker dev` makes branches here.\n")
        _git("-C", str(draft), "add", "README.md")
        _git("-C", str(draft), "commit", "--quiet", "--no-verify", "--message", "First commit")
        draft.rename(folder)


def _git(*arguments: str) -> None:
    program = shutil.which("git")
    if program is None:
        raise ConfigurationError(
            "`broker dev` makes a git repository to show branches in, and there is no git: install it."
        )
    author = ("user.name=broker dev", "user.email=dev@localhost", "commit.gpgSign=false")
    options = [word for setting in author for word in ("-c", setting)]
    # GIT_DIR and its like, as set within a hook, would lead to another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = [program, *options, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)  # noqa: S603
    if done.returncode != 0:
        raise ConfigurationError(f"`{shlex.join(command)}` failed: {done.stderr.strip()}")


def _redis_url(settings: Settings, folder: Path, events: Events, running: contextlib.ExitStack) -> str:
    if redis_url_was_given(settings):
        return settings.redis_url
    server = _start_server(folder)
    running.callback(server.stop)
    _report_end("the Redis server", server.process, events)
    return server.url


def _start_server(folder: Path) -> EmbeddedServer:
    """On the same port at every start, so that other terminals may keep it; on another one where it is taken."""
    server = EmbeddedServer(folder, port=REDIS_PORT)
    try:
        server.start()
    except ConfigurationError:
        server = EmbeddedServer(folder)
        server.start()
    return server


def redis_url_was_given(settings: Settings) -> bool:
    """Whether the user named a server, by the environment or by a flag.

    The URL of this command's own server, kept in the environment from an earlier run, asks for that server again.
    """
    named = os.environ.get("BROKER_REDIS_URL")
    if OWN_REDIS_URL in (named, settings.redis_url):
        return False
    return bool(named) or settings.redis_url != Settings().redis_url


def upload_url(settings: Settings, data_folder: Path) -> str:
    """Where uploads go: beside everything else that is kept, unless the user named a place."""
    return (
        str(data_folder.absolute() / "uploads") if settings.upload_url == Settings().upload_url else settings.upload_url
    )


def child_environment(settings: Settings, *, redis_url: str, git_root: Path, upload_url: str) -> Mapping[str, str]:
    """This process's environment with every setting in it, flags of `broker dev` included.

    The URL goes this way too, and not as a flag: it may hold a password, and everybody can list processes.
    """
    given = {name: getattr(settings, name) for name in Settings.__struct_fields__}
    given.update(redis_url=redis_url, git_root=git_root.absolute(), upload_url=upload_url)
    variables = {ENVIRONMENT_PREFIX + name.upper(): str(value) for name, value in given.items() if value is not None}
    return {**os.environ, **variables, "PYTHONUNBUFFERED": "1"}


# While it runs --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _stop_signals(events: Events) -> Iterator[None]:
    """Ctrl-C and SIGTERM become an event; a second one ends this process at once, and with it all its children."""
    numbers = (signal.SIGINT, signal.SIGTERM)

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
        events.put(StopAsked())

    previous = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Children:
    """The API instances and the worker: started one by one, stopped together."""

    def __init__(self, stop_deadline_s: float, events: Events) -> None:
        self._stop_deadline_s = stop_deadline_s
        self._events = events
        self._children: list[ChildProcess] = []
        self._relays: list[threading.Thread] = []

    def __enter__(self) -> _Children:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + self._stop_deadline_s
        for child in self._children:
            child.stop(max(0.0, deadline - time.monotonic()))
        for relay in self._relays:
            relay.join(RELAY_END_S)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Starts one; its output appears here line by line, its end becomes an event."""
        child = ChildProcess(command, environment=environment, output=subprocess.PIPE, grace_s=self._stop_deadline_s)
        self._children.append(child)
        relay = threading.Thread(target=self._relay, args=(name, child), name=f"output of {name}", daemon=True)
        self._relays.append(relay)
        relay.start()

    def _relay(self, name: str, child: ChildProcess) -> None:
        with child.stdout as lines:
            try:
                for line in lines:
                    _say(f"{name:<6} | {line.decode(errors='replace').rstrip()}")
            except BrokenPipeError:  # nobody reads what this process writes
                self._events.put(StopAsked())
        self._events.put(Ended(name, child.wait()))


def _report_end(name: str, process: ChildProcess, events: Events) -> None:
    def report() -> None:
        events.put(Ended(name, process.wait()))

    threading.Thread(target=report, name=f"end of {name}", daemon=True).start()


def _wait_until_ready(addresses: Sequence[Address], events: Events) -> Event | None:
    """Returns None when every instance is ready, or what came first."""
    deadline = time.monotonic() + READY_DEADLINE_S
    waiting = list(addresses)
    while waiting:
        with contextlib.suppress(queue.Empty):
            return events.get(timeout=READY_POLL_S)
        if time.monotonic() > deadline:
            raise ConfigurationError(
                f"{waiting[0].url}/readyz did not answer 200 within {READY_DEADLINE_S:g} s. Its output above tells why."
            )
        waiting = [address for address in waiting if not _is_ready(address)]
    return None


def _is_ready(address: Address) -> bool:
    connection = http.client.HTTPConnection(address.reachable_host, address.port, timeout=READY_ANSWER_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _say(text: str) -> None:
    with _output_lock:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


# What to try ----------------------------------------------------------------------------------------------------------


def new_task_name() -> str:
    """Eight letters and digits. New each time, since a task of an earlier run has ended and would not be held."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(8))


def what_to_try(addresses: Sequence[Address], data_folder: Path, uuid: str, redis_url: str) -> str:
    """The greeting: what runs, and commands to copy."""
    first, second = (address.url for address in addresses)
    repository = shlex.quote(str(data_folder / "repositories" / DEMO_REPOSITORY))
    payload = '{"payload": {"repository": "demo", "branch": "feature-1"}}'
    return f"""
Ready: two API instances, {first} and {second}, and one worker. Documentation: {first}/docs
What they keep is in {data_folder}. Ctrl-C stops everything.
For the command `broker` in other terminals:  export BROKER_REDIS_URL={shlex.quote(redis_url)} BROKER_URL={first}

Make a branch, and look at it:

  curl -s -X POST {first}/createTask -H 'Content-Type: application/json' -d '{payload}'
  git -C {repository} branch

Hold a call on one instance until somebody finishes its task on the other (the queue {UNSERVED_QUEUE} has no worker):

  curl -s '{first}/createTask?uuid={uuid}&queue={UNSERVED_QUEUE}'

In a second terminal, finish it, and ask for it:

  curl -s '{second}/changeTaskState?uuid={uuid}&state=succeeded'
  curl -s '{first}/queryTaskState?uuid={uuid}'
"""
